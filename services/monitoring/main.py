"""`python -m services.monitoring.main`: takes no-op jobs, keeps spans, rolls minutes up, raises alerts."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

from services.monitoring import tasks
from services.monitoring.alerts import RULES, Rule, parse_rules
from services.monitoring.gauges import Gauges
from services.monitoring.receiver import Receiver
from shared.contracts.base import JobContract
from shared.contracts.core import Noop
from shared.errors import ConfigurationError, HeliuError, Unavailable
from shared.job_context import Handler
from shared.settings import Settings, read_settings
from shared.worker import Platform, Worker, WorkerSpec, open_platform

log = logging.getLogger(__name__)

SLOTS = 4
MINUTE_S = 60.0
AFTER_THE_MINUTE_S = 2.0


class Sweeper:
    """Sweeps at once and then two seconds after every full minute, on a thread of its own."""

    def __init__(self, sweep: Callable[[], None]) -> None:
        self._sweep = sweep
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="sweep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(15)

    def _work(self) -> None:
        while True:
            try:
                self._sweep()
            except Unavailable as exc:
                log.warning("sweep_waits", extra={"error": exc.message})
            except Exception:
                log.exception("sweep_raised")
            if self._stop.wait(MINUTE_S - (time.time() - AFTER_THE_MINUTE_S) % MINUTE_S):
                return


def read_rules(path: str) -> Sequence[Rule]:
    """The rules of an operator's file, or RULES. Raises ConfigurationError."""
    if not path:
        return RULES
    try:
        return parse_rules(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(
            f"the file of alert rules {path!r} cannot be read: {exc}", param="HELIU_ALERT_RULES"
        ) from exc


def open_receiver(settings: Settings, platform: Platform, gauges: Gauges) -> Receiver | None:
    """The OTLP receiver; None without a token: where spans go to another collector, nothing listens here."""
    if not settings.otlp_token:
        return None
    store = partial(tasks.keep_spans, platform.db, gauges)
    return Receiver(settings.metrics_host, settings.otlp_port, settings.otlp_token, store)


def main() -> int:
    try:
        settings = read_settings(os.environ)
        rules = read_rules(settings.alert_rules)
        slots = settings.slots or SLOTS
        platform = open_platform(settings, "monitoring", max_connections=slots + 6)
        gauges = Gauges(platform.metrics.registry)
        receiver = open_receiver(settings, platform, gauges)
    except HeliuError as exc:
        sys.stderr.write(f"monitoring: {exc.message}\n")
        return 78
    keep_for = timedelta(hours=settings.trace_retention_hours)
    sweeper = Sweeper(partial(tasks.sweep, platform.db, rules, gauges, keep_for))
    handlers: dict[type[JobContract], Handler] = {Noop: partial(tasks.noop, platform)}
    # The last spans of this very process go to its own receiver, so they leave before it does.
    stops: list[Callable[[], None]] = [sweeper.stop, platform.tracing.flush]
    if receiver is not None:
        receiver.start()
        stops.append(receiver.stop)
        log.info("otlp_listens", extra={"address": receiver.address})
    sweeper.start()
    spec = WorkerSpec("monitoring", {Noop.queue_for(): slots})
    return Worker(platform, spec, handlers, on_stop=stops).run()


if __name__ == "__main__":
    sys.exit(main())
