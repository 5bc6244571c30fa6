"""Tracing and log set-up, and the only hands on OpenTelemetry. Knows no service.

A span crosses a border as a W3C `traceparent` string; a span that a child process measured comes as a frame
and is written here with its own times.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_ON,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from shared import semconv
from shared.errors import HeliuError

Attributes = Mapping[str, Any]

KINDS = {
    "internal": SpanKind.INTERNAL,
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}


class Span:
    """An open span; `traceparent` is what travels on, `trace_id` what a person looks up."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    @property
    def traceparent(self) -> str:
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"

    @property
    def trace_id(self) -> str:
        return f"{self._span.get_span_context().trace_id:032x}"

    def rename(self, name: str) -> None:
        """Name the span anew: an HTTP server knows its route only after it has matched."""
        self._span.update_name(name)

    def set(self, **attributes: Any) -> None:
        """Attributes by keyword; use `set_all` for names with dots."""
        self.set_all(attributes)

    def set_all(self, attributes: Attributes) -> None:
        self._span.set_attributes({k: v for k, v in attributes.items() if v is not None})

    def event(self, name: str, attributes: Attributes | None = None) -> None:
        self._span.add_event(name, dict(attributes or {}))

    def fail(self, message: str) -> None:
        self._span.set_status(Status(StatusCode.ERROR, message))

    def end(self) -> None:
        self._span.end()


class _RatioUnlessKept(Sampler):
    """Samples new traces by ratio, except those whose first span says `heliu.keep`: jobs are always traced."""

    def __init__(self, ratio: float) -> None:
        self._ratio = TraceIdRatioBased(ratio)

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Any = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        chosen = ALWAYS_ON if (attributes or {}).get(semconv.KEEP) else self._ratio
        return chosen.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        return f"UnlessKept{{{self._ratio.get_description()}}}"


class Tracing:
    """One per process. Without an endpoint spans are made (ids flow) and go nowhere."""

    def __init__(
        self,
        service: str,
        *,
        endpoint: str = "",
        token: str = "",
        sample_ratio: float = 1.0,
        instance: str = "",
        exporter: SpanExporter | None = None,
    ) -> None:
        resource = Resource.create(
            {"service.name": f"heliu-{service}", "service.instance.id": instance or service}
        )
        self._provider = TracerProvider(
            resource=resource, sampler=ParentBased(_RatioUnlessKept(sample_ratio)), shutdown_on_exit=False
        )
        if exporter is None and endpoint:
            headers = {"authorization": f"Bearer {token}"} if token else None
            exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", headers=headers, timeout=5)
        if exporter is not None:
            self._provider.add_span_processor(
                BatchSpanProcessor(exporter, schedule_delay_millis=500, max_export_batch_size=256)
            )
        self._tracer = self._provider.get_tracer("heliu")

    def start(
        self,
        name: str,
        *,
        kind: str = "internal",
        parent: str | None = None,
        links: Sequence[str] = (),
        attributes: Attributes | None = None,
        start_ns: int | None = None,
    ) -> Span:
        """Open a span that the caller ends. `parent` and `links` are traceparents; no parent is a new trace."""
        context = None
        parent_context = parse_traceparent(parent)
        context = trace.set_span_in_context(
            trace.NonRecordingSpan(parent_context) if parent_context else trace.INVALID_SPAN
        )
        span = self._tracer.start_span(
            name,
            context=context,
            kind=KINDS[kind],
            links=[Link(c) for c in map(parse_traceparent, links) if c is not None],
            attributes={k: v for k, v in (attributes or {}).items() if v is not None},
            start_time=start_ns,
        )
        return Span(span)

    @contextmanager
    def span(self, name: str, **options: Any) -> Iterator[Span]:
        """A span around a block; an exception marks it failed and goes on."""
        span = self.start(name, **options)
        try:
            yield span
        except BaseException as exc:
            # A tenant may read its spans: the text of an unexpected error can hold SQL or somebody else's data.
            span.fail(exc.message if isinstance(exc, HeliuError) else type(exc).__name__)
            raise
        finally:
            span.end()

    def record(
        self,
        name: str,
        start_ns: int,
        end_ns: int,
        *,
        parent: str | None,
        attributes: Attributes | None = None,
        events: Sequence[tuple[str, int]] = (),
    ) -> None:
        """Write a span, with events, that somebody else measured; times in unix nanoseconds."""
        span = self.start(name, parent=parent, attributes=attributes, start_ns=start_ns)
        for event, at_ns in events:
            span._span.add_event(event, timestamp=at_ns)
        span._span.end(end_time=max(start_ns, end_ns))

    def flush(self) -> None:
        """Export what has ended so far, for at most five seconds."""
        self._provider.force_flush(5000)

    def shutdown(self) -> None:
        """Flush for at most five seconds and stop."""
        self._provider.force_flush(5000)
        self._provider.shutdown()


def parse_traceparent(text: str | None) -> SpanContext | None:
    """The span context of a W3C traceparent; None for none or a malformed one (as the spec asks)."""
    parts = (text or "").strip().lower().split("-")
    if len(parts) != 4 or parts[0] != "00" or len(parts[1]) != 32 or len(parts[2]) != 16:
        return None
    try:
        context = SpanContext(
            int(parts[1], 16), int(parts[2], 16), is_remote=True, trace_flags=TraceFlags(int(parts[3], 16))
        )
    except ValueError:
        return None
    return context if context.is_valid else None


STANDARD = frozenset(logging.LogRecord("", 0, "", 0, "", None, None).__dict__) | {
    "message",
    "asctime",
    "taskName",
}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: a constant event name and its fields; known secrets are blanked."""

    def __init__(self, service: str, secrets: Sequence[str]) -> None:
        super().__init__()
        self._service = service
        self._secrets = [secret for secret in secrets if len(secret) >= 8]

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "event": record.getMessage(),
        }
        line.update({k: v for k, v in record.__dict__.items() if k not in STANDARD and k != "data"})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        text = json.dumps(line, ensure_ascii=False, default=str)
        for secret in self._secrets:
            text = text.replace(secret, "[redacted]")
        return text


def setup_logging(service: str, level: str, secrets: Sequence[str] = ()) -> None:
    """One handler on stderr for the whole process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service, secrets))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("celery.worker.strategy", "celery.app.trace", "kombu", "httpx", "uvicorn.access"):
        logging.getLogger(noisy).setLevel("WARNING")
