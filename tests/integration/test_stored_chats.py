"""Stored chats through the unmodified openai client: plain, streamed, of tasks, and for whom they are kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import psycopg
import pytest
from typer.testing import CliRunner

from services.cli.main import app
from services.dispatcher.main import Dispatcher
from services.gateway.answering import stored
from shared.errors import InvalidInput, Unavailable
from tests import servers
from tests.conftest import TEMPLATE
from tests.integration.gateway_app import PEPPER, RunningGateway, neighbour, running_gateway

ROOT = Path(__file__).parents[2]
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def gateway(
    postgres: servers.RunningServer, valkey: servers.RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    """With a worker that says back what it is asked; each test has labels of its own."""
    url = servers.new_database(postgres.url, "stored_chats", template=TEMPLATE)
    with running_gateway(url, valkey.url, tmp_path_factory.mktemp("gateway")) as running:
        running.add_model("echo")
        settings = running.platform.settings
        given = {
            "HELIU_HOME": str(settings.home),
            "HELIU_DATABASE_URL": settings.database_url,
            "HELIU_REDIS_URL": settings.redis_url,
            "HELIU_READY_FILE": str(settings.home / "ready"),
            "HELIU_KEY_PEPPER": PEPPER,
            "HELIU_DRAIN_SECONDS": "1",
        }
        with (settings.home / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.live_echo_worker"],
                cwd=ROOT,
                env={**os.environ, **given},
                stdout=log,
                stderr=log,
            )
        try:
            deadline = time.monotonic() + 60
            while not (settings.home / "ready").exists():
                assert process.poll() is None, (settings.home / "log").read_text()[-3000:]
                assert time.monotonic() < deadline, "the worker did not start"
                time.sleep(0.02)
            yield running
        finally:
            process.kill()
            process.wait()
    servers.drop_database(postgres.url, "stored_chats")


@pytest.fixture
def client(gateway: RunningGateway) -> openai.OpenAI:
    return gateway.openai(max_retries=0)


def say(client: openai.OpenAI, text: str, **more: Any) -> Any:
    asked: Any = {"model": "echo", "messages": [{"role": "user", "content": text}], "store": True, **more}
    return client.chat.completions.create(**asked)


def test_a_stored_chat_is_read_listed_labelled_and_deleted_by_the_openai_client(
    client: openai.OpenAI,
) -> None:
    made = say(client, "one", metadata={"test": "life"}, temperature=0.5, seed=7)
    read = client.chat.completions.retrieve(made.id)
    assert (read.id, read.choices[0].message.content, read.model) == (made.id, "one", "echo")
    assert (read.created, read.usage, read.metadata) == (made.created, made.usage, {"test": "life"})
    told = read.to_dict()
    assert (told["temperature"], told["seed"], told["tools"]) == (0.5, 7, None)

    messages = list(client.chat.completions.messages.list(made.id))
    assert [(one.role, one.content) for one in messages] == [("user", "one")]
    changed = client.chat.completions.update(made.id, metadata={"test": "life", "kind": "good"})
    assert changed.metadata == {"test": "life", "kind": "good"}
    found = client.chat.completions.list(metadata={"kind": "good"})
    assert [one.id for one in found] == [made.id]

    gone = client.chat.completions.delete(made.id)
    assert (gone.id, gone.deleted, gone.object) == (made.id, True, "chat.completion.deleted")
    for again in (client.chat.completions.retrieve, client.chat.completions.delete):
        with pytest.raises(openai.NotFoundError):
            again(made.id)
    assert list(client.chat.completions.list(metadata={"kind": "good"})) == []


def test_nothing_is_stored_that_was_not_asked_to_be(client: openai.OpenAI) -> None:
    plain = say(client, "unasked", store=False, metadata={"test": "off"})
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.retrieve(plain.id)
    assert list(client.chat.completions.list(metadata={"test": "off"})) == []


def test_a_list_goes_page_by_page_both_ways_and_is_narrowed_by_model_label_and_time(
    client: openai.OpenAI, gateway: RunningGateway
) -> None:
    ids = [say(client, f"n {n}", metadata={"test": "pages", "n": str(n)}).id for n in range(5)]
    listed = client.chat.completions.list
    assert [one.id for one in listed(metadata={"test": "pages"}, limit=2)] == ids
    assert [one.id for one in listed(metadata={"test": "pages"}, limit=2, order="desc")] == ids[::-1]
    assert [one.id for one in listed(metadata={"test": "pages", "n": "3"}, model="echo")] == [ids[3]]
    assert list(listed(metadata={"test": "pages"}, model="other")) == []
    client.chat.completions.delete(ids[1])
    behind = listed(metadata={"test": "pages"}, after=ids[1])
    assert [one.id for one in behind] == ids[2:], "a deleted one still says where a page goes on"
    with gateway.http() as http:
        asked = {"metadata[test]": "pages", "created_before": 1}
        assert http.get(CHAT, params=asked).json()["data"] == []


@pytest.mark.parametrize("resumable", [False, True])
def test_a_stream_is_stored_before_its_client_hears_of_its_end(
    client: openai.OpenAI, resumable: bool
) -> None:
    stream = say(client, "word by word", stream=True, extra_body={"resumable": True} if resumable else {})
    text = ""
    for chunk in stream:
        text += chunk.choices[0].delta.content or ""
        if chunk.choices[0].finish_reason is not None:
            break
    stream.close()
    read = client.chat.completions.retrieve(chunk.id)
    assert read.choices[0].message.content == text == "word by word"
    assert read.choices[0].finish_reason == "stop"


def test_a_stream_that_is_taken_up_elsewhere_is_stored_once(gateway: RunningGateway) -> None:
    (gateway.platform.settings.home / "go").unlink(missing_ok=True)
    asked = {
        "model": "echo",
        "messages": [{"role": "user", "content": "pause 2 and go on"}],
        "store": True,
        "stream": True,
        "resumable": True,
        "metadata": {"test": "taken up"},
    }
    with gateway.http() as http:
        with http.stream("POST", CHAT, json=asked) as response:
            path = response.headers["content-location"]
            next(response.iter_lines())
        with (
            neighbour(gateway) as url,
            gateway.http() as other,
            other.stream("GET", url + path, headers={"accept": "text/event-stream"}) as response,
        ):
            (gateway.platform.settings.home / "go").touch()
            assert response.read().endswith(b"data: [DONE]\n\n")
        found = http.get(CHAT, params={"metadata[test]": "taken up"}).json()["data"]
        assert [one["id"] for one in found] == [path.rpartition("/")[2]]
        assert found[0]["choices"][0]["message"]["content"] == "pause 2 and go on"
        whole = http.get(path)
        assert whole.json()["object"] == "chat.completion"


def test_an_answer_that_its_client_left_is_not_stored(client: openai.OpenAI) -> None:
    stream = say(client, "endless", stream=True, metadata={"test": "left"})
    next(iter(stream))
    stream.close()
    assert list(client.chat.completions.list(metadata={"test": "left"})) == []


def test_of_a_task_what_its_guards_let_through_is_stored_and_found_by_its_name(
    gateway: RunningGateway, client: openai.OpenAI
) -> None:
    guards = {"input": {"pii": {"action": "mask"}}, "output": {"max_chars": 12}}
    spec = {
        "model": "echo",
        "system": "Be short.",
        "prompt": "{{ text }}",
        "variables": {"text": {}},
        "guards": guards,
    }
    with gateway.http() as http:
        added = http.post("/v1/tasks", json={"name": "masked", "spec": spec})
        assert added.status_code == 200, added.text
    made = say(client, "me@example.com writes a lot of words", model="task:masked")
    read = client.chat.completions.retrieve(made.id)
    assert read.choices[0].finish_reason == "content_filter"
    assert read.choices[0].message.content == made.choices[0].message.content
    messages = [str(one.content) for one in client.chat.completions.messages.list(made.id)]
    assert messages[0] == "Be short."
    assert "example.com" not in messages[1]
    for name in ("task:masked", "task:masked@1", "echo"):
        assert made.id in [one.id for one in client.chat.completions.list(model=name, order="desc")]


def test_a_marked_answer_is_read_with_its_label_and_kept_without(
    gateway: RunningGateway, client: openai.OpenAI
) -> None:
    with gateway.http() as http:
        assert http.put("/v1/marking", json={"mode": "visible"}).status_code == 200
        try:
            made = say(client, "marked")
        finally:
            assert http.put("/v1/marking", json={"mode": "off"}).status_code == 200
        read = http.get(f"{CHAT}/{made.id}").json()
    assert (
        read["choices"][0]["message"]["content"] == made.choices[0].message.content == "marked (AI-generated)"
    )
    assert read["heliu"]["AIGC"]["ProduceID"] == made.id
    with gateway.as_tenant() as c:
        row = c.execute("SELECT body FROM gateway.stored_chat WHERE id = %s", (made.id,)).fetchone()
    assert row is not None
    assert row["body"]["choices"][0]["text"] == "marked"


def test_a_tenant_sees_none_of_anothers(gateway: RunningGateway, client: openai.OpenAI) -> None:
    made = say(client, "mine", metadata={"test": "whose"})
    rival = gateway.openai("rival", max_retries=0)
    assert list(rival.chat.completions.list()) == []
    for look in (
        lambda: rival.chat.completions.retrieve(made.id),
        lambda: rival.chat.completions.update(made.id, metadata={}),
        lambda: rival.chat.completions.delete(made.id),
        lambda: list(rival.chat.completions.messages.list(made.id)),
    ):
        with pytest.raises(openai.NotFoundError):
            look()
    with pytest.raises(openai.BadRequestError, match="no item"):
        rival.chat.completions.list(after=made.id)
    assert client.chat.completions.retrieve(made.id).id == made.id


def test_messages_go_page_by_page(client: openai.OpenAI) -> None:
    turns = [{"role": ("user", "assistant")[n % 2], "content": f"turn {n}"} for n in range(5)]
    made = say(client, "", messages=turns)
    listed = client.chat.completions.messages.list
    assert [one.content for one in listed(made.id, limit=2)] == [one["content"] for one in turns]
    assert next(one.content for one in listed(made.id, limit=2, order="desc")) == "turn 4"
    with pytest.raises(openai.BadRequestError):
        listed(made.id, after="chatcmpl-other-0")


def test_what_cannot_be_stored_is_refused_before_a_worker_is_asked(gateway: RunningGateway) -> None:
    with gateway.http() as http:
        for body, param in (
            ({"metadata": {"k": 1}}, "metadata.k"),
            ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
            ({"store": "yes"}, "store"),
            ({"messages": [{"role": "user", "content": "字" * 200_000}]}, "store"),
        ):
            asked = {"model": "echo", "messages": [{"role": "user", "content": "x"}], "store": True, **body}
            told = http.post(CHAT, json=asked)
            assert (told.status_code, told.json()["error"]["param"]) == (400, param), told.text
        text = http.post("/v1/completions", json={"model": "echo", "prompt": "x", "store": True})
        assert (text.status_code, text.json()["error"]["code"]) == (400, "unknown_parameter")
        assert http.get(CHAT, params={"after": "chatcmpl-none"}).status_code == 400
        assert http.get(CHAT, params={"metadata": "x"}).status_code == 400
        assert http.get(CHAT, params={"metadata[a]": "x" * 513}).status_code == 400
        backward = {"created_after": 9, "created_before": 3}
        assert http.get(CHAT, params=backward).json()["error"]["param"] == "created_after"
        assert http.post(f"{CHAT}/chatcmpl-none", json={"metadata": {}}).status_code == 404
        assert http.post(f"{CHAT}/chatcmpl-none", json={}).status_code == 400
        nothing = http.post("/v1/files/stored_completions", json={"model": "never"})
        assert (nothing.status_code, nothing.json()["error"]["code"]) == (400, "nothing_stored")
        unlike = http.post("/v1/files/stored_completions", json={**backward, "limit": 0})
        assert unlike.status_code == 400


def test_what_is_older_than_the_platform_keeps_is_dropped(
    gateway: RunningGateway, client: openai.OpenAI
) -> None:
    old, new = (say(client, "age", metadata={"test": "age"}).id for _ in range(2))
    _age(gateway, old, 31)
    dispatcher = Dispatcher(gateway.platform, None, _Never())  # type: ignore[arg-type]
    assert dispatcher.forget_chats() == 1
    assert [one.id for one in client.chat.completions.list(metadata={"test": "age"})] == [new]
    _age(gateway, new, 400)
    forever = replace(gateway.platform.settings, stored_chat_days=0.0)
    kept = Dispatcher(replace(gateway.platform, settings=forever), None, _Never())  # type: ignore[arg-type]
    assert kept.forget_chats() == 0


class _Never:
    def is_set(self) -> bool:
        return False


def _age(gateway: RunningGateway, chat_id: str, days: int) -> None:
    with psycopg.connect(gateway.platform.settings.database_url) as connection:
        connection.execute(
            "UPDATE gateway.stored_chat SET created_at = now() - make_interval(days => %s) WHERE id = %s",
            (days, chat_id),
        )


def test_an_answer_that_cannot_be_stored_is_no_success(
    gateway: RunningGateway, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> None:
        raise Unavailable("gone", code="database_unavailable")

    monkeypatch.setattr(stored.stored_chats, "add", away)
    with pytest.raises(openai.InternalServerError) as failed:
        say(client, "lost")
    assert failed.value.code == "database_unavailable"
    with pytest.raises(openai.APIError, match="database"):
        list(say(client, "lost too", stream=True))


def test_the_command_line_stores_lists_labels_and_deletes(gateway: RunningGateway) -> None:
    env = {"HELIU_GATEWAY_URL": gateway.url, "HELIU_API_KEY": gateway.keys["acme"]}

    def heliu(*words: str) -> Any:
        told = CliRunner().invoke(app, words, env=env)
        assert told.exit_code == 0, (told.output, told.exception)
        return told.stdout

    said = heliu("chat", "echo", "from the shell", "--store", "--metadata", "test=cli")
    assert said == "from the shell\n"
    (chat,) = json.loads(heliu("stored", "list", "--metadata", "test=cli", "--json"))["data"]
    assert "test=cli" in heliu("stored", "list", "--model", "echo", "--limit", "100")
    shown = heliu("stored", "show", chat["id"])
    assert "user: from the shell" in shown
    assert "assistant: from the shell" in shown
    heliu("stored", "label", chat["id"], "test=cli", "kind=good")
    assert heliu("stored", "list", "--metadata", "kind=good")
    job = json.loads(heliu("stored", "export", "--metadata", "kind=good", "--no-wait", "--json"))
    assert (job["kind"], job["status"]) == ("data.export_chats", "queued")
    assert json.loads(heliu("stored", "delete", chat["id"], "--json"))["deleted"]
    file = gateway.openai().files.create(file=("rows.jsonl", b'{"text": "a"}\n'), purpose="fine-tune")
    build = json.loads(heliu("data", "build", file.id, "--name", "distilled", "--no-wait", "--json"))
    assert (build["kind"], build["dataset"]) == ("data.build_version", "distilled")
    refused = CliRunner().invoke(app, ["stored", "list", "--metadata", "kind"], env=env)
    assert isinstance(refused.exception, InvalidInput)
