"""`python -m services.data_governance.main`: a worker of the queues `data` and `data.live`."""

from __future__ import annotations

import os
import sys
from functools import partial

from services.data_governance.tasks import builds, erasures, lineage, retrieval, warehouse
from shared.contracts.base import JobContract, LiveCall
from shared.contracts.data_governance import BuildVersion, PreviewRows
from shared.contracts.erasure import EraseSubject
from shared.contracts.lineage import FindRows, VersionRows
from shared.contracts.retrieval import IndexFile, ReadChunks, SearchStore
from shared.contracts.warehouse import CollectGarbage, DiffVersions, ExportVersion, QueryVersions
from shared.errors import HeliuError
from shared.job_context import Handler
from shared.live_server import LiveHandler
from shared.settings import read_settings
from shared.worker import Worker, WorkerSpec, open_platform

SLOTS = 1
LIVE_SLOTS = 4


def main() -> int:
    try:
        settings = read_settings(os.environ)
        platform = open_platform(settings, "data_governance")
    except HeliuError as exc:
        sys.stderr.write(f"data_governance: {exc.message}\n")
        return 78
    segments = retrieval.segment_cache(platform)
    handlers: dict[type[JobContract], Handler] = {
        BuildVersion: partial(builds.build_version, platform),
        IndexFile: partial(retrieval.index_file, platform),
        EraseSubject: partial(erasures.erase_subject, platform),
        ExportVersion: partial(warehouse.export_version, platform),
        CollectGarbage: partial(warehouse.collect_garbage, platform),
    }
    spec = WorkerSpec(
        "data_governance",
        {BuildVersion.queue_for(): settings.slots or SLOTS, IndexFile.queue_for(): SLOTS},
        live_queue=PreviewRows.queue_for(),
        live_slots=LIVE_SLOTS,
    )
    live: dict[type[LiveCall], LiveHandler] = {
        PreviewRows: partial(builds.preview_rows, platform),
        FindRows: partial(lineage.find_rows, platform),
        VersionRows: partial(lineage.version_rows, platform),
        QueryVersions: partial(warehouse.query_versions, platform),
        DiffVersions: partial(warehouse.diff_versions, platform),
        SearchStore: partial(retrieval.search_store, platform, segments),
        ReadChunks: partial(retrieval.read_chunks, platform, segments),
    }
    return Worker(platform, spec, handlers, live).run()


if __name__ == "__main__":
    sys.exit(main())
