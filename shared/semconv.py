"""Every span, attribute and metric name in one place: OpenTelemetry's where it has one, `heliu.*` where not."""

from __future__ import annotations

from typing import Final

TENANT: Final = "heliu.tenant"
JOB_ID: Final = "heliu.job.id"
JOB_KIND: Final = "heliu.job.kind"
JOB_STATE: Final = "heliu.job.state"
ATTEMPT: Final = "heliu.attempt"
EPOCH: Final = "heliu.epoch"
QUEUE_WAIT: Final = "heliu.queue.wait_s"
REQUEST_ID: Final = "heliu.request.id"
WORKER: Final = "heliu.worker"

MESSAGING_SYSTEM: Final = "messaging.system"
MESSAGING_DESTINATION: Final = "messaging.destination.name"
MESSAGING_OPERATION: Final = "messaging.operation.type"
MESSAGING_REDELIVERED: Final = "messaging.redelivered"

GEN_AI_OPERATION: Final = "gen_ai.operation.name"
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
GEN_AI_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
GEN_AI_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"

METRIC_JOBS: Final = "heliu_jobs"
METRIC_QUEUE_DEPTH: Final = "heliu_queue_depth"
METRIC_QUEUE_OLDEST_AGE: Final = "heliu_queue_oldest_age_seconds"
METRIC_LEASES_EXPIRED: Final = "heliu_lease_expired_total"
METRIC_TOKENS: Final = "heliu_tokens_total"
METRIC_REQUESTS: Final = "heliu_http_requests_total"
METRIC_REQUEST_SECONDS: Final = "heliu_http_request_seconds"
METRIC_FIRST_TOKEN: Final = "gen_ai_server_time_to_first_token_seconds"
METRIC_PER_TOKEN: Final = "gen_ai_server_time_per_output_token_seconds"
METRIC_PROCESS_SECONDS: Final = "messaging_process_duration_seconds"
METRIC_WORKER_BUSY: Final = "heliu_worker_busy_ratio"
METRIC_JOBS_ENDED: Final = "heliu_jobs_ended_total"
METRIC_TRAIN_LOSS: Final = "heliu_train_loss"
METRIC_TRAIN_TOKENS_PER_SECOND: Final = "heliu_train_tokens_per_second"
