"""Evals, runs and output items as the openai client reads them; figures and slices are ours beside them. Pure."""

from __future__ import annotations

from starlette.requests import Request

from services.gateway.shapes import Row, Shape, unix
from shared.contracts.eval_items import STORED_ITEM
from shared.contracts.item_schema import TOLD

NO_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0, "cached_tokens": 0}
ITEM_PREFIX = "outputitem_"
SAMPLE_SCHEMA: Shape = {
    "type": "object",
    "properties": {
        "model": {"type": "string"},
        "output_text": {"type": "string"},
        "output_json": {},
        "output_tools": {"type": "array", "items": {"type": "object"}},
        "finish_reason": {"type": "string"},
        "usage": {"type": "object"},
    },
    "required": ["model", "output_text"],
}


def base(request: Request) -> str:
    """The address of the API, as whoever asks has reached it."""
    return f"{str(request.base_url).rstrip('/')}/v1"


def eval_(row: Row) -> Shape:
    ours = {name: row[name] for name in ("metrics", "slices", "cluster") if row[name]}
    return {
        "id": row["id"],
        "object": "eval",
        "created_at": unix(row["created_at"]),
        "updated_at": unix(row["updated_at"]),
        "name": row["name"],
        "data_source_config": _config(row["data_source_config"]),
        "testing_criteria": row["testing_criteria"],
        "metadata": row["metadata"],
        **ours,
    }


def _config(stored: Row) -> Shape:
    """The schema of all that a template may use, as OpenAI answers it."""
    if stored["type"] != "custom":
        schema = _schema({"item": STORED_ITEM, "sample": SAMPLE_SCHEMA})
        return {"type": stored["type"], "metadata": stored.get("metadata") or {}, "schema": schema}
    item = {k: v for k, v in stored["item_schema"].items() if k not in TOLD or k == "title"}
    properties: Shape = {"item": item}
    if stored["include_sample_schema"]:
        properties["sample"] = SAMPLE_SCHEMA
    return {"type": "custom", "schema": _schema(properties)}


def _schema(properties: Shape) -> Shape:
    return {"type": "object", "properties": properties, "required": list(properties)}


def run(row: Row, criteria: list[Shape], base: str) -> Shape:
    """A run as it stands; `base` is the address of the API that its report is under."""
    result, progress = row["result"] or {}, row["progress"]
    counts = result.get("result_counts") or progress.get("counts") or {}
    nothing = [{"testing_criteria": one["name"], "passed": 0, "failed": 0} for one in criteria]
    figures = {name: result[name] for name in ("passed", "score", "metrics", "slices") if name in result}
    return {
        "id": row["id"],
        "object": "eval.run",
        "eval_id": row["eval_id"],
        "created_at": unix(row["created_at"]),
        "started_at": unix(row["started_at"]),
        "finished_at": unix(row["finished_at"]),
        "name": row["name"],
        "model": row["model"],
        "status": row["status"],
        "data_source": row["data_source"],
        "error": _error(row),
        "metadata": row["metadata"],
        "result_counts": {name: counts.get(name, 0) for name in ("total", "passed", "failed", "errored")},
        "per_model_usage": result.get("per_model_usage", []),
        "per_testing_criteria_results": result.get("per_testing_criteria_results", nothing),
        "report_url": f"{base}/evals/{row['eval_id']}/runs/{row['id']}/report?format=html",
        "job_id": row["id"],
        "phase": progress.get("phase") if row["status"] in ("queued", "in_progress") else None,
        "items": progress.get("total"),
        "trace_id": row["traceparent"].split("-")[1] if row["traceparent"] else None,
        **figures,
    }


def _error(row: Row) -> Shape | None:
    if row["status"] != "failed" or row["error"] is None:
        return None
    return {
        "code": row["error"].get("code", "internal_error"),
        "message": row["error"].get("message", ""),
        "param": row["error"].get("param"),
    }


def output_item(row: Row, eval_id: str, run_id: str) -> Shape:
    body = row["body"]
    status = "error" if row["error"] is not None else "pass" if row["passed"] else "fail"
    return {
        "id": item_id(run_id, row["item_no"]),
        "object": "eval.run.output_item",
        "created_at": unix(row["created_at"]),
        "run_id": run_id,
        "eval_id": eval_id,
        "status": status,
        "datasource_item_id": row["item_no"],
        "datasource_item": body["item"],
        "results": body["results"],
        "sample": _sample(body),
        "score": row["score"],
        "slices": row["slices"],
        "item_key": row["item_key"],
        "error": row["error"],
    }


def _sample(body: Row) -> Shape:
    sample = body["sample"]
    usage = sample.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    output = sample.get("output_text")
    return {
        "error": body.get("sample_error"),
        "finish_reason": sample.get("finish_reason") or "",
        "input": body["input"],
        "output": [{"role": "assistant", "content": output}] if output is not None else [],
        "model": sample.get("model") or "",
        "max_completion_tokens": 0,
        "seed": 0,
        "temperature": 0.0,
        "top_p": 1.0,
        "usage": {
            **NO_USAGE,
            **{name: usage[name] for name in NO_USAGE if isinstance(usage.get(name), int)},
            "cached_tokens": details.get("cached_tokens", 0),
        },
    }


def item_id(run_id: str, number: int) -> str:
    """Of a run's item: it stays what it is, and says which item it is."""
    return f"{ITEM_PREFIX}{run_id.removeprefix('evalrun_')}_{number}"


def item_number(run_id: str, item: str) -> int | None:
    """The number in an id of this run; None for any other text."""
    start = f"{ITEM_PREFIX}{run_id.removeprefix('evalrun_')}_"
    digits = item.removeprefix(start)
    if not item.startswith(start) or not digits.isascii() or not digits.isdigit() or len(digits) > 9:
        return None
    return int(digits)
