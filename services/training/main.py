"""`python -m services.training.main`: a worker of the queue `training.<pool>`. Never imports torch."""

from __future__ import annotations

import os
import sys
from functools import partial

from services.training import tasks
from shared.contracts.base import JobContract
from shared.contracts.encoders import TrainEncoder
from shared.contracts.heads import TrainHead
from shared.contracts.training import Evaluate, FineTune, Pretrain
from shared.errors import HeliuError
from shared.job_context import Handler
from shared.settings import read_settings
from shared.worker import Worker, WorkerSpec, open_platform

SLOTS = 1


def main() -> int:
    try:
        settings = read_settings(os.environ)
        platform = open_platform(settings, "training")
    except HeliuError as exc:
        sys.stderr.write(f"training: {exc.message}\n")
        return 78
    handlers: dict[type[JobContract], Handler] = {
        Pretrain: partial(tasks.pretrain, platform),
        FineTune: partial(tasks.fine_tune, platform),
        TrainHead: partial(tasks.train_head, platform),
        TrainEncoder: partial(tasks.train_encoder, platform),
        Evaluate: partial(tasks.evaluate, platform),
    }
    spec = WorkerSpec("training", {Pretrain.queue_for(settings.pool): settings.slots or SLOTS})
    return Worker(platform, spec, handlers).run()


if __name__ == "__main__":
    sys.exit(main())
