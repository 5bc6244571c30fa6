"""Every kind of job and live call by name, so that a row or message can be parsed into its contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from shared.contracts.background import ChatJob
from shared.contracts.base import JobContract, LiveCall
from shared.contracts.batches import Batch, BatchShard
from shared.contracts.consistency import CheckConsistency
from shared.contracts.core import Noop
from shared.contracts.data_governance import BuildPart, BuildVersion, PreviewRows, TryRecipe
from shared.contracts.distillation import Distill
from shared.contracts.encoders import TrainEncoder
from shared.contracts.erasure import EraseSubject
from shared.contracts.evals import RunEval
from shared.contracts.grading import GradeSample
from shared.contracts.heads import TrainHead
from shared.contracts.inference import Detokenize, Embed, Generate, Tokenize
from shared.contracts.labelling import (
    ApplyFunctions,
    ExportLabels,
    FindSuspects,
    ImportItems,
    LabelAgreement,
    PickItems,
)
from shared.contracts.likelihood import MeasureLikelihood
from shared.contracts.lineage import FindRows, VersionRows
from shared.contracts.models import ImportModel
from shared.contracts.multi_task import TrainMultiTask
from shared.contracts.preferences import TunePreferences
from shared.contracts.retrieval import EmbedTexts, FindPassages, IndexFile, ReadChunks, SearchStore
from shared.contracts.scores import Classify, Rerank
from shared.contracts.searches import RunSearch
from shared.contracts.sources import ReadRows, SyncSource, TestSource
from shared.contracts.stored_chats import ExportChats
from shared.contracts.training import Evaluate, FineTune, Pretrain
from shared.contracts.warehouse import CollectGarbage, DiffVersions, ExportVersion, QueryVersions
from shared.errors import InvalidInput

JOBS: Mapping[str, type[JobContract]] = {
    contract.kind: contract
    for contract in (
        Noop,
        BuildVersion,
        SyncSource,
        CheckConsistency,
        BuildPart,
        Pretrain,
        FineTune,
        TunePreferences,
        TrainHead,
        TrainEncoder,
        TrainMultiTask,
        Distill,
        RunSearch,
        Evaluate,
        RunEval,
        MeasureLikelihood,
        Batch,
        BatchShard,
        ChatJob,
        ImportModel,
        EraseSubject,
        ExportVersion,
        CollectGarbage,
        IndexFile,
        EmbedTexts,
        FindPassages,
        ImportItems,
        ExportLabels,
        FindSuspects,
        PickItems,
        ApplyFunctions,
        ExportChats,
    )
}
CALLS: Mapping[str, type[LiveCall]] = {
    contract.name: contract
    for contract in (
        Generate,
        Embed,
        Classify,
        Rerank,
        Tokenize,
        Detokenize,
        PreviewRows,
        TryRecipe,
        TestSource,
        ReadRows,
        SearchStore,
        ReadChunks,
        GradeSample,
        LabelAgreement,
        FindRows,
        VersionRows,
        QueryVersions,
        DiffVersions,
    )
}


def parse_job(kind: str, payload: Mapping[str, Any]) -> JobContract:
    """The contract of a stored job; raises InvalidInput when this code does not know its shape."""
    if kind not in JOBS:
        raise InvalidInput(f"no job is of kind {kind!r}; there are {', '.join(sorted(JOBS))}", param="kind")
    try:
        return JOBS[kind].model_validate(payload)
    except ValidationError as exc:
        raise InvalidInput(f"payload of {kind} does not fit its contract: {exc}", param="payload") from exc
