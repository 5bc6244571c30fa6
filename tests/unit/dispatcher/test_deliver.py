"""What one webhook attempt sends, and what becomes of its answer."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from itertools import pairwise
from uuid import UUID

import pytest
from openai import InvalidWebhookSignatureError, OpenAI

from services.dispatcher.deliver import MAX_ATTEMPTS, pause_after, send
from services.dispatcher.webhooks_repository import Delivery
from shared.errors import HeliuError, Unavailable
from shared.outbound import Forbidden, Response
from shared.webhooks import event_body, new_secret, sign

SECRET = new_secret()


class Receiver:
    """An outbound client that answers what it is told to."""

    timeout_s = 1.0

    def __init__(self, status: int = 200, error: HeliuError | None = None) -> None:
        self.status, self.error = status, error
        self.sent: list[tuple[str, bytes, dict[str, str]]] = []

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Response:
        self.sent.append((url, body, dict(headers)))
        if self.error is not None:
            raise self.error
        return Response(self.status, b"")


def delivery(**values: object) -> Delivery:
    event_id, body = event_body("fine_tuning.job.succeeded", {"id": "ftjob-1", "note": "合流"})
    base: dict[str, object] = {
        "id": event_id,
        "tenant_id": UUID(int=1),
        "endpoint_id": "we_1",
        "body": body,
        "attempts": 1,
        "url": "https://hook.example/x",
        "secret": SECRET,
        "deleted": False,
    }
    return Delivery(**{**base, **values})  # type: ignore[arg-type]


def test_the_openai_client_unwraps_what_is_sent() -> None:
    receiver = Receiver()
    assert send(receiver, delivery()) == (None, False)
    url, body, headers = receiver.sent[0]
    assert url == "https://hook.example/x"
    client = OpenAI(api_key="none", webhook_secret=None)
    event = client.webhooks.unwrap(body, headers, secret=SECRET)
    assert (event.type, event.data.id, event.object) == ("fine_tuning.job.succeeded", "ftjob-1", "event")
    assert client.webhooks.unwrap(body.decode(), headers, secret=SECRET).id == headers["webhook-id"]


@pytest.mark.parametrize("type_", ["batch.completed", "job.succeeded", "alert.raised"])
def test_every_type_of_event_is_unwrapped(type_: str) -> None:
    receiver = Receiver()
    event_id, body = event_body(type_, {"id": "x"})
    send(receiver, delivery(id=event_id, body=body))
    _, sent, headers = receiver.sent[0]
    assert OpenAI(api_key="none").webhooks.unwrap(sent, headers, secret=SECRET).type == type_


def test_a_changed_body_or_another_secret_is_refused_by_the_openai_client() -> None:
    receiver = Receiver()
    send(receiver, delivery())
    _, body, headers = receiver.sent[0]
    client = OpenAI(api_key="none")
    with pytest.raises(InvalidWebhookSignatureError):
        client.webhooks.unwrap(body.replace(b"ftjob-1", b"ftjob-2"), headers, secret=SECRET)
    with pytest.raises(InvalidWebhookSignatureError):
        client.webhooks.unwrap(body, headers, secret=new_secret())


def test_the_signature_is_the_one_of_the_standards_example() -> None:
    """The example that the Standard Webhooks libraries test themselves with."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    signature = sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, '{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_signature_covers_id_timestamp_and_body() -> None:
    receiver = Receiver()
    send(receiver, delivery())
    _, body, headers = receiver.sent[0]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = hmac.new(base64.b64decode(SECRET.removeprefix("whsec_")), signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()


@pytest.mark.parametrize("status", [200, 201, 204])
def test_any_2xx_is_delivered(status: int) -> None:
    assert send(Receiver(status), delivery()) == (None, False)


@pytest.mark.parametrize("status", [301, 302, 400, 404, 429, 500, 503])
def test_any_other_answer_is_tried_again(status: int) -> None:
    assert send(Receiver(status), delivery()) == (f"the receiver answered {status}", True)


def test_an_endpoint_that_is_gone_is_given_up() -> None:
    assert send(Receiver(410), delivery()) == ("the receiver answered 410", False)


def test_a_deleted_endpoint_is_not_called() -> None:
    receiver = Receiver()
    error, again = send(receiver, delivery(deleted=True))
    assert (error, again, receiver.sent) == ("the endpoint was deleted", False, [])


def test_a_malformed_secret_is_given_up_and_a_forbidden_or_silent_address_tried_again() -> None:
    assert send(Receiver(), delivery(secret="whsec_!"))[1] is False
    assert send(Receiver(error=Forbidden("private")), delivery()) == ("private", True)
    assert send(Receiver(error=Unavailable("silent")), delivery()) == ("silent", True)


def test_pauses_grow_and_end() -> None:
    pauses = [pause_after(n) for n in range(1, MAX_ATTEMPTS)]
    seconds = [pause.total_seconds() for pause in pauses if pause is not None]
    assert len(seconds) == MAX_ATTEMPTS - 1
    # Each is a fifth more or less than meant, and the last ones are equally long.
    assert all(later >= earlier * 0.8 / 1.2 for earlier, later in pairwise(seconds))
    assert 4 <= seconds[0] <= 6
    assert seconds[-1] > 1000 * seconds[0]
    assert pause_after(MAX_ATTEMPTS) is None
