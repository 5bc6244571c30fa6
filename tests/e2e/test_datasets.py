"""What the API tells of a governed upload, beyond its job."""

from __future__ import annotations

import json

from tests.e2e.stage import Stage


def test_every_row_that_could_not_be_read_is_told_with_its_line(stage: Stage) -> None:
    good = json.dumps({"question": "q", "answer": "a"}).encode()
    lines = [good if n % 3 == 0 else b"{bad" for n in range(900)]
    job = stage.govern("dirty", b"\n".join(lines))
    path = f"/v1/datasets/dirty/versions/{job['result']['version_id']}/bad_rows"
    first = stage.get(path, limit=500)
    assert (first["total"], first["has_more"]) == (600, True)
    rest = stage.get(path, offset=500, limit=500)
    assert not rest["has_more"]
    told = [*first["data"], *rest["data"]]
    assert [row["line"] for row in told] == [n + 1 for n in range(900) if n % 3]
    assert {row["code"] for row in told} == {"not_json"}
