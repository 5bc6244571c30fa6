"""What must hold when everything has ended, asked of the database and the stored files alone.

One function a promise; each returns the breaches in words, so that a failing run says all that is wrong.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from shared.artifacts import ArtifactStore
from shared.contracts.background import ChatJob, unpack_entries
from shared.db import Connection
from shared.jobs import TERMINAL
from tests.chaos.echo_engine import echo
from tests.chaos.load import Accepted

ENDS = {f"job_{state.value}": state.value for state in TERMINAL}


def breaches(connection: Connection, artifacts: ArtifactStore, accepted: Accepted) -> dict[str, list[str]]:
    """Breaches by promise, empty lists where it held."""
    checks: dict[str, Callable[[], Iterator[str]]] = {
        "lost": lambda: lost(connection, accepted),
        "ended_twice": lambda: ended_twice(connection),
        "unfenced": lambda: unfenced(connection),
        "rows_lost": lambda: rows_lost(connection, accepted),
        "rows_doubled": lambda: rows_doubled(connection),
        "chats": lambda: chats(connection, accepted),
        "files": lambda: files(connection, artifacts, accepted),
        "lanes": lambda: lanes(connection),
        "limits": lambda: limits(connection),
    }
    return {name: list(check()) for name, check in checks.items()}


def lost(c: Connection, accepted: Accepted) -> Iterator[str]:
    """Every accepted job is there and has ended, its parts too."""
    states = {row["id"]: row["state"] for row in c.execute("SELECT id, state FROM core.job").fetchall()}
    for job_id in accepted.jobs:
        if job_id not in states:
            yield f"{job_id} was accepted and is not there"
    for job_id, state in states.items():
        if state not in TERMINAL:
            yield f"{job_id} is {state}"


def ended_twice(c: Connection) -> Iterator[str]:
    """Exactly one event of an end for every job, and it is the end that the job has."""
    rows = c.execute(
        "SELECT j.id, j.state, array_agg(e.type ORDER BY e.id) FILTER (WHERE e.type = ANY(%s)) AS ends "
        "FROM core.job j LEFT JOIN core.job_event e ON e.job_id = j.id GROUP BY j.id",
        (list(ENDS),),
    ).fetchall()
    for row in rows:
        if [ENDS[end] for end in row["ends"] or ()] != [row["state"]]:
            yield f"{row['id']} is {row['state']} with the ends {row['ends']}"


def unfenced(c: Connection) -> Iterator[str]:
    """Each start is one epoch; a step belongs to the epoch that had begun last, comes once and in order."""
    rows = c.execute("SELECT job_id, type, data FROM core.job_event ORDER BY job_id, id").fetchall()
    job, epoch, step = "", 0, 0
    for row in rows:
        if row["job_id"] != job:
            job, epoch, step = row["job_id"], 0, 0
        if row["type"] == "job_started":
            epoch, step = epoch + 1, 0
        elif row["type"] == "noop_step":
            if row["data"]["epoch"] != epoch:
                yield f"{job}: epoch {row['data']['epoch']} wrote after epoch {epoch} had begun"
            if row["data"]["step"] != step + 1:
                yield f"{job}: step {row['data']['step']} after step {step} in epoch {epoch}"
            step = row["data"]["step"]
    for row in c.execute(
        "SELECT j.id, j.epoch, count(e.id) AS starts FROM core.job j LEFT JOIN core.job_event e "
        "ON e.job_id = j.id AND e.type = 'job_started' GROUP BY j.id HAVING count(e.id) <> j.epoch"
    ).fetchall():
        yield f"{row['id']} has {row['starts']} starts and epoch {row['epoch']}"


def rows_lost(c: Connection, accepted: Accepted) -> Iterator[str]:
    """A batch that has ended well has a stored row for each line of its input, with the line's own answer."""
    for batch_id, texts in accepted.batches.items():
        job: Any = c.execute("SELECT state, result FROM core.job WHERE id = %s", (batch_id,)).fetchone()
        stored = c.execute(
            "SELECT row_no, custom_id, status_code, body FROM inference.batch_row WHERE batch_id = %s ORDER BY row_no",
            (batch_id,),
        ).fetchall()
        if job["state"] != "succeeded":
            yield f"{batch_id} ended as {job['state']}"
        if [row["row_no"] for row in stored] != list(range(len(texts))):
            yield f"{batch_id} has {len(stored)} rows of {len(texts)}"
        for row in stored:
            if row["custom_id"] != f"r{row['row_no']}":
                yield f"{batch_id} row {row['row_no']} is called {row['custom_id']}"
            elif row["status_code"] == 200 and said(row["body"]) != echo(texts[row["row_no"]]):
                yield f"{batch_id} row {row['row_no']} has the answer of another"


def rows_doubled(c: Connection) -> Iterator[str]:
    """One row of usage for each answer: none twice, none without."""
    for row in c.execute(
        "SELECT r.batch_id, r.row_no, count(u.id) AS charged FROM inference.batch_row r "
        "LEFT JOIN gateway.usage u ON u.request_id = r.batch_id || ':' || r.row_no "
        "WHERE r.status_code = 200 GROUP BY 1, 2 HAVING count(u.id) <> 1"
    ).fetchall():
        yield f"{row['batch_id']} row {row['row_no']} is charged {row['charged']} times"
    row = c.execute(
        "SELECT count(*) AS n FROM gateway.usage u WHERE NOT EXISTS (SELECT 1 FROM inference.batch_row r "
        "WHERE u.request_id = r.batch_id || ':' || r.row_no) "
        "AND NOT EXISTS (SELECT 1 FROM inference.chat_answer a WHERE u.request_id = a.job_id)"
    ).fetchone()
    if row is not None and row["n"]:
        yield f"{row['n']} answers are charged that no row and no chat holds"


def chats(c: Connection, accepted: Accepted) -> Iterator[str]:
    """A chat in the background ends with its own answer, told whole in its entries, and is charged once."""
    rows = c.execute(
        "SELECT j.id, j.state, a.entries, count(u.id) AS charged FROM core.job j "
        "LEFT JOIN inference.chat_answer a ON a.job_id = j.id LEFT JOIN gateway.usage u ON u.request_id = j.id "
        "WHERE j.kind = %s GROUP BY j.id, j.state, a.entries",
        (ChatJob.kind,),
    ).fetchall()
    for row in rows:
        if row["state"] != "succeeded" or row["charged"] != 1:
            yield f"{row['id']} ended as {row['state']} and is charged {row['charged']} times"
        if row["entries"] is None:
            yield f"{row['id']} has no answer"
            continue
        told = unpack_entries(bytes(row["entries"]))
        whole = [data["choices"][0]["text"] for kind, data in told if kind == "done"]
        grown = "".join(data["text"] for kind, data in told if kind == "token")
        if whole != [grown] or grown != echo(accepted.chats.get(row["id"], "")):
            yield f"{row['id']} told {grown!r} and ended with {whole}"


def files(c: Connection, artifacts: ArtifactStore, accepted: Accepted) -> Iterator[str]:
    """Output and error file together hold each line once, each in the order of the input; published once."""
    for batch_id, texts in accepted.batches.items():
        found = c.execute(
            "SELECT id, filename, artifact FROM gateway.file WHERE job_id = %s", (batch_id,)
        ).fetchall()
        names = Counter(row["filename"] for row in found)
        if any(count > 1 for count in names.values()):
            yield f"{batch_id} published {dict(names)}"
        numbers: list[int] = []
        for row in found:
            with artifacts.open(row["artifact"]) as source:
                written = [json.loads(line) for line in source]
            own = [int(line["custom_id"][1:]) for line in written]
            if own != sorted(own):
                yield f"{row['filename']} is out of order"
            numbers += own
            for line in written:
                response = line["response"]
                if response["status_code"] == 200 and said(response["body"]) != echo(
                    texts[int(line["custom_id"][1:])]
                ):
                    yield f"{row['filename']} has another's answer at {line['custom_id']}"
        if sorted(numbers) != list(range(len(texts))):
            yield f"{batch_id} wrote {len(numbers)} lines of {len(texts)}"


def lanes(c: Connection) -> Iterator[str]:
    """Nothing runs, so no lane counts anything."""
    for row in c.execute("SELECT queue, tenant_id, running FROM core.lane WHERE running <> 0").fetchall():
        yield f"lane {row['queue']} of {row['tenant_id']} counts {row['running']}"


def limits(c: Connection) -> Iterator[str]:
    """No job took more attempts or crashes than it may, and `dead` is only what has used them up."""
    for row in c.execute(
        "SELECT id, state, attempt, max_attempts, crashes, max_crashes FROM core.job "
        "WHERE attempt > max_attempts OR crashes > max_crashes "
        "OR (state = 'dead' AND attempt < max_attempts AND crashes < max_crashes)"
    ).fetchall():
        yield str(row)


def said(body: dict[str, Any]) -> str:
    return str(body["choices"][0]["message"]["content"])
