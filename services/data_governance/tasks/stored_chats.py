"""Queue entry of files that are made of stored chats."""

from __future__ import annotations

import tempfile
from collections import Counter

from services.data_governance import distilled
from services.data_governance.repository import stored_chats as repository
from shared import stored_chats
from shared.contracts.stored_chats import ExportChats
from shared.db import Connection
from shared.errors import InvalidInput
from shared.job_context import JobContext, Outcome
from shared.worker import Platform

TELL_ROWS = 500


def export_chats(platform: Platform, ctx: JobContext, job: ExportChats) -> Outcome:
    """The answers as a file for fine-tuning, which leads back to each of them."""
    ctx.progress(phase="reading")
    answers: list[str] = []
    left_out: Counter[str] = Counter()
    with tempfile.TemporaryFile() as lines:
        for seen, chat in enumerate(stored_chats.each(ctx.transaction, ctx.job.tenant_id, job.chats), 1):
            line, why = distilled.row_of(chat.body)
            if why is not None:
                left_out[why] += 1
            else:
                lines.write(line)
                answers.append(chat.id)
            if seen % TELL_ROWS == 0:
                ctx.check()
                ctx.progress(rows=len(answers))
        if not answers:
            raise InvalidInput(
                f"none of {left_out.total()} stored chats has an answer in text that came to its end: "
                f"{', '.join(f'{count} {why}' for why, count in sorted(left_out.items())) or 'they are gone'}",
                code="nothing_stored",
                param="model",
            )
        lines.seek(0)
        artifact, size = platform.artifacts.put(lines)
    # Named by the attempt's job, so that an end whose COMMIT was in doubt writes the same again.
    file_id = f"file-{ctx.job.id.rpartition('-')[2]}"

    def write(connection: Connection) -> None:
        tenant = ctx.job.tenant_id
        repository.add_file(connection, tenant, file_id, job.filename, size, artifact, ctx.job.id)
        repository.add_origins(connection, tenant, file_id, answers, ctx.job.id)

    return Outcome(
        result={
            "file_id": file_id,
            "filename": job.filename,
            "bytes": size,
            "rows": len(answers),
            "left_out": dict(left_out),
        },
        write=write,
    )
