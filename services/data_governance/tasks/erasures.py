"""Queue entry of erasures: look everywhere, and bury what was found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from services.data_governance.erasure import scan
from services.data_governance.erasure.subject import Match
from services.data_governance.lineage import row_index
from services.data_governance.repository import erasures
from shared.contracts.erasure import EraseSubject
from shared.contracts.recipe import InputMapping
from shared.db import Connection, Row
from shared.errors import InvalidInput
from shared.job_context import JobContext, Outcome
from shared.worker import Platform

SHOWN = 100


def erase_subject(platform: Platform, ctx: JobContext, job: EraseSubject) -> Outcome:
    """What holds the subject's rows; unless it is a dry run, they are buried and all that has them is flagged."""
    look = _Look(platform, ctx, job)
    files = look.through_files()
    look.through_versions()
    affected = look.affected()
    data = [*affected, *(file["id"] for file in files)]
    with ctx.transaction() as connection:
        models = erasures.models(connection, ctx.job.tenant_id, data)
        building = erasures.running_builds(connection, ctx.job.tenant_id)
    result: dict[str, Any] = {
        "erasure_id": job.erasure_id,
        "dry_run": job.dry_run,
        "rows": len(look.row_ids),
        "row_ids": sorted(look.row_ids)[:SHOWN],
        "versions": list(affected.values()),
        "models": models,
        "files": files,
        "unread_files": look.unread,
        # Ask again when these have ended: their versions were not there yet.
        "running_builds": building,
    }

    def write(connection: Connection) -> None:
        erasures.bury(
            connection,
            ctx.job.tenant_id,
            erasure_id=job.erasure_id,
            job_id=ctx.job.id,
            actor=ctx.job.api_key_id or "local",
            subject=job.subject.model_dump(mode="json", exclude_defaults=True),
            row_ids=sorted(look.row_ids),
            versions=list(affected),
            models=models,
            found={name: value for name, value in result.items() if name not in ("erasure_id", "dry_run")},
        )

    return Outcome(result=result, write=None if job.dry_run else write)


class _Look:
    """One look through all that a tenant has; `row_ids` grows as it goes."""

    def __init__(self, platform: Platform, ctx: JobContext, job: EraseSubject) -> None:
        self._platform, self._ctx = platform, ctx
        self._cache = platform.settings.home / "cache"
        subject = job.subject
        self._match = (
            Match(subject.column, subject.value_sha256) if subject.column and subject.value_sha256 else None
        )
        self.row_ids: set[str] = set(subject.row_ids)
        self.unread: list[dict[str, str]] = []
        with ctx.transaction() as connection:
            self._versions = erasures.versions(connection, ctx.job.tenant_id)
            self._files = erasures.files(connection, ctx.job.tenant_id)
        self._made = [scan.made_from(self._folder(version)) for version in self._versions]

    def through_files(self) -> list[dict[str, Any]]:
        """Files with rows of the subject, which only their owner can delete; ids of the rows are taken down."""
        if self._match is None:
            return self._files_of_rows()
        return [told for file in self._files if (told := self._through(file, self._match)) is not None]

    def _through(self, file: Row, match: Match) -> dict[str, Any] | None:
        path = self._platform.artifacts.path(file["artifact"])
        sha256 = file["artifact"].removeprefix("sha256:")
        try:
            hits = scan.in_file(
                path, file["filename"], sha256, match, self._mappings(file["artifact"]), self._alive
            )
        except InvalidInput as exc:
            self.unread.append({"id": file["id"], "filename": file["filename"], "reason": exc.message})
            return None
        if not hits:
            return None
        self.row_ids |= {hit.row_id for hit in hits}
        return _file(file, sorted({hit.line for hit in hits}))

    def _mappings(self, artifact: str) -> list[InputMapping]:
        """How versions were made of these bytes: under each mapping a row has an id of its own."""
        found = [mapping for made in self._made for mapping in made.mappings(artifact)]
        return [mapping for n, mapping in enumerate(found) if mapping not in found[:n]]

    def _files_of_rows(self) -> list[dict[str, Any]]:
        lines: dict[str, set[int]] = {}
        for version in self._versions:
            for row in row_index.find(self._folder(version), self._cache / "row-index", sorted(self.row_ids)):
                if file := version["files"][row.get("source", 0)]:
                    lines.setdefault(file, set()).add(row["line"])
        return [_file(file, sorted(lines[file["id"]])) for file in self._files if file["id"] in lines]

    def through_versions(self) -> None:
        """Take down rows that match, and rows that were put together from others of the subject."""
        for version in self._versions:
            folder = self._folder(version)
            if self._match is not None:
                self.row_ids |= set(scan.in_version(folder, self._match, self._alive))
        for version in self._versions:
            if self.row_ids:
                self.row_ids |= set(scan.made_of(self._folder(version), self.row_ids, self._alive))

    def affected(self) -> dict[str, dict[str, Any]]:
        """The versions that hold any of the rows, by id."""
        found: dict[str, dict[str, Any]] = {}
        for version in self._versions:
            rows = self._held(version, sorted(self.row_ids))
            if rows:
                about = {"id": version["id"], "datasets": version["datasets"], "current": version["current"]}
                found[version["id"]] = {**about, "rows": rows}
        return found

    def _held(self, version: Row, row_ids: Sequence[str]) -> int:
        self._alive()
        return len(row_index.find(self._folder(version), self._cache / "row-index", row_ids))

    def _folder(self, version: Row) -> Any:
        return self._platform.artifacts.materialize(version["artifact"], self._cache)

    def _alive(self) -> None:
        self._ctx.check()
        self._ctx.touch()


def _file(file: Row, lines: Sequence[int]) -> dict[str, Any]:
    told = {name: file[name] for name in ("id", "filename", "purpose")}
    return {**told, "rows": len(lines), "lines": list(lines[:SHOWN])}
