"""Vectors and tokens through the real gateway, queue, worker and engine, as the openai client asks for them."""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from typer.testing import CliRunner

from services.cli import embed
from services.cli.main import app
from shared.artifacts import ArtifactStore
from shared.errors import HeliuError, InvalidInput
from tests import servers
from tests.harness import Harness, platform, wait_for
from tests.unit.inference.tiny_encoders import save_encoder
from tests.unit.inference.tiny_models import CONTEXT, save_adapter, save_model

ADD = """
INSERT INTO training.model (tenant_id, id, kind, artifact, base_artifact, base_id)
VALUES (%s, %s, %s, %s, %s, %s)"""


class Served:
    """A platform with an encoder, a base and an adapter on it, which are all named after their kind."""

    def __init__(self, harness: Harness, folder: Path) -> None:
        self.harness = harness
        self.url = harness.start_gateway()
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=harness.key(), timeout=120)
        base = save_model(folder / "base")
        for name, made, on in (
            ("encoder", save_encoder(folder / "encoder"), None),
            ("base", base, None),
            ("adapter", save_adapter(folder / "adapter", base), "base"),
        ):
            self._add(name, made, on)
        harness.start("inference")

    def _add(self, name: str, folder: Path, on: str | None) -> None:
        artifact = ArtifactStore(self.harness.settings.artifact_folder).put_tree(folder)
        tenant = self.harness.tenant
        with self.harness.db.transaction(tenant) as c:
            row = c.execute("SELECT artifact FROM training.model WHERE id = %s", (on,)).fetchone()
            c.execute(ADD, (tenant, name, name, artifact, row and row["artifact"], on))

    def usage(self, status: str) -> list[dict[str, Any]]:
        with self.harness.db.transaction(self.harness.tenant) as c:
            return c.execute(
                "SELECT * FROM gateway.usage WHERE status = %s AND endpoint = '/v1/embeddings' ORDER BY id",
                (status,),
            ).fetchall()


@pytest.fixture(scope="module")
def served(
    postgres: servers.RunningServer, valkey: servers.RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    url = servers.new_database(postgres.url, "test_embeddings", template="heliu_template")
    with platform(url, valkey.url) as harness:
        yield Served(harness, tmp_path_factory.mktemp("models"))
    servers.drop_database(postgres.url, "test_embeddings")


def test_the_client_gets_the_same_numbers_in_both_formats_and_in_order(served: Served) -> None:
    texts = [f"第 {i} 行 line {'long ' * (i % 7)}" for i in range(150)]
    coded = served.client.embeddings.create(model="encoder", input=texts, user="u")
    plain = served.client.embeddings.create(model="encoder", input=texts, encoding_format="float")
    assert [row.index for row in coded.data] == list(range(150))
    # Not to the last bit: what else is in a slice decides how its products are summed up.
    near = [pytest.approx(row.embedding, abs=1e-5) for row in plain.data]
    assert [row.embedding for row in coded.data] == near
    for i in (0, 77, 149):
        (alone,) = served.client.embeddings.create(model="encoder", input=texts[i]).data
        assert alone.embedding == pytest.approx(coded.data[i].embedding, abs=1e-5)
    assert (coded.model, coded.object) == ("encoder", "list")
    assert coded.usage.prompt_tokens == coded.usage.total_tokens > 150


def test_base64_on_the_wire_is_float32_and_float_is_the_default(served: Served) -> None:
    wire = {}
    for format_ in ("base64", None):
        body = {"model": "encoder", "input": "x", **({"encoding_format": format_} if format_ else {})}
        wire[format_] = served.client.post("/embeddings", body=body, cast_to=object)["data"][0]["embedding"]  # type: ignore[index]
    packed = base64.b64decode(wire["base64"])
    assert list(struct.unpack("<32f", packed)) == pytest.approx(wire[None], abs=1e-5)
    assert math.hypot(*wire[None]) == pytest.approx(1, abs=1e-5)


def test_tokens_stand_for_their_text_and_dimensions_cut_it(served: Served) -> None:
    told: Any = served.client.post(
        "/tokenize", body={"model": "encoder", "prompt": "您好 hello"}, cast_to=object
    )
    text = served.client.embeddings.create(model="encoder", input="您好 hello")
    ids = served.client.embeddings.create(model="encoder", input=[told["tokens"], [5, 6]], dimensions=4)
    assert text.usage.prompt_tokens == told["count"]
    whole = text.data[0].embedding[:4]
    length = math.hypot(*whole)
    assert ids.data[0].embedding == pytest.approx([n / length for n in whole], abs=1e-5)


@pytest.mark.parametrize("model", ["base", "adapter"])
def test_a_causal_model_gives_vectors_of_length_1(served: Served, model: str) -> None:
    answer = served.client.embeddings.create(model=model, input=["您好", [5, 6, 7]])
    assert [len(row.embedding) for row in answer.data] == [32, 32]
    assert math.hypot(*answer.data[1].embedding) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("model", "body", "code", "param"),
    [
        ("encoder", {"input": ["x", [5] * 67, "x"]}, "context_length_exceeded", "input[1]"),
        ("encoder", {"input": [[5], [320]]}, "invalid_value", "input[1]"),
        ("encoder", {"input": "x", "dimensions": 33}, "invalid_value", "dimensions"),
        ("base", {"input": [[5] * (CONTEXT + 1)]}, "context_length_exceeded", "input"),
        ("base", {"input": ["x", [320]]}, "invalid_value", "input[1]"),
        ("base", {"input": "x", "dimensions": 33}, "invalid_value", "dimensions"),
    ],
)
def test_what_a_model_cannot_take_is_refused_at_its_place(
    served: Served, model: str, body: dict[str, Any], code: str, param: str
) -> None:
    before = len(served.usage("error"))
    with pytest.raises(openai.BadRequestError) as caught:
        served.client.embeddings.create(model=model, **body)
    assert (caught.value.code, caught.value.param) == (code, param)
    wait_for(lambda: len(served.usage("error")) > before, 20, "the usage row")


def test_an_answer_leaves_one_usage_row_and_its_spans(served: Served) -> None:
    raw = served.client.embeddings.with_raw_response.create(model="encoder", input=["您好", "hello"])
    answer = raw.parse()
    wait_for(lambda: mine(served, raw.headers["x-request-id"]), 20, "the usage row")
    (row,) = mine(served, raw.headers["x-request-id"])
    assert (row["model"], row["prompt_tokens"], row["completion_tokens"]) == (
        "encoder",
        answer.usage.prompt_tokens,
        0,
    )
    assert row["trace_id"] == raw.headers["x-trace-id"]


def mine(served: Served, request_id: str) -> list[dict[str, Any]]:
    return [row for row in served.usage("ok") if row["request_id"] == request_id]


def test_a_kind_that_cannot_is_refused_by_name(served: Served) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        served.client.chat.completions.create(model="encoder", messages=[{"role": "user", "content": "x"}])
    assert (caught.value.code, caught.value.param) == ("unsupported_model", "model")
    assert "'encoder'" in str(caught.value)
    assert "/v1/embeddings" in str(caught.value)


@pytest.mark.parametrize("model", ["base", "adapter"])
def test_tokens_of_a_chat_are_as_many_as_an_answer_counts(served: Served, model: str) -> None:
    messages: Any = [{"role": "user", "content": "您好"}]
    told: Any = served.client.post("/tokenize", body={"model": model, "messages": messages}, cast_to=object)
    answer = served.client.chat.completions.create(model=model, messages=messages, max_tokens=1)
    assert answer.usage is not None
    assert told["count"] == len(told["tokens"]) == len(told["token_strs"]) == answer.usage.prompt_tokens
    assert (told["max_model_len"], told["token_strs"][0]) == (CONTEXT, "<|im_start|>")
    text: Any = served.client.post(
        "/detokenize", body={"model": model, "tokens": told["tokens"]}, cast_to=object
    )
    assert text["prompt"] == "<|im_start|>user\n您好<|im_end|>\n<|im_start|>assistant\n"


def test_a_token_or_template_that_is_not_there_is_refused(served: Served) -> None:
    for path, body, param in (
        ("/detokenize", {"model": "base", "tokens": [1, 999]}, "tokens[1]"),
        ("/tokenize", {"model": "encoder", "messages": [{"role": "user", "content": "x"}]}, "messages"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            served.client.post(path, body=body, cast_to=object)
        assert caught.value.param == param


@pytest.fixture
def heliu(served: Served, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """`heliu ...` in this process; what it writes to standard output."""
    monkeypatch.setenv("HELIU_GATEWAY_URL", served.url)
    monkeypatch.setenv("HELIU_API_KEY", served.harness.key())

    def run(*words: str, given: str | None = None) -> str:
        result = CliRunner().invoke(app, list(words), input=given)
        if isinstance(result.exception, HeliuError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def test_the_command_line_makes_vectors_of_words_and_of_lines(
    heliu: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "AT_ONCE", 3)
    texts = ["您好 hello", "another", "您好 hello", "a fourth"]
    shown = heliu("embed", "encoder", *texts).splitlines()
    assert [line.split()[0] for line in shown[1::2]] == ["1.000", "1.000"]
    assert shown[2].endswith("another")
    file = tmp_path / "texts.txt"
    file.write_text("\n\n".join(texts))
    whole = json.loads(heliu("embed", "encoder", "--file", str(file), "--dimensions", "8", "--json"))
    assert [row["index"] for row in whole["data"]] == [0, 1, 2, 3]
    assert whole["data"][0]["embedding"] == pytest.approx(whole["data"][2]["embedding"], abs=1e-5)
    assert all(len(row["embedding"]) == 8 for row in whole["data"])
    piped = json.loads(heliu("embed", "encoder", "--file", "-", "--json", given="\n".join(texts)))
    assert piped["usage"] == whole["usage"]
    for wrong in ((), ("x", "--file", str(file)), ("--file", str(tmp_path / "none"))):
        with pytest.raises(InvalidInput):
            heliu("embed", "encoder", *wrong)


def test_the_command_line_shows_tokens_and_takes_them_back(heliu: Callable[..., str]) -> None:
    told = json.loads(heliu("tokenize", "base", "您好 hi", "--json"))
    assert heliu("detokenize", "base", *map(str, told["tokens"])) == "您好 hi\n"
    chat = heliu("tokenize", "base", "--chat", given="您好").splitlines()
    assert "<|im_start|>" in chat[1]
    assert heliu("tokenize", "base", "-", given="您好 hi").count("\n") == 1 + told["count"]
