"""Outgoing events: their types, their shape and their signature."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from shared.errors import InvalidInput
from shared.jobs import TERMINAL, Job, Status
from shared.webhooks import EVENT_TYPES, event_body, event_type, new_secret, sign


def job(kind: str, state: Status) -> Job:
    values: dict[str, Any] = dict.fromkeys(Job.__dataclass_fields__)
    return Job(**{**values, "kind": kind, "state": state})


def test_the_signature_is_the_specs() -> None:
    # The vector of the Standard Webhooks libraries.
    signature = sign(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        '{"test": 2432232314}',
    )
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_secret_that_is_not_base64_is_refused() -> None:
    with pytest.raises(InvalidInput):
        sign("whsec_!!", "m", 1, "{}")


def test_a_new_secret_holds_256_bits() -> None:
    secret = new_secret()
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
    assert secret != new_secret()


@pytest.mark.parametrize("kind", ["training.fine_tune", "inference.batch", "noop"])
@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_every_end_of_every_job_has_a_known_type(kind: str, state: Status) -> None:
    assert event_type(job(kind, state)) in EVENT_TYPES


def test_the_names_are_openais_where_it_has_them() -> None:
    assert event_type(job("training.fine_tune", Status.DEAD)) == "fine_tuning.job.failed"
    assert event_type(job("inference.batch", Status.SUCCEEDED)) == "batch.completed"
    assert event_type(job("inference.batch", Status.EXPIRED)) == "batch.expired"
    assert event_type(job("noop", Status.DEAD)) == "job.dead"


def test_the_body_has_the_shape_that_openais_client_unwraps() -> None:
    event_id, text = event_body("batch.completed", {"id": "batch_1", "name": "批"})
    body = json.loads(text)
    assert body["id"] == event_id
    assert (body["object"], body["type"], body["data"]) == (
        "event",
        "batch.completed",
        {"id": "batch_1", "name": "批"},
    )
    assert isinstance(body["created_at"], int)
