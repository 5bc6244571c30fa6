"""Generated answers marked as such on the whole platform: live, streamed, in the background, in batches, of tasks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.stage import Stage
from tests.harness import wait_for

pytestmark = pytest.mark.timeout(900)

ASK: list[Any] = [{"role": "user", "content": "退款多久到账"}]
LABELS = ("（AI生成）", " (AI-generated)")


def put(stage: Stage, path: str, body: dict[str, Any], key: str = "") -> Any:
    with stage.http(key) as http:
        answer = http.put(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture
def marked(stage: Stage) -> Iterator[Stage]:
    """Visible marks for the tenant; none again afterwards, for the tests beside this one."""
    put(stage, "/v1/marking", {"mode": "visible", "producer": "Example Ltd"})
    try:
        yield stage
    finally:
        put(stage, "/v1/marking", {"mode": "off"})


def test_the_openai_client_sees_label_and_metadata_and_the_id_leads_back(marked: Stage) -> None:
    told = marked.openai().chat.completions.create(model=marked.tuned, messages=ASK, max_tokens=6, seed=1)
    text = told.choices[0].message.content or ""
    assert text.endswith(LABELS)
    aigc = told.model_extra["heliu"]["AIGC"]  # type: ignore[index]
    assert (aigc["Label"], aigc["ContentProducer"], aigc["ProduceID"]) == ("1", "Example Ltd", told.id)

    def leads_back() -> bool:
        with marked.http() as http:
            found = http.get(f"/v1/lineage/{aigc['ProduceID']}", params={"rows": 0})
        return found.status_code == 200 and marked.version in found.text

    wait_for(leads_back, 20, "the answer in the ledger")


def test_a_stream_carries_the_same_text_once(marked: Stage) -> None:
    options: Any = {"model": marked.tuned, "messages": ASK, "max_tokens": 6, "temperature": 0}
    whole = marked.openai().chat.completions.create(**options).choices[0].message.content
    chunks = list(marked.openai().chat.completions.create(**options, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole
    text = marked.openai().completions.create(model=marked.base, prompt="退款", max_tokens=4).choices[0].text
    assert not text or text.endswith(LABELS)


def test_background_answers_and_batches_are_marked_too(marked: Stage) -> None:
    body = {"model": marked.tuned, "messages": ASK, "max_tokens": 6}
    with marked.http() as http:
        job = http.post("/v1/chat/completions", json={**body, "background": True}).json()["id"]
    marked.succeeded(job)
    told = marked.get(f"/v1/chat/completions/{job}")
    file = marked.batch_file([("one", body)])
    window = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = marked.succeeded(marked.post("/v1/batches", {"input_file_id": file, **window})["id"])
    with marked.http() as http:
        output = http.get(f"/v1/files/{batch['result']['output_file_id']}/content").text
    for answer in (told, json.loads(output)["response"]["body"]):
        assert answer["choices"][0]["message"]["content"].endswith(LABELS)
        assert answer["heliu"]["AIGC"]["ProduceID"] == answer["id"]


def test_a_task_has_a_marking_of_its_own(marked: Stage) -> None:
    spec = {"model": marked.tuned, "prompt": "{{ text }}", "variables": {"text": {}}, "input": "text"}
    marked.post("/v1/tasks", {"name": "marked-reply", "spec": spec})

    def asked() -> dict[str, Any]:
        return dict(
            marked.post(
                "/v1/chat/completions", {"model": "task:marked-reply", "messages": ASK, "max_tokens": 4}
            )
        )

    put(marked, "/v1/tasks/marked-reply/marking", {"mode": "metadata"})
    told = asked()
    assert not told["choices"][0]["message"]["content"].endswith(LABELS)
    assert told["heliu"]["AIGC"]["ContentProducer"] == ""
    put(marked, "/v1/tasks/marked-reply/marking", {"mode": "off"})
    assert "heliu" not in asked()
    with marked.http() as http:
        assert http.delete("/v1/tasks/marked-reply/marking").json()["deleted"] is True
        assert http.delete("/v1/tasks/marked-reply/marking").status_code == 404
        assert http.put("/v1/tasks/nobody/marking", json={"mode": "off"}).status_code == 404
        assert http.put("/v1/marking", json={"mode": "loud"}).status_code == 400
    assert asked()["heliu"]["AIGC"]["ContentProducer"] == "Example Ltd"


def test_another_tenants_answers_are_not_marked(marked: Stage) -> None:
    rival = marked.new_tenant("marking-rival")
    assert marked.get("/v1/marking", rival)["mode"] == "off"
    assert marked.get("/v1/marking")["mode"] == "visible"
    with marked.harness.db.transaction(marked.harness.tenant) as c:
        rows = c.execute("SELECT data FROM core.audit WHERE action = 'marking_set' ORDER BY id").fetchall()
    assert rows[-1]["data"]["mode"] == "visible"
