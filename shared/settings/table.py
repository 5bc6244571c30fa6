"""The settings themselves, one field each with its default and its line of documentation; reads nothing."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any

from shared.errors import ConfigurationError
from shared.settings.entries import PreemptRule, absolute_folder, host_and_port, listed, tracker

PREFIX = "HELIU_"


def setting(default: Any = MISSING, *, doc: str) -> Any:
    """A setting with its line of documentation (shown by `heliu doctor` and in `.env.example`)."""
    if default is MISSING:
        return field(metadata={"doc": doc})
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True)
class Settings:
    """One field a setting: `database_url` is read from `HELIU_DATABASE_URL`, and so on."""

    home: Path = setting(Path(".heliu"), doc="folder of all local state")
    database_url: str = setting("", doc="Postgres 15 or newer, e.g. postgresql://user:pw@host/heliu")
    redis_url: str = setting(
        "", doc="Redis or Valkey with maxmemory-policy noeviction, e.g. redis://:pw@host:6379/0"
    )
    artifacts: str = setting(
        "",
        doc="folder of the artifact store, or s3://BUCKET/PREFIX for a bucket; HELIU_HOME/artifacts by default. All "
        "processes share it",
    )
    s3_endpoint: str = setting(
        "", doc="address of a server that speaks S3, e.g. http://minio:9000; empty is AWS itself"
    )
    s3_region: str = setting("", doc="region of the bucket; empty takes AWS_REGION's, or us-east-1")
    s3_access_key_id: str = setting(
        "", doc="key of the bucket; empty asks AWS's own chain: environment, profile, role of the machine"
    )
    s3_secret_access_key: str = setting("", doc="the secret of that key")
    cache_bytes: int = setting(
        64 * 1024**3,
        doc="bytes of HELIU_HOME/cache, where objects of a bucket are kept: the longest unused go first, but nothing "
        "that was asked for in the last six hours",
    )
    scratch: str = setting(
        "",
        doc="folder, shared by all machines, for what the workers of one build and the gateways of one upload hand "
        "each other; the artifact folder by default. With a bucket and without it a build is one worker's, and an "
        "upload in parts one gateway's",
    )
    gateway_host: str = setting("127.0.0.1", doc="address that the gateway binds to")
    gateway_port: int = setting(8000, doc="port of the gateway")
    gateway_url: str = setting("", doc="address at which clients reach the gateway (the CLI reads it)")
    api_key: str = setting("", doc="API key that the CLI uses instead of the one in HELIU_HOME/keys")
    auth: str = setting("on", doc="'off' lets anybody on this machine in; only with a loopback gateway_host")
    key_pepper: str = setting(
        "", doc="secret that API keys are hashed with; made once in HELIU_HOME by default"
    )
    secret_key: str = setting(
        "",
        doc="secret that credentials at rest are sealed with, 16 characters or more; made once in HELIU_HOME by "
        "default. To change it put the new one in front of the old with a comma between, run `heliu sources reseal`, "
        "drop the old",
    )
    pool: str = setting("default", doc="pool that this worker belongs to")
    worker_index: int = setting(0, doc="number of this worker among its alikes on this machine")
    worker_name: str = setting("", doc="stable name of this worker; service.pool.host.index by default")
    slots: int = setting(
        0, doc="jobs or live requests this worker runs at once; 0 takes the service's default"
    )
    ready_file: str = setting("", doc="file that a process creates when it is ready")
    log_level: str = setting("INFO", doc="DEBUG, INFO, WARNING or ERROR")
    lease_seconds: float = setting(60.0, doc="how long a claim holds without a renewal")
    heartbeat_seconds: float = setting(15.0, doc="how often claims are renewed")
    preempt: str = setting(
        "",
        doc="queues of training that give way to live requests on the same machines, with commas between: "
        "training.POOL:inference.POOL; empty turns it off",
    )
    preempt_waiting: int = setting(8, doc="live requests in line that make a peak")
    preempt_seconds: float = setting(
        5.0, doc="how long they must be, and how long between one job and the next"
    )
    preempt_calm_seconds: float = setting(
        60.0, doc="how long no live request must have waited until training comes back"
    )
    poll_seconds: float = setting(0.1, doc="how often the dispatcher looks for eligible jobs")
    drain_seconds: float = setting(30.0, doc="how long a stopping worker lets jobs reach a checkpoint")
    max_upload_bytes: int = setting(512 * 1024 * 1024, doc="largest upload")
    max_model_bytes: int = setting(64 * 1024**3, doc="largest model that is taken in, all its files together")
    max_body_bytes: int = setting(4 * 1024 * 1024, doc="largest JSON body of a request")
    body_silence_seconds: float = setting(
        30.0, doc="a request or upload that stops coming for so long gets a 408"
    )
    requests_per_minute: int = setting(6000, doc="default rate limit of a key")
    live_deadline_seconds: float = setting(
        60.0, doc="a live request not accepted by a worker by then gets a 503"
    )
    live_silence_seconds: float = setting(
        5.0, doc="silence of a worker before the first token that means one retry"
    )
    resume_seconds: float = setting(
        60.0, doc="how long a resumable stream whose client has gone is still made, and kept for it"
    )
    stored_chat_days: float = setting(
        30.0,
        doc="days after which a chat that was stored with store=true is dropped; 0 keeps it until it is deleted",
    )
    otlp_endpoint: str = setting(
        "", doc="OTLP/HTTP collector, e.g. http://jaeger:4318; the built-in receiver otherwise"
    )
    otlp_token: str = setting("", doc="bearer token of the built-in OTLP receiver")
    otlp_port: int = setting(0, doc="port of the built-in OTLP receiver; 0 takes a free one")
    jaeger_url: str = setting("", doc="address of Jaeger's UI, for links")
    trace_sample_ratio: float = setting(1.0, doc="share of live requests that are traced; jobs always are")
    trace_retention_hours: float = setting(72.0, doc="how long the built-in receiver keeps spans")
    alert_rules: str = setting("", doc="YAML or JSON file that changes thresholds of alerts")
    metrics_host: str = setting("127.0.0.1", doc="address that each process serves /metrics on")
    metrics_port: int = setting(0, doc="port of a process's /metrics; 0 takes a free one")
    threads: int = setting(0, doc="CPU threads of a trainer or engine; 0 takes what torch would")
    engine_slots: int = setting(16, doc="sequences that an engine decodes at once")
    device: str = setting(
        "auto", doc="where an engine computes: cpu, cuda, or auto for a GPU if there is one"
    )
    dtype: str = setting(
        "auto",
        doc="what an engine computes in: float32, bfloat16, float16, or auto for bfloat16 on a GPU and float32 without",
    )
    engine_kv_tokens: int = setting(65536, doc="tokens of KV cache of one engine")
    engine_kv_share: float = setting(
        0.4,
        doc="share of the GPU memory that is free once a base is loaded for its KV cache, instead of "
        "engine_kv_tokens; 0 keeps to those, as does a CPU",
    )
    engine_max_models: int = setting(2, doc="base models that an engine holds at once")
    engine_max_model_bytes: int = setting(
        0,
        doc="bytes of bases and encoders that an engine holds at once; 0 is no limit beside their number, and nine "
        "tenths of a GPU's memory",
    )
    engine_max_encoders: int = setting(
        2, doc="sentence encoders that an engine holds at once beside the bases"
    )
    models: str = setting(
        "", doc="names of the bases that this worker serves, with commas between; empty serves any"
    )
    hub_url: str = setting(
        "",
        doc="address of the Hugging Face Hub or a mirror of it, https only, that models may be imported from; "
        "empty forbids it",
    )
    hub_token: str = setting("", doc="access token for hub_url, sent to no other host")
    hub_allow_private: bool = setting(False, doc="let hub_url and what it points to have private addresses")
    upstream_hosts: str = setting(
        "",
        doc="hosts of your own cluster that upstream models may stand on though their addresses are private or they "
        "speak plain http: HOST or HOST:PORT, with commas between",
    )
    upstream_slots: int = setting(
        32, doc="requests that a worker has in one upstream at once; batches take 3/4"
    )
    upstream_silence_seconds: float = setting(
        120.0, doc="silence of an upstream after which its answer counts as lost"
    )
    source_hosts: str = setting(
        "",
        doc="hosts of your own network that sources may stand on though their addresses are private or they speak "
        "without TLS: HOST or HOST:PORT, with commas between",
    )
    source_folders: str = setting(
        "",
        doc="folders that sources of every tenant may read files and SQLite databases from, with commas between",
    )
    shard_rows: int = setting(64, doc="rows of a batch shard")
    eval_python: bool = setting(
        False,
        doc="let tenants grade by Python of their own: it runs on training workers in a process without files, "
        "network or secrets, by the kernel's Landlock and limits, which is no virtual machine",
    )
    build_part_bytes: int = setting(
        8 * 1024 * 1024, doc="bytes of its sources that one part of a dataset build reads"
    )
    ray_address: str = setting(
        "",
        doc="Ray cluster that runs the parts of dataset builds in the place of data workers: its address, `auto`, or "
        "`local` for one on this machine; its nodes share the artifact store's folder and have ray and heliu[data]",
    )
    trackers: str = setting(
        "",
        doc="trackers that training runs are told to beside the platform's own curves: mlflow, wandb, with commas "
        "between. Their packages must be on the training workers, whose environment holds their own settings "
        "(MLFLOW_TRACKING_URI, WANDB_API_KEY, ...); runs of every tenant go there",
    )
    webhook_allow_private: bool = setting(False, doc="let webhooks go to private and loopback addresses")
    webhook_timeout_seconds: float = setting(10.0, doc="time limit of one webhook delivery")
    test_faults: bool = setting(False, doc="enable the no-op jobs that tests and benchmarks submit")

    @property
    def served_models(self) -> tuple[str, ...]:
        """The bases that HELIU_MODELS names; none means any."""
        return tuple(dict.fromkeys(listed(self.models)))

    @property
    def allowed_upstreams(self) -> tuple[tuple[str, int], ...]:
        """Host and port of each entry of HELIU_UPSTREAM_HOSTS; port 0 is any. Raises ConfigurationError."""
        return tuple(host_and_port(entry, "HELIU_UPSTREAM_HOSTS") for entry in listed(self.upstream_hosts))

    @property
    def allowed_sources(self) -> tuple[tuple[str, int], ...]:
        """The same of HELIU_SOURCE_HOSTS."""
        return tuple(host_and_port(entry, "HELIU_SOURCE_HOSTS") for entry in listed(self.source_hosts))

    @property
    def allowed_folders(self) -> tuple[Path, ...]:
        """The folders of HELIU_SOURCE_FOLDERS. Raises ConfigurationError for one that is not absolute."""
        return tuple(absolute_folder(entry, "HELIU_SOURCE_FOLDERS") for entry in listed(self.source_folders))

    @property
    def wanted_trackers(self) -> tuple[str, ...]:
        """The trackers of HELIU_TRACKERS. Raises ConfigurationError for one that is not known."""
        return tuple(dict.fromkeys(tracker(entry) for entry in listed(self.trackers)))

    @property
    def secret_keys(self) -> tuple[str, ...]:
        """The secrets of HELIU_SECRET_KEY, the one that seals first; none where the file in HELIU_HOME counts."""
        return tuple(listed(self.secret_key))

    @property
    def preempt_rules(self) -> tuple[PreemptRule, ...]:
        """The entries of HELIU_PREEMPT. Raises ConfigurationError."""
        return tuple(dict.fromkeys(PreemptRule.parse(entry) for entry in listed(self.preempt)))

    @property
    def artifacts_in_s3(self) -> bool:
        return self.artifacts.startswith("s3://")

    @property
    def scratch_folder(self) -> Path | None:
        """The folder of HELIU_SCRATCH; None where it is not set."""
        return Path(self.scratch) if self.scratch else None

    @property
    def artifact_folder(self) -> Path:
        return Path(self.artifacts) if self.artifacts else self.home / "artifacts"

    def require(self, *names: str) -> None:
        """Raise ConfigurationError naming every setting in `names` that is empty."""
        missing = [f"{PREFIX}{name.upper()}" for name in names if getattr(self, name) in ("", None)]
        if missing:
            raise ConfigurationError(f"missing setting: {', '.join(missing)}")
