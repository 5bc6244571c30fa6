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
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
