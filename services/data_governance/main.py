"""`python -m services.data_governance.main`: a worker of the queues `data` and `data.live`."""

from __future__ import annotations

import os
import sys
from functools import partial
from threading import BoundedSemaphore

from services.data_governance.tasks import (
    builds,
    consistency,
    erasures,
    label_finding,
    label_imports,
    labelling,
    lineage,
    passages,
    retrieval,
    sources,
    stored_chats,
    warehouse,
)
from shared.bootstrap import sealer_of
from shared.contracts.base import JobContract, LiveCall
from shared.contracts.consistency import CheckConsistency
from shared.contracts.data_governance import BuildPart, BuildVersion, PreviewRows, TryRecipe
from shared.contracts.erasure import EraseSubject
from shared.contracts.labelling import (
    ApplyFunctions,
    ExportLabels,
    FindSuspects,
    ImportItems,
    LabelAgreement,
    PickItems,
)
from shared.contracts.lineage import FindRows, VersionRows
from shared.contracts.retrieval import FindPassages, IndexFile, ReadChunks, SearchStore
from shared.contracts.sources import ReadRows, SyncSource, TestSource
from shared.contracts.stored_chats import ExportChats
from shared.contracts.warehouse import CollectGarbage, DiffVersions, ExportVersion, QueryVersions
from shared.errors import HeliuError
from shared.job_context import Handler
from shared.live_server import LiveHandler
from shared.settings import read_settings
from shared.worker import Worker, WorkerSpec, open_platform

SLOTS = 1
LIVE_SLOTS = 4
# A query may take a minute: some slots are left for whoever looks at a page or labels.
QUERIES = 2
# A sync waits for its source most of the time.
SYNC_SLOTS = 2


def main() -> int:
    try:
        settings = read_settings(os.environ)
        platform = open_platform(settings, "data_governance")
        sealer = sealer_of(settings)
    except HeliuError as exc:
        sys.stderr.write(f"data_governance: {exc.message}\n")
        return 78
    segments = retrieval.segment_cache(platform)
    handlers: dict[type[JobContract], Handler] = {
        BuildVersion: partial(builds.build_version, platform),
        SyncSource: partial(sources.sync_source, platform, sealer),
        CheckConsistency: partial(consistency.check_consistency, platform),
        BuildPart: partial(builds.build_part, platform),
        IndexFile: partial(retrieval.index_file, platform),
        FindPassages: partial(passages.find_passages, platform, segments),
        EraseSubject: partial(erasures.erase_subject, platform),
        ExportVersion: partial(warehouse.export_version, platform),
        CollectGarbage: partial(warehouse.collect_garbage, platform),
    }
    handlers |= {
        ExportChats: partial(stored_chats.export_chats, platform),
        ImportItems: partial(label_imports.import_items, platform),
        ExportLabels: partial(labelling.export_labels, platform),
        FindSuspects: partial(label_finding.find_suspects, platform),
        PickItems: partial(label_finding.pick_items, platform),
        ApplyFunctions: partial(label_finding.apply_functions, platform),
    }
    spec = WorkerSpec(
        "data_governance",
        {
            BuildVersion.queue_for(): settings.slots or SLOTS,
            IndexFile.queue_for(): SLOTS,
            SyncSource.queue_for(): SYNC_SLOTS,
            CheckConsistency.queue_for(): SLOTS,
        },
        live_queue=PreviewRows.queue_for(),
        live_slots=LIVE_SLOTS,
    )
    live: dict[type[LiveCall], LiveHandler] = {
        PreviewRows: partial(builds.preview_rows, platform),
        TryRecipe: partial(builds.try_recipe, platform),
        TestSource: partial(sources.test_source, platform, sealer),
        ReadRows: partial(sources.read_rows, platform),
        LabelAgreement: partial(labelling.label_agreement, platform),
        FindRows: partial(lineage.find_rows, platform),
        VersionRows: partial(lineage.version_rows, platform),
        QueryVersions: partial(warehouse.query_versions, platform, BoundedSemaphore(QUERIES)),
        DiffVersions: partial(warehouse.diff_versions, platform),
        SearchStore: partial(retrieval.search_store, platform, segments),
        ReadChunks: partial(retrieval.read_chunks, platform, segments),
    }
    return Worker(platform, spec, handlers, live).run()


if __name__ == "__main__":
    sys.exit(main())
