"""The compose file, images, manifests and `.env.example`, held against the code. No container engine is needed."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import env_example
from services.monitoring.receiver import MAX_UNPACKED, PATH
from shared.contracts.registry import CALLS, JOBS
from shared.settings import PREFIX, Settings, is_loopback, read_settings

ROOT = Path(__file__).parents[3]
KNOWN = {f"{PREFIX}{field.name.upper()}" for field in fields(Settings)}
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: one for name, one in SERVICES.items() if one["image"].startswith("heliu-")}
MANIFESTS = [
    document
    for path in sorted((ROOT / "deploy/kubernetes").glob("*.yml"))
    for document in yaml.safe_load_all(path.read_text())
]
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()


def modules(command: list[str]) -> list[str]:
    """The modules that a command runs."""
    return re.findall(r"-m,? (\w+(?:\.\w+)+)", " ".join(command))


def interpolated(value: str) -> str:
    """As compose would with every secret set."""
    secret = "a-secret-of-32-characters-or-more"
    return re.sub(
        r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)?\}", lambda m: m[2] if m[2] is not None else secret, value
    )


def manifests(kind: str) -> Iterator[dict[str, Any]]:
    return (one for one in MANIFESTS if one["kind"] == kind)


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for one in (*manifests("Deployment"), *manifests("Job")):
        yield one["metadata"]["name"], one["spec"]["template"]["spec"]


# --- docker-compose.yml


@pytest.mark.parametrize("name", OURS)
def test_every_process_gets_settings_that_the_platform_takes(name: str) -> None:
    environ = {key: interpolated(str(value)) for key, value in OURS[name]["environment"].items()}
    assert set(environ) <= KNOWN
    settings = read_settings(environ)
    settings.require("database_url", "redis_url", "otlp_endpoint", "otlp_token", "ready_file")
    assert settings.auth == "on"


@pytest.mark.parametrize("name", OURS)
def test_every_process_is_a_module_that_exists(name: str) -> None:
    found = modules(OURS[name]["command"])
    assert found
    assert all(find_spec(module) is not None for module in found)


def test_every_service_of_the_tree_runs_in_both_ways() -> None:
    workers = {path.parent.name for path in (ROOT / "services").glob("*/main.py")} - {"cli"}
    for profile in ("cpu", "gpu"):
        running = {
            module.split(".")[1]
            for one in OURS.values()
            if profile in one.get("profiles", [profile])
            for module in modules(one["command"])
            if module.startswith("services.")
        }
        assert running == workers


def test_whatever_is_waited_for_is_a_service_that_can_tell() -> None:
    for name, one in SERVICES.items():
        for needed, how in one.get("depends_on", {}).items():
            assert needed in SERVICES, f"{name} waits for {needed}"
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[needed], f"{needed} has no healthcheck"


def test_nothing_of_ours_starts_before_the_migrations_are_done() -> None:
    for name, one in OURS.items():
        if name != "migrate":
            assert one["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    assert modules(SERVICES["migrate"]["command"]) == ["shared.migrate", "shared.bootstrap"]


def test_every_lasting_process_has_a_health_check_and_time_to_drain() -> None:
    for name, one in OURS.items():
        if name != "migrate":
            assert one["healthcheck"]["test"]
            assert int(one["stop_grace_period"].removesuffix("s")) > Settings().drain_seconds


def test_ports_are_published_on_this_machine_alone_by_default() -> None:
    published = [interpolated(port) for one in SERVICES.values() for port in one.get("ports", [])]
    assert len(published) == 2
    assert all(is_loopback(port.rsplit(":", 2)[0]) for port in published)


def test_secrets_are_asked_for_and_never_written_down() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for secret in ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "HELIU_OTLP_TOKEN"):
        assert re.search(rf"\$\{{{secret}:\?", text), f"{secret} may be empty"
    assert all(one["env_file"] == ".env" for one in OURS.values())


def test_redis_evicts_nothing_and_has_a_password() -> None:
    command = " ".join(SERVICES["valkey"]["command"])
    assert "--maxmemory-policy noeviction" in command
    assert "--requirepass" in command


def test_only_what_needs_them_sees_the_keys() -> None:
    holders = {
        name for name, one in SERVICES.items() if any("keys" in volume for volume in one.get("volumes", []))
    }
    assert holders == {"migrate", "gateway"}
    named = {volume.split(":")[0] for one in SERVICES.values() for volume in one.get("volumes", [])}
    assert {name for name in named if not name.startswith(".")} == set(COMPOSE["volumes"])


def test_only_training_and_inference_carry_torch_and_the_gpu() -> None:
    heavy = {name for name, one in OURS.items() if one["image"] == "heliu-models"}
    assert heavy == {"training", "inference", "training-gpu", "inference-gpu"}
    assert {name for name, one in OURS.items() if one["image"] == "heliu-data"} == {"data_governance"}
    assert {name for name, one in SERVICES.items() if "deploy" in one} == {"training-gpu", "inference-gpu"}
    assert all(SERVICES[name]["profiles"] == ["gpu"] for name in ("training-gpu", "inference-gpu"))


def test_processes_cannot_gain_privileges() -> None:
    for one in OURS.values():
        assert one["cap_drop"] == ["ALL"]
        assert one["security_opt"] == ["no-new-privileges:true"]


# --- Jaeger and the collector


def test_jaeger_takes_otlp_and_hands_a_copy_to_the_receiver_with_its_token() -> None:
    config = yaml.safe_load((ROOT / "deploy/jaeger/config.yml").read_text())
    pipeline = config["service"]["pipelines"]["traces"]
    for part in ("receivers", "processors", "exporters"):
        assert set(pipeline[part]) <= set(config[part])
    assert set(config["service"]["extensions"]) == set(config["extensions"])
    endpoint = read_settings(
        {"HELIU_OTLP_ENDPOINT": interpolated(OURS["gateway"]["environment"]["HELIU_OTLP_ENDPOINT"])}
    )
    port = config["receivers"]["otlp"]["protocols"]["http"]["endpoint"].rpartition(":")[2]
    assert endpoint.otlp_endpoint == f"http://jaeger:{port}"
    copy = config["exporters"]["otlphttp"]
    assert copy["endpoint"] == f"http://monitoring:{OURS['monitoring']['environment']['HELIU_OTLP_PORT']}"
    assert copy["headers"]["authorization"] == "Bearer ${env:HELIU_OTLP_TOKEN}"
    assert "HELIU_OTLP_TOKEN" in SERVICES["jaeger"]["environment"]
    # The exporter appends the path that the receiver serves.
    assert PATH == "/v1/traces"
    assert config["processors"]["batch"]["send_batch_max_size"] * 16 * 1024 < MAX_UNPACKED
    assert SERVICES["jaeger"]["image"].startswith("jaegertracing/jaeger:2.")


def test_the_collector_names_only_parts_that_it_has() -> None:
    config = yaml.safe_load((ROOT / "deploy/otel-collector.yml").read_text())
    for pipeline in config["service"]["pipelines"].values():
        for part in ("receivers", "processors", "exporters"):
            assert set(pipeline[part]) == set(config[part])


# --- the images


def test_the_images_run_as_an_ordinary_user_and_only_one_has_the_models() -> None:
    stages = dict(re.findall(r"FROM \S+ AS (\w+)\n(.*?)(?=\nFROM |\Z)", DOCKERFILE, re.S))
    assert set(stages) == {"base", "core", "data", "models"}
    for name in ("core", "data", "models"):
        assert re.findall(r"^USER (\w+)", stages[name], re.M) == ["heliu"]
        assert "--constraint constraints.txt" in stages[name]
    assert "[models]" in stages["models"]
    assert "[data]" in stages["data"]
    assert "[" not in stages["core"]
    assert {one["build"]["target"] for one in OURS.values()} == {"core", "data", "models"}
    assert {one["build"]["dockerfile"] for one in OURS.values()} == {"deploy/Dockerfile"}


def test_what_the_images_copy_exists_and_is_not_ignored() -> None:
    copied = {source for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.M) for source in line.split()}
    assert all((ROOT / source).exists() for source in copied)
    let_through = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    assert copied == let_through


def test_the_image_is_the_python_that_the_project_asks_for() -> None:
    wanted = re.search(r'requires-python = ">=(3\.\d+)"', (ROOT / "pyproject.toml").read_text())
    assert wanted is not None
    assert f"FROM python:{wanted[1]}-slim" in DOCKERFILE
    assert sys.version_info >= tuple(map(int, wanted[1].split(".")))


# --- .env.example


def test_the_example_is_what_the_settings_make() -> None:
    assert (ROOT / ".env.example").read_text() == env_example.text(), (
        "run: python -m deploy.env_example > .env.example"
    )


def test_the_example_with_every_line_switched_on_is_accepted_and_changes_nothing() -> None:
    lines = re.findall(r"^(?:# )?(HELIU_\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.M)
    assert {key for key, _ in lines} == KNOWN
    assert read_settings(dict(lines)) == Settings()


def test_the_example_sets_the_secrets_that_compose_asks_for() -> None:
    asked = set(re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yml").read_text()))
    assert asked == set(re.findall(r"^(\w+)=$", (ROOT / ".env.example").read_text(), re.M))


# --- Kubernetes


def test_every_manifest_is_listed() -> None:
    (listed,) = manifests("Kustomization")
    assert set(listed["resources"]) == {path.name for path in (ROOT / "deploy/kubernetes").glob("*.yml")} - {
        "kustomization.yml"
    }


def test_pods_run_modules_that_exist_with_settings_that_are_known_as_an_ordinary_user() -> None:
    (shared,) = manifests("ConfigMap")
    assert set(shared["data"]) <= KNOWN
    for name, pod in pods():
        assert pod["securityContext"]["runAsNonRoot"], name
        (container,) = pod["containers"]
        assert all(find_spec(module) for module in modules(container["command"])), name
        environ = {one["name"]: one["value"] for one in container.get("env", [])}
        assert read_settings({**shared["data"], **environ}).auth == "on"
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes, name
        images = {"inference": "heliu-models", "training": "heliu-models", "data-governance": "heliu-data"}
        assert container["image"] == images.get(name, "heliu-core"), name


def test_pods_have_longer_than_they_drain() -> None:
    (shared,) = manifests("ConfigMap")
    drain = read_settings(shared["data"]).drain_seconds
    for one in manifests("Deployment"):
        assert one["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > drain + 15


def test_services_select_pods_and_do_not_leak_settings() -> None:
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in manifests("Deployment")]
    for one in manifests("Service"):
        assert one["spec"]["selector"] in labels
        # Kubernetes puts NAME_PORT into every pod: HELIU_... would be refused as an unknown setting.
        assert not one["metadata"]["name"].upper().startswith(PREFIX.rstrip("_"))


def test_scaled_pools_are_deployments_and_queues_that_exist() -> None:
    deployments = {one["metadata"]["name"] for one in manifests("Deployment")}
    queues = {contract.queue_for("default") for contract in (*JOBS.values(), *CALLS.values())}
    (auth,) = manifests("TriggerAuthentication")
    scaled = list(manifests("ScaledObject"))
    assert scaled
    for one in scaled:
        spec = one["spec"]
        assert spec["scaleTargetRef"]["name"] in deployments
        (trigger,) = spec["triggers"]
        assert trigger["authenticationRef"]["name"] == auth["metadata"]["name"]
        match = re.fullmatch(r"http://gateway:8000/scaling/(\S+)", trigger["metadata"]["url"])
        assert match is not None
        assert any(queue == match[1] or queue.startswith(f"{match[1]}.") for queue in queues)
        assert (trigger["metadata"]["valueLocation"], trigger["metadata"]["targetValue"]) == ("desired", "1")
