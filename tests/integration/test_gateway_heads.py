"""Labels and orders of documents through the real gateway, queue, worker and engine, live and in a batch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from typer.testing import CliRunner

from services.cli.main import app
from shared.artifacts import ArtifactStore
from tests import servers
from tests.harness import Harness, platform, wait_for
from tests.unit.inference.tiny_encoders import plain, save_encoder
from tests.unit.inference.tiny_heads import plain_logits, save_head

LABELS = ("退款", "delivery", "card")
ADD = "INSERT INTO training.model (tenant_id, id, kind, artifact) VALUES (%s, %s, %s, %s)"
DOCUMENTS = ["退款三天到账", "we deliver on weekdays", "a", "the card is free"]


class Served:
    """A platform with an encoder, a classifier and a ranker, which are named after their kinds."""

    def __init__(self, harness: Harness, folder: Path) -> None:
        self.harness, self.folder = harness, folder
        self.url = harness.start_gateway()
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=harness.key(), timeout=120)
        store = ArtifactStore(harness.settings.artifact_folder)
        for kind, made in (
            ("encoder", save_encoder(folder / "encoder")),
            ("classifier", save_head(folder / "classifier", labels=LABELS)),
            ("ranker", save_head(folder / "ranker")),
        ):
            with harness.db.transaction(harness.tenant) as connection:
                connection.execute(ADD, (harness.tenant, kind, kind, store.put_tree(made)))
        harness.start("dispatcher")
        harness.start("inference")

    def post(self, path: str, **body: Any) -> Any:
        return self.client.post(path, body=body, cast_to=object)


@pytest.fixture(scope="module")
def served(
    postgres: servers.RunningServer, valkey: servers.RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    url = servers.new_database(postgres.url, "test_heads", template="heliu_template")
    with platform(url, valkey.url) as harness:
        yield Served(harness, tmp_path_factory.mktemp("models"))
    servers.drop_database(postgres.url, "test_heads")


def test_labels_come_in_the_order_of_the_texts_with_what_they_cost(served: Served) -> None:
    texts = [f"第 {i} 行 line {'long ' * (i % 5)}" for i in range(70)]
    answer = served.post("/classifications", model="classifier", input=texts, top_k=2, user="u")
    assert (answer["object"], answer["model"]) == ("list", "classifier")
    assert [row["index"] for row in answer["data"]] == list(range(70))
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] > 70
    for place in (0, 33, 69):
        wanted = plain_logits(served.folder / "classifier", texts[place]).softmax(0)
        row = answer["data"][place]
        assert row["label"] == LABELS[int(wanted.argmax())] == row["predictions"][0]["label"]
        assert row["score"] == pytest.approx(float(wanted.max()), abs=1e-5)
        assert len(row["predictions"]) == 2


def test_documents_come_in_order_by_a_ranker_and_by_an_encoder(served: Served) -> None:
    query = "退款多久"
    ranked = served.post("/rerank", model="ranker", query=query, documents=DOCUMENTS, top_n=3)
    scores = [float(plain_logits(served.folder / "ranker", query, text).sigmoid()[0]) for text in DOCUMENTS]
    order = sorted(range(4), key=lambda i: -scores[i])[:3]
    assert [row["index"] for row in ranked["results"]] == order
    assert [row["relevance_score"] for row in ranked["results"]] == pytest.approx(
        [scores[i] for i in order], abs=1e-5
    )
    assert ranked["results"][0]["document"] == {"text": DOCUMENTS[order[0]]}
    cosine = served.post(
        "/rerank",
        model="encoder",
        query=query,
        documents=[{"text": t} for t in DOCUMENTS],
        return_documents=False,
    )
    wanted = {
        i: float(plain(served.folder / "encoder", query) @ plain(served.folder / "encoder", text))
        for i, text in enumerate(DOCUMENTS)
    }
    assert {row["index"]: row["relevance_score"] for row in cosine["results"]} == pytest.approx(
        wanted, abs=1e-5
    )
    assert "document" not in cosine["results"][0]


@pytest.mark.parametrize(
    ("path", "body", "code", "param"),
    [
        ("/classifications", {"model": "ranker", "input": "x"}, "unsupported_model", "model"),
        ("/classifications", {"model": "encoder", "input": "x"}, "unsupported_model", "model"),
        ("/rerank", {"model": "classifier", "query": "x", "documents": ["y"]}, "unsupported_model", "model"),
        ("/embeddings", {"model": "classifier", "input": "x"}, "unsupported_model", "model"),
        ("/classifications", {"model": "classifier", "input": ["x", ""]}, "invalid_value", "input[1]"),
        ("/classifications", {"model": "classifier", "input": [[1, 2]]}, "invalid_value", "input[0]"),
        ("/classifications", {"model": "classifier", "input": "x", "top_k": 0}, "invalid_value", "top_k"),
        ("/classifications", {"model": "classifier", "input": "x", "topk": 1}, "unknown_parameter", "topk"),
        (
            "/classifications",
            {"model": "classifier", "input": ["x", "long " * 200]},
            "context_length_exceeded",
            "input[1]",
        ),
        ("/rerank", {"model": "ranker", "query": "x", "documents": []}, "invalid_value", "documents"),
        (
            "/rerank",
            {"model": "ranker", "query": "x", "documents": ["y", "long " * 200]},
            "context_length_exceeded",
            "documents[1]",
        ),
        (
            "/rerank",
            {"model": "encoder", "query": "x", "documents": ["y"], "truncate_prompt_tokens": 8},
            "unsupported_parameter",
            "truncate_prompt_tokens",
        ),
        (
            "/rerank",
            {"model": "encoder", "query": "long " * 200, "documents": ["y"]},
            "context_length_exceeded",
            "query",
        ),
    ],
)
def test_what_cannot_be_answered_is_refused_at_its_place(
    served: Served, path: str, body: dict[str, Any], code: str, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        served.post(path, **body)
    assert (caught.value.code, caught.value.param) == (code, param)


def test_long_texts_are_cut_where_that_is_asked_for_and_can_be_counted_before(served: Served) -> None:
    body = {"model": "classifier", "input": "long " * 200}
    answer = served.post("/classifications", **body, truncate_prompt_tokens=-1)
    told = served.post("/tokenize", model="classifier", prompt="long " * 20)
    assert answer["usage"]["prompt_tokens"] == told["max_model_len"] == 66


def test_an_answer_leaves_one_usage_row_with_its_endpoint(served: Served) -> None:
    def usage() -> list[dict[str, Any]]:
        with served.harness.db.transaction(served.harness.tenant) as connection:
            return connection.execute(
                "SELECT * FROM gateway.usage WHERE model = 'ranker' AND status = 'ok' AND job_id IS NULL ORDER BY id"
            ).fetchall()

    before = len(usage())
    answer = served.post("/rerank", model="ranker", query="只此一次", documents=["y", "z"])
    wait_for(lambda: len(usage()) > before, 20, "the usage row")
    row = usage()[-1]
    assert (row["endpoint"], row["prompt_tokens"]) == ("/v1/rerank", answer["usage"]["prompt_tokens"])


def sizes(answer: dict[str, Any]) -> list[float]:
    """What the model made of each text. A sum's last digit depends on which texts are computed with it."""
    if "results" in answer:
        ranked = sorted(answer["results"], key=lambda result: result["index"])
        return [result["relevance_score"] for result in ranked]
    first = answer["data"][0]
    return first["embedding"] if "embedding" in first else [p["score"] for p in first["predictions"]]


def test_models_of_each_kind_answer_by_a_registered_name_and_say_which_version(served: Served) -> None:
    asked = {
        "classifier": ("/classifications", {"input": ["您好"]}),
        "ranker": ("/rerank", {"query": "x", "documents": DOCUMENTS}),
        "encoder": ("/embeddings", {"input": "您好", "user": "ann"}),
    }
    for kind, (path, body) in asked.items():
        name = f"/registry/my-{kind}"
        served.post("/registry", name=f"my-{kind}", gates={"data_gate": "off"})
        served.post(f"{name}/versions", model=kind)
        served.post(f"{name}/versions/1/stage")
        served.post(f"{name}/versions/1/promote")
        answer = served.post(path, model=f"registry:my-{kind}", **body)
        plainly = served.post(path, model=kind, **body)
        assert answer["model"] == f"registry:my-{kind}@1"
        assert sizes(answer) == pytest.approx(sizes(plainly), abs=1e-5)
    wrong = {"model": "registry:my-encoder", "input": "x"}
    with pytest.raises(openai.BadRequestError, match="'encoder' is of the kind 'encoder'"):
        served.post("/classifications", **wrong)

    def usage() -> list[dict[str, Any]]:
        with served.harness.db.transaction(served.harness.tenant) as connection:
            return connection.execute(
                "SELECT model, metadata FROM gateway.usage WHERE metadata ? 'registry' AND job_id IS NULL "
                "AND status = 'ok' ORDER BY id"
            ).fetchall()

    wait_for(lambda: len(usage()) == 3, 20, "the usage rows")
    assert usage() == [
        {"model": kind, "metadata": {"registry": f"my-{kind}", "registry_version": 1}} for kind in asked
    ]


def test_the_command_line_classifies_and_ranks(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIU_GATEWAY_URL", served.url)
    monkeypatch.setenv("HELIU_API_KEY", served.harness.key())
    shown = CliRunner().invoke(app, ["classify", "classifier", "您好", "hello", "--top", "1"])
    assert shown.exit_code == 0, shown.output
    best = served.post("/classifications", model="classifier", input="hello")["data"][0]
    assert shown.stdout.splitlines()[2].split() == ["hello", best["label"], f"{best['score']:.3f}"]
    ranked = CliRunner().invoke(app, ["rerank", "ranker", "退款多久", *DOCUMENTS, "--top", "2", "--json"])
    wanted = served.post("/rerank", model="ranker", query="退款多久", documents=DOCUMENTS, top_n=2)
    assert [row["index"] for row in json.loads(ranked.stdout)["results"]] == [
        row["index"] for row in wanted["results"]
    ]


def test_a_batch_classifies_and_ranks(served: Served) -> None:
    asked = {
        "/v1/classifications": [
            {"model": "classifier", "input": ["您好", "hello"]},
            {"model": "classifier", "input": ["x", "long " * 200]},
        ],
        "/v1/rerank": [
            {"model": "ranker", "query": "x", "documents": DOCUMENTS},
            {"model": "encoder", "query": "x", "documents": DOCUMENTS},
        ],
    }
    batches = {}
    for url, bodies in asked.items():
        lines = [
            {"custom_id": str(i), "method": "POST", "url": url, "body": body} for i, body in enumerate(bodies)
        ]
        content = "\n".join(json.dumps(line) for line in lines).encode()
        file = served.client.files.create(file=("b.jsonl", content), purpose="batch")
        batches[url] = served.client.batches.create(
            input_file_id=file.id,
            endpoint=url,
            completion_window="24h",  # type: ignore[arg-type]
        ).id
    ended = {}
    for url, batch_id in batches.items():
        wait_for(
            lambda name=batch_id: served.client.batches.retrieve(name).status == "completed",  # type: ignore[misc]
            60,
            "the batch",
        )
        ended[url] = served.client.batches.retrieve(batch_id)

    def rows(file_id: str | None) -> dict[str, Any]:
        assert file_id is not None
        text = served.client.files.content(file_id).text
        return {row["custom_id"]: row for row in map(json.loads, text.splitlines())}

    labels = rows(ended["/v1/classifications"].output_file_id)["0"]["response"]["body"]
    live = served.post("/classifications", **asked["/v1/classifications"][0])
    assert [row["label"] for row in labels["data"]] == [row["label"] for row in live["data"]]
    failed = rows(ended["/v1/classifications"].error_file_id)["1"]["response"]
    assert (failed["status_code"], failed["body"]["error"]["param"]) == (400, "input[1]")
    ranked = rows(ended["/v1/rerank"].output_file_id)
    for name, body in zip("01", asked["/v1/rerank"], strict=True):
        order = [row["index"] for row in ranked[name]["response"]["body"]["results"]]
        assert order == [row["index"] for row in served.post("/rerank", **body)["results"]]
