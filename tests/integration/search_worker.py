"""A worker of training whose trainer makes no model: the platform's own in everything else."""

from __future__ import annotations

import sys
from functools import partial

from services.training import main, supervise
from services.training.tasks import runs

if __name__ == "__main__":
    runs.supervise = partial(supervise.supervise, module="tests.integration.search_trainer")  # type: ignore[assignment]
    sys.exit(main.main())
