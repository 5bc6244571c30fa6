"""Vector stores through the real gateway, queues and workers, as the openai client asks for them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from docx import Document
from typer.testing import CliRunner

from services.cli.main import app
from shared.artifacts import ArtifactStore
from shared.bootstrap import create_key, create_tenant, pepper_of
from shared.errors import HeliuError
from tests import servers
from tests.harness import Harness, platform, wait_for
from tests.unit.inference.tiny_encoders import save_encoder
from tests.unit.inference.tiny_models import save_model

TEXTS = {
    "bank.txt": "本店支持银行转账与刷卡付款。",
    "refund.md": "# 退款\n退货签收后三个工作日内，款项原路退回。",
    "delivery.jsonl": '{"q": "几天能送到", "a": "省内两天送达"}\n{"q": "運費", "a": "满九十九元免运费"}\n',
    "hours.csv": "门店,时间\n北京,09:00-21:00\n成都,10:00-22:00\n",
    "returns.txt": "Goods may be returned within thirty days of delivery.",
}


ENCODER = {"embedding_model": "encoder"}
SMALL = {"max_chunk_size_tokens": 10, "chunk_overlap_tokens": 0}


class Stores:
    """A platform with an encoder; `client` is of the default tenant, `rival` of another."""

    def __init__(self, harness: Harness, folder: Path) -> None:
        self.harness = harness
        self.url = harness.start_gateway()
        self.client = self._client(harness.key())
        with harness.db.core() as c:
            tenant = create_tenant(c, "rival")
            _, key = create_key(c, tenant, "rival", "tenant", pepper_of(harness.settings))
        self.rival = self._client(key)
        store = ArtifactStore(harness.settings.artifact_folder)
        artifact = store.put_tree(save_encoder(folder / "encoder"))
        base = store.put_tree(save_model(folder / "base"))
        with harness.db.transaction(harness.tenant) as c:
            for name, content in (("encoder", artifact), ("base", base)):
                c.execute(
                    "INSERT INTO training.model (tenant_id, id, kind, artifact) VALUES (%s, %s, %s, %s)",
                    (harness.tenant, name, name, content),
                )
        harness.start("inference")
        self.worker = harness.start("data_governance")
        harness.start("dispatcher")

    def _client(self, key: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, timeout=60, max_retries=0)

    def upload(self, name: str, content: bytes | str) -> str:
        raw = content.encode() if isinstance(content, str) else content
        return self.client.files.create(file=(name, raw), purpose="assistants").id

    def filled(self, **options: Any) -> str:
        """A store with all TEXTS, whose attributes are their names."""
        store = self.client.vector_stores.create(name="s", **options)
        files = [
            {
                "file_id": self.upload(name, text),
                "attributes": {"name": name, "rank": rank, "md": ".md" in name},
            }
            for rank, (name, text) in enumerate(TEXTS.items())
        ]
        batch = self.client.vector_stores.file_batches.create_and_poll(
            store.id, files=files, poll_interval_ms=100
        )
        assert batch.file_counts.completed == len(TEXTS), self.harness.logs()
        return store.id

    def found(self, store: str, query: str | list[str], **options: Any) -> list[str]:
        return [hit.filename for hit in self.client.vector_stores.search(store, query=query, **options)]


@pytest.fixture(scope="module")
def stores(
    postgres: servers.RunningServer, valkey: servers.RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stores]:
    url = servers.new_database(postgres.url, "test_vector_stores", template="heliu_template")
    with platform(url, valkey.url) as harness:
        yield Stores(harness, tmp_path_factory.mktemp("models"))
    servers.drop_database(postgres.url, "test_vector_stores")


@pytest.fixture(scope="module")
def words(stores: Stores) -> str:
    """A store that is searched by words alone."""
    return stores.filled()


def test_a_word_of_two_characters_is_found(stores: Stores, words: str) -> None:
    assert stores.found(words, "银行") == ["bank.txt"]


def test_traditional_characters_and_full_width_are_found_as_if_simplified_and_narrow(
    stores: Stores, words: str
) -> None:
    assert stores.found(words, "退貨款項")[0] == "refund.md"
    assert stores.found(words, "运费")[0] == "delivery.jsonl"
    assert stores.found(words, "ＲＥＴＵＲＮＥＤ")[0] == "returns.txt"


def test_several_queries_are_answered_on_one_page(stores: Stores, words: str) -> None:
    page = stores.client.vector_stores.search(words, query=["银行", "thirty days"], max_num_results=2)
    assert {hit.filename for hit in page.data} == {"bank.txt", "returns.txt"}
    assert page.model_extra is not None
    assert page.model_extra["search_query"] == ["银行", "thirty days"]
    assert page.model_extra["ranked_by"] == ["words"]


@pytest.mark.parametrize(
    ("filters", "left"),
    [
        ({"type": "eq", "key": "name", "value": "bank.txt"}, {"bank.txt"}),
        ({"type": "ne", "key": "name", "value": "bank.txt"}, {"refund.md"}),
        ({"type": "gt", "key": "rank", "value": 0}, {"refund.md"}),
        ({"type": "lte", "key": "rank", "value": 0}, {"bank.txt"}),
        ({"type": "in", "key": "name", "value": ["refund.md", "x"]}, {"refund.md"}),
        ({"type": "nin", "key": "name", "value": ["refund.md", "x"]}, {"bank.txt"}),
        (
            {
                "type": "or",
                "filters": [
                    {"type": "eq", "key": "md", "value": True},
                    {"type": "and", "filters": [{"type": "lt", "key": "rank", "value": 1}]},
                ],
            },
            {"bank.txt", "refund.md"},
        ),
    ],
)
def test_filters_leave_files_by_their_attributes(
    stores: Stores, words: str, filters: dict[str, Any], left: set[str]
) -> None:
    assert set(stores.found(words, "银行 退回", filters=filters)) == left


def test_a_threshold_leaves_out_what_scores_less(stores: Stores, words: str) -> None:
    (hit,) = stores.client.vector_stores.search(words, query="银行", max_num_results=1)
    above = {"ranking_options": {"score_threshold": min(1.0, hit.score + 0.01)}}
    assert 0 < hit.score < 1
    assert stores.found(words, "银行", **above) == []


def test_with_an_encoder_a_query_without_a_common_word_finds_something(stores: Stores) -> None:
    store = stores.filled(extra_body={"embedding_model": "encoder"})
    assert stores.client.vector_stores.retrieve(store).model_extra["embedding_model"] == "encoder"  # type: ignore[index]
    page = stores.client.vector_stores.search(store, query="xyzzy", max_num_results=3)
    assert len(page.data) == 3
    assert page.model_extra["ranked_by"] == ["words", "meaning"]  # type: ignore[index]
    scores = [hit.score for hit in page.data]
    assert scores == sorted(scores, reverse=True)
    assert stores.found(store, "长" * 3000, max_num_results=1)


def test_pages_and_paragraphs_of_documents_are_text(stores: Stores) -> None:
    document = Document()
    document.add_paragraph("年假按工龄计算")
    document.add_table(1, 2).rows[0].cells[1].text = "十五天"
    target = io.BytesIO()
    document.save(target)
    store = stores.client.vector_stores.create()
    file = stores.client.vector_stores.files.upload_and_poll(
        vector_store_id=store.id, file=("年假.docx", target.getvalue()), poll_interval_ms=100
    )
    assert file.status == "completed"
    texts = [
        part.text for part in stores.client.vector_stores.files.content(file.id, vector_store_id=store.id)
    ]
    assert texts == ["年假按工龄计算\n\t十五天"]


def test_a_file_that_cannot_be_read_fails_alone_and_says_why(stores: Stores) -> None:
    files = {
        "good.txt": "好的内容",
        "bad.pdf": b"%PDF-1.7 broken",
        "bad.docx": b"no archive",
        "what.exe": b"MZ",
        "empty.txt": b"  \n",
        "line.jsonl": b'{"a": "b"}\n{oops\n',
    }
    ids = {name: stores.upload(name, content) for name, content in files.items()}
    store = stores.client.vector_stores.create(file_ids=list(ids.values()))
    wait_for(
        lambda: stores.client.vector_stores.retrieve(store.id).status == "completed", 60, "the files to end"
    )
    seen = {
        name: stores.client.vector_stores.files.retrieve(id_, vector_store_id=store.id)
        for name, id_ in ids.items()
    }
    assert seen.pop("good.txt").status == "completed"
    assert {file.status for file in seen.values()} == {"failed"}
    codes = {name: file.last_error.code for name, file in seen.items() if file.last_error}
    assert codes == {
        "bad.pdf": "invalid_file",
        "bad.docx": "invalid_file",
        "what.exe": "unsupported_file",
        "empty.txt": "invalid_file",
        "line.jsonl": "invalid_file",
    }
    assert "line 2" in seen["line.jsonl"].last_error.message  # type: ignore[union-attr]
    counts = stores.client.vector_stores.retrieve(store.id).file_counts
    assert (counts.total, counts.completed, counts.failed, counts.in_progress) == (6, 1, 5, 0)


def test_the_same_file_put_in_twice_is_indexed_once(stores: Stores, words: str) -> None:
    (file,) = stores.client.vector_stores.files.list(words, limit=1, order="asc").data
    before = _jobs(stores)
    again = stores.client.vector_stores.files.create(words, file_id=file.id, attributes={"name": "bank.txt"})
    assert again.status == "completed"
    assert _jobs(stores) == before
    other = stores.client.vector_stores.files.create_and_poll(
        file.id,
        vector_store_id=words,
        poll_interval_ms=100,
        attributes={"name": "bank.txt", "rank": 0, "md": False},
        chunking_strategy={
            "type": "static",
            "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 10},
        },
    )
    assert other.status == "completed"
    assert _jobs(stores) == before + 1


def _jobs(stores: Stores) -> int:
    with stores.harness.db.core() as c:
        row = c.execute("SELECT count(*) AS n FROM core.job WHERE kind = 'data.index_file'").fetchone()
    assert row is not None
    return int(row["n"])


def test_stores_and_files_are_paged_both_ways_changed_and_deleted(stores: Stores) -> None:
    made = [stores.client.vector_stores.create(name=f"p{n}", metadata={"n": str(n)}).id for n in range(3)]
    newest = [store.id for store in stores.client.vector_stores.list(limit=2)]
    assert newest[:3] == made[::-1]
    before = stores.client.vector_stores.list(before=made[0], limit=1)
    assert [store.id for store in before.data] == [made[1]]
    changed = stores.client.vector_stores.update(
        made[0], name="q", expires_after={"anchor": "last_active_at", "days": 7}
    )
    assert (changed.name, changed.metadata) == ("q", {"n": "0"})
    assert changed.expires_at == changed.last_active_at + 7 * 86400  # type: ignore[operator]
    assert stores.client.vector_stores.delete(made[0]).deleted
    with pytest.raises(openai.NotFoundError):
        stores.client.vector_stores.retrieve(made[0])


def test_a_file_that_was_taken_out_is_found_no_more(stores: Stores) -> None:
    file = stores.upload("one.txt", "独一无二的内容")
    store = stores.client.vector_stores.create(file_ids=[file])
    stores.client.vector_stores.files.poll(file, vector_store_id=store.id, poll_interval_ms=100)
    assert stores.found(store.id, "独一无二") == ["one.txt"]
    stores.client.vector_stores.files.delete(file, vector_store_id=store.id)
    assert stores.found(store.id, "独一无二") == []
    assert stores.client.files.retrieve(file).id == file


def test_an_expired_store_is_told_so_and_not_searched(stores: Stores) -> None:
    store = stores.client.vector_stores.create(expires_after={"anchor": "last_active_at", "days": 1})
    with stores.harness.db.transaction(stores.harness.tenant) as c:
        c.execute(
            "UPDATE data_governance.vector_store SET last_active_at = now() - interval '2 days' WHERE id = %s",
            (store.id,),
        )
    assert stores.client.vector_stores.retrieve(store.id).status == "expired"
    with pytest.raises(openai.BadRequestError) as refused:
        stores.client.vector_stores.search(store.id, query="x")
    assert refused.value.code == "vector_store_expired"


def test_another_tenant_sees_none_of_it(stores: Stores, words: str) -> None:
    (file,) = stores.client.vector_stores.files.list(words, limit=1).data
    batch = stores.client.vector_stores.file_batches.create(words, file_ids=[file.id]).id
    rival = stores.rival.vector_stores
    for ask in (
        lambda: rival.retrieve(words),
        lambda: rival.update(words, name="mine"),
        lambda: rival.delete(words),
        lambda: rival.search(words, query="银行"),
        lambda: rival.files.list(words),
        lambda: rival.files.create(words, file_id=file.id),
        lambda: rival.files.retrieve(file.id, vector_store_id=words),
        lambda: rival.files.update(file.id, vector_store_id=words, attributes={}),
        lambda: rival.files.delete(file.id, vector_store_id=words),
        lambda: rival.files.content(file.id, vector_store_id=words),
        lambda: rival.file_batches.create(words, file_ids=[file.id]),
        lambda: rival.file_batches.retrieve(batch, vector_store_id=words),
        lambda: rival.file_batches.cancel(batch, vector_store_id=words),
        lambda: rival.file_batches.list_files(batch, vector_store_id=words),
    ):
        with pytest.raises(openai.NotFoundError):
            ask()
    own = rival.create(name="own")
    with pytest.raises(openai.NotFoundError):
        rival.files.create(own.id, file_id=file.id)
    assert [store.id for store in rival.list()] == [own.id]


def test_what_is_not_served_or_wrong_is_refused_with_its_place(stores: Stores, words: str) -> None:
    http = httpx.Client(base_url=stores.url, headers={"authorization": f"Bearer {stores.harness.key()}"})
    search = f"/v1/vector_stores/{words}/search"
    deep: dict[str, Any] = {"type": "eq", "key": "a", "value": 1}
    for _ in range(10):
        deep = {"type": "and", "filters": [deep]}
    for path, body, param in (
        (search, {}, "query"),
        (search, {"query": ""}, "query"),
        (search, {"query": "x", "rewrite_query": True}, "rewrite_query"),
        (search, {"query": "x", "max_num_results": 51}, "max_num_results"),
        (
            search,
            {"query": "x", "ranking_options": {"score_threshold": 2}},
            "ranking_options.score_threshold",
        ),
        (search, {"query": "x", "filters": {"type": "like", "key": "a", "value": "b"}}, "filters.type"),
        (search, {"query": "x", "filters": {"type": "in", "key": "a", "value": "b"}}, "filters"),
        (search, {"query": "x", "filters": deep}, "body"),
        ("/v1/vector_stores", {"embedding_model": "none"}, "embedding_model"),
        ("/v1/vector_stores", {"file_ids": ["file-none"]}, "file_ids[0]"),
        (
            "/v1/vector_stores",
            {"expires_after": {"anchor": "last_active_at", "days": 0}},
            "expires_after.days",
        ),
        (
            "/v1/vector_stores",
            {
                "chunking_strategy": {
                    "type": "static",
                    "static": {"max_chunk_size_tokens": 10, "chunk_overlap_tokens": 0},
                }
            },
            "chunking_strategy.static.max_chunk_size_tokens",
        ),
        (f"/v1/vector_stores/{words}/file_batches", {}, "body"),
        (f"/v1/vector_stores/{words}/files", {"file_id": "file-x", "attributes": {"a": [1]}}, "attributes.a"),
    ):
        answer = http.post(path, json=body)
        assert answer.status_code in (400, 404), (path, body, answer.text)
        assert answer.json()["error"]["param"] == param, (body, answer.text)
    http.close()


def test_the_command_line_makes_fills_searches_and_removes_a_store(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HELIU_GATEWAY_URL", stores.url)
    monkeypatch.setenv("HELIU_API_KEY", stores.harness.key())
    note = tmp_path / "note.md"
    note.write_text("年假按工龄计算", encoding="utf-8")
    broken = tmp_path / "broken.pdf"
    broken.write_bytes(b"%PDF-")
    store = json.loads(_heliu("create", "handbook", "--model", "encoder", "--days", "3", "--json"))
    assert (store["embedding_model"], store["expires_after"]["days"]) == ("encoder", 3)
    added = json.loads(_heliu("add", store["id"], str(note), "--attribute", "year=2026", "--json"))
    assert [file["status"] for file in added["data"]] == ["completed"]
    with pytest.raises(HeliuError, match="1 of 1 files"):
        _heliu("add", store["id"], str(broken))
    found = json.loads(_heliu("search", store["id"], "年假", "--where", "year=2026", "--json"))
    assert [hit["filename"] for hit in found["data"]] == ["note.md"]
    assert json.loads(_heliu("search", store["id"], "年假", "--where", "year=2027", "--json"))["data"] == []
    assert store["id"] in _heliu("list")
    assert json.loads(_heliu("remove", store["id"], "--json"))["deleted"]


def _heliu(*words: str) -> str:
    ran = CliRunner().invoke(app, ["vector-stores", *words])
    if ran.exception is not None and not isinstance(ran.exception, SystemExit):
        raise ran.exception
    return ran.stdout


@pytest.fixture(scope="module")
def task(stores: Stores) -> str:
    """A task that answers from a store of one file, and says so where it finds nothing."""
    file = stores.upload("refund.txt", "退款三天到账。")
    store = stores.client.vector_stores.create(file_ids=[file])
    stores.client.vector_stores.files.poll(file, vector_store_id=store.id, poll_interval_ms=100)
    http = httpx.Client(base_url=stores.url, headers={"authorization": f"Bearer {stores.harness.key()}"})
    with http:
        for name, found_in in (("help", store.id), ("by-meaning", stores.filled(extra_body=ENCODER))):
            made = http.post("/v1/tasks", json={"name": name, "spec": _spec(found_in)})
            assert made.status_code == 200, made.text
    return store.id


def _spec(store: str) -> dict[str, Any]:
    return {
        "model": "base",
        "prompt": "{{ passages }} {{ q }}",
        "variables": {"q": {}},
        "decoding": {"max_tokens": 4},
        "retrieval": {"vector_store": store, "min_score": 0.1, "max_results": 1, "unknown": "没有找到"},
    }


def _ask(stores: Stores, text: str, **options: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    return stores.client.chat.completions.create(model="task:help", messages=messages, **options)  # type: ignore[arg-type]


def test_a_task_answers_with_the_passages_that_it_found(stores: Stores, task: str) -> None:
    answer = _ask(stores, "退款三天到账")
    told = answer.model_extra["retrieval"]
    assert (told["vector_store"], [p["filename"] for p in told["passages"]]) == (task, ["refund.txt"])
    assert answer.choices[0].message.annotations == []
    assert answer.usage.prompt_tokens > len("退款三天到账")
    first, *_, last = _ask(stores, "退款三天到账", stream=True)
    assert first.model_extra["retrieval"] == told
    assert last.choices[0].delta.model_extra["annotations"] == []


def test_a_task_says_that_it_does_not_know_where_nothing_is_found(stores: Stores, task: str) -> None:
    answer = _ask(stores, "xyzzy")
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("没有找到", "stop")
    assert answer.model_extra["retrieval"]["passages"] == []
    assert answer.usage.total_tokens == 0


def test_rows_of_a_batch_answer_from_the_store_too(stores: Stores, task: str) -> None:
    asked = {
        "found": ("help", "退款三天到账"),
        "unknown": ("help", "xyzzy"),
        "meant": ("by-meaning", "thirty days"),
    }
    rows = [
        {
            "custom_id": name,
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": f"task:{of}", "messages": [{"role": "user", "content": text}]},
        }
        for name, (of, text) in asked.items()
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file = stores.client.files.create(file=("rows.jsonl", lines), purpose="batch")
    batch = stores.client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    stores.harness.wait_job(batch.id)
    ended = stores.client.batches.retrieve(batch.id)
    assert ended.status == "completed", (ended, stores.harness.logs(["inference", "data_governance"]))
    assert ended.output_file_id is not None
    out = stores.client.files.content(ended.output_file_id).text.splitlines()
    bodies = {row["custom_id"]: row["response"]["body"] for row in map(json.loads, out)}
    assert [p["filename"] for p in bodies["found"]["retrieval"]["passages"]] == ["refund.txt"]
    assert bodies["found"]["choices"][0]["message"]["annotations"] == []
    assert bodies["found"]["usage"]["prompt_tokens"] > 0
    assert bodies["unknown"]["choices"][0]["message"]["content"] == "没有找到"
    assert bodies["unknown"]["retrieval"]["passages"] == []
    assert bodies["meant"]["retrieval"]["passages"][0]["filename"] == "returns.txt"


def test_a_task_with_retrieval_refuses_what_it_is_not_served_in(stores: Stores, task: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        _ask(stores, "退款", extra_body={"background": True})
    assert refused.value.code == "unsupported_parameter"


def test_an_encoder_that_was_trained_here_is_served_to_stores(stores: Stores) -> None:
    stores.harness.start("training")
    groups = [("退款", "退钱", "返还货款"), ("密码", "口令", "暗号"), ("请假", "告假", "休息")]
    rows = [{"text": text, "label": str(n)} for n, group in enumerate(groups) for text in group]
    file = stores.client.files.create(
        file=("rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode()), purpose="fine-tune"
    )
    small = {"hidden_size": 32, "heads": 2, "max_length": 32, "batch_size": 6, "n_epochs": 60}
    http = httpx.Client(base_url=stores.url, headers={"authorization": f"Bearer {stores.harness.key()}"})
    body = {"type": "encoder", "name": "own", "training_file": file.id, "validation_file": file.id}
    body["hyperparameters"] = small
    with http:
        job = http.post("/v1/training/jobs", json=body).json()
        ended = stores.harness.wait_job(job["id"])
        assert ended.result is not None, (ended.error, stores.harness.logs(["training"]))
        assert ended.result["held_out"]["recall_at_1"] == 1.0
        assert job["id"] in [one["id"] for one in http.get("/v1/training/jobs").json()["data"]]
    store = stores.client.vector_stores.create(extra_body={"embedding_model": "own"})
    files = [(f"{group[0]}.txt", group[0].encode()) for group in groups]
    stores.client.vector_stores.file_batches.upload_and_poll(store.id, files=files, poll_interval_ms=100)
    assert stores.found(store.id, "口令", max_num_results=1) == ["密码.txt"]


@pytest.mark.parametrize("major", ["1", "2", "3"])
def test_the_client_of_each_major_polls_and_searches_unmodified(stores: Stores, major: str) -> None:
    folder = Path(sys.prefix) / "clients" / f"openai-{major}"
    assert major == "3" or folder.is_dir(), f"{folder} is missing; make setup makes it"
    path = {"PYTHONPATH": str(folder)} if folder.is_dir() else {}
    given = {"OPENAI_BASE_URL": f"{stores.url}/v1", "OPENAI_API_KEY": stores.harness.key()}
    ran = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("vector_store_client.py"))],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **path, **given},
    )
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout)
    assert seen.pop("version").split(".")[0] == major
    assert seen == {
        "file": "completed",
        "attributes": {"year": 2026.0, "draft": False, "field": "hr"},
        "changed": {"year": 2027.0},
        "batch": ["completed", 2],
        "cancelled": "cancelled",
        "in_batch": 2,
        "content": ["年假按工龄计算"],
        "found": ["年假按工龄计算"],
        "pages": 3,
        "removed": True,
        "deleted": True,
    }


def test_killed_in_the_middle_every_file_still_ends_completed_once(stores: Stores) -> None:
    text = "".join(f"第{n}条规定：员工应当遵守第{n}号制度。\n" for n in range(400))
    files = [stores.upload(f"{n}.txt", f"文件{n}\n{text}") for n in range(12)]
    store = stores.client.vector_stores.create(extra_body={"embedding_model": "encoder"})
    batch = stores.client.vector_stores.file_batches.create(store.id, file_ids=files)

    def completed() -> int:
        return stores.client.vector_stores.file_batches.retrieve(
            batch.id, vector_store_id=store.id
        ).file_counts.completed

    for least in (1, 4):
        wait_for(lambda: completed() >= least, 60, "some files to be indexed")  # noqa: B023 - asked at once
        stores.worker.kill()
        stores.worker = stores.harness.start("data_governance")
    ended = stores.client.vector_stores.file_batches.poll(
        batch.id, vector_store_id=store.id, poll_interval_ms=200
    )
    assert (ended.status, ended.file_counts.completed) == ("completed", 12)
    with stores.harness.db.core() as c:
        rows = c.execute(
            "SELECT state, count(*) AS n FROM core.job WHERE kind = 'data.index_file' AND payload ->> 'store_id' = %s "
            "GROUP BY state",
            (store.id,),
        ).fetchall()
    assert rows == [{"state": "succeeded", "n": 12}]
    hits = stores.client.vector_stores.search(store.id, query="文件7", max_num_results=50)
    assert len({(hit.file_id, hit.model_extra["chunk"]) for hit in hits}) == len(hits.data)  # type: ignore[index]
