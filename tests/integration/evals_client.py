"""`client.evals` and its graders from create to delete, by whichever major of the openai client is on the path.

Base URL and key are its arguments; what it saw is one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import openai

SCHEMA = {
    "type": "object",
    "properties": {"q": {"type": "string"}, "a": {"type": "string"}},
    "required": ["q", "a"],
}
EXACT: Any = {
    "type": "string_check",
    "name": "exact",
    "input": "{{sample.output_text}}",
    "reference": "{{item.a}}",
    "operation": "eq",
}


def stored(client: openai.OpenAI) -> dict[str, Any]:
    """Chats that are stored, read and labelled, and an eval over them as they are."""
    use = {"major": openai.__version__}
    for text in ("red", "blue"):
        messages: Any = [{"role": "user", "content": text}]
        client.chat.completions.create(model="far", messages=messages, store=True, metadata=use)
    found = list(client.chat.completions.list(metadata=use, limit=1))
    red = client.chat.completions.retrieve(found[0].id)
    labelled = client.chat.completions.update(red.id, metadata={**use, "kind": "warm"})
    config: Any = {"type": "stored_completions", "metadata": use}
    criterion: Any = {**EXACT, "reference": "{{item.input[0].content}}"}
    made = client.evals.create(name="stored", data_source_config=config, testing_criteria=[criterion])
    source: Any = {"type": "stored_completions", "metadata": {"kind": "warm"}}
    run = client.evals.runs.create(made.id, data_source={"type": "completions", "source": source})
    while run.status in ("queued", "in_progress"):
        time.sleep(0.1)
        run = client.evals.runs.retrieve(run.id, eval_id=made.id)
    return {
        "said": [one.choices[0].message.content for one in found],
        "asked": [one.content for one in client.chat.completions.messages.list(red.id)],
        "labels": (labelled.metadata or {}).get("kind"),
        "passed": [run.status, run.result_counts.passed, run.result_counts.total],
        "deleted": [client.chat.completions.delete(one.id).deleted for one in found],
    }


def main() -> None:
    client = openai.OpenAI(base_url=sys.argv[1], api_key=sys.argv[2], timeout=60, max_retries=0)
    made = client.evals.create(
        name="of a major",
        data_source_config={"type": "custom", "item_schema": SCHEMA, "include_sample_schema": True},
        testing_criteria=[EXACT],
    )
    run = client.evals.runs.create(
        made.id,
        data_source={
            "type": "completions",
            "model": "far",
            "source": {
                "type": "file_content",
                "content": [{"item": {"q": f"say {n}", "a": "say 0"}} for n in range(3)],
            },
            "input_messages": {"type": "template", "template": [{"role": "user", "content": "{{item.q}}"}]},
        },
    )
    while run.status in ("queued", "in_progress"):
        time.sleep(0.1)
        run = client.evals.runs.retrieve(run.id, eval_id=made.id)
    items = list(client.evals.runs.output_items.list(run.id, eval_id=made.id, limit=1))
    one = client.evals.runs.output_items.retrieve(items[0].id, eval_id=made.id, run_id=run.id)
    renamed = client.evals.update(made.id, name="renamed")
    try:
        client.evals.runs.cancel(run.id, eval_id=made.id)
        cancelled = "cancelled"
    except openai.ConflictError as exc:
        cancelled = str(exc.code)
    tried = client.fine_tuning.alpha.graders.run(grader=EXACT, model_sample="yes", item={"a": "yes"})
    seen = {
        "version": openai.__version__,
        "status": run.status,
        "counts": run.result_counts.to_dict(),
        "items": [item.status for item in items],
        "one": one.results[0].name,
        "renamed": renamed.name,
        "cancelled": cancelled,
        "reward": tried.reward,
        "runs": [found.id == run.id for found in client.evals.runs.list(made.id)],
        "listed": made.id in [found.id for found in client.evals.list(order="desc")],
        "run_deleted": client.evals.runs.delete(run.id, eval_id=made.id).deleted,
        "deleted": client.evals.delete(made.id).deleted,
        "stored": stored(client),
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
