"""`python -m services.training.main`: a worker of the queue `training.<pool>`. Never imports torch."""

from __future__ import annotations

import os
import sys
from functools import partial

from services.training.devices import find_device
from services.training.tasks import (
    distill,
    encoders,
    evals,
    evaluations,
    grading,
    heads,
    likelihoods,
    multi_task,
    pretrain,
    searches,
    tune,
)
from services.training.tasks.trials import ends_as_trial
from services.training.tracking.trackers import check_installed, secrets_of
from shared.contracts.base import JobContract, LiveCall
from shared.contracts.distillation import Distill
from shared.contracts.encoders import TrainEncoder
from shared.contracts.evals import RunEval
from shared.contracts.grading import GradeSample
from shared.contracts.heads import TrainHead
from shared.contracts.likelihood import MeasureLikelihood
from shared.contracts.multi_task import TrainMultiTask
from shared.contracts.preferences import TunePreferences
from shared.contracts.searches import RunSearch
from shared.contracts.training import LIGHT_QUEUE, Evaluate, FineTune, Pretrain
from shared.errors import HeliuError
from shared.job_context import Handler
from shared.live_server import LiveHandler
from shared.settings import read_settings
from shared.worker import Worker, WorkerSpec, open_platform

SLOTS = 1
LIGHT_SLOTS = 2
LIVE_SLOTS = 1


def main() -> int:
    try:
        settings = read_settings(os.environ)
        check_installed(settings.wanted_trackers)
        platform = open_platform(settings, "training", hidden=secrets_of(os.environ))
    except HeliuError as exc:
        sys.stderr.write(f"training: {exc.message}\n")
        return 78
    handlers: dict[type[JobContract], Handler] = {
        Pretrain: partial(pretrain.pretrain, platform),
        FineTune: partial(tune.fine_tune, platform),
        TunePreferences: partial(tune.tune_preferences, platform),
        TrainHead: partial(heads.train_head, platform),
        TrainEncoder: partial(encoders.train_encoder, platform),
        TrainMultiTask: partial(multi_task.train_multi_task, platform),
        Distill: partial(distill.distill, platform),
        Evaluate: partial(evaluations.evaluate, platform),
    }
    # Any of them may be a trial of a search.
    handlers = {contract: ends_as_trial(handler) for contract, handler in handlers.items()}
    handlers[RunSearch] = partial(searches.search, platform)
    handlers[RunEval] = partial(evals.run_eval, platform)
    handlers[MeasureLikelihood] = partial(likelihoods.measure_likelihood, platform)
    queues = {Pretrain.queue_for(settings.pool): settings.slots or SLOTS, LIGHT_QUEUE: LIGHT_SLOTS}
    spec = WorkerSpec("training", queues, live_queue=GradeSample.queue_for(), live_slots=LIVE_SLOTS)
    live: dict[type[LiveCall], LiveHandler] = {GradeSample: partial(grading.grade_sample, platform)}
    return Worker(platform, spec, handlers, live, info=find_device(os.environ).info).run()


if __name__ == "__main__":
    sys.exit(main())
