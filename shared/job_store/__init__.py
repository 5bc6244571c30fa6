"""The SQL of jobs, job events, leases and dependencies. Takes a connection; never commits."""

from shared.job_store.claims import claim, claim_unread, ready_queues
from shared.job_store.deliveries import enqueue_webhooks
from shared.job_store.ends import cancels_at_once, end_unclaimed, leave, leave_crashed, pause_if_asked
from shared.job_store.events import add_event, has_event, latest_events, list_events
from shared.job_store.lapses import expire_overdue, reap, release_previous
from shared.job_store.leases import LeaseLost, Renewal, fence, renew, requested, set_progress
from shared.job_store.parts import wait_for_children
from shared.job_store.reading import get, list_jobs, position
from shared.job_store.submission import submit, submitted_before, wake_lane

__all__ = [
    "LeaseLost",
    "Renewal",
    "add_event",
    "cancels_at_once",
    "claim",
    "claim_unread",
    "end_unclaimed",
    "enqueue_webhooks",
    "expire_overdue",
    "fence",
    "get",
    "has_event",
    "latest_events",
    "leave",
    "leave_crashed",
    "list_events",
    "list_jobs",
    "pause_if_asked",
    "position",
    "ready_queues",
    "reap",
    "release_previous",
    "renew",
    "requested",
    "set_progress",
    "submit",
    "submitted_before",
    "wait_for_children",
    "wake_lane",
]
