"""The bare engine against transformers and PEFT, in a process of its own: this one stays without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.bench.figures import Figure
from tests.bench.place import Place
from tests.harness import ROOT


def generation(place: Place) -> list[Figure]:
    """What `tests.bench.generation` measures; its progress goes where ours does."""
    quick = ["--quick"] if place.quick else []
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.generation", str(place.model_folder), *quick],
        cwd=ROOT,
        # As the engine runs in the platform; see `shared.child`.
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive"},
        stdout=subprocess.PIPE,
        check=True,
    )
    return [Figure(**figure) for figure in json.loads(done.stdout)]
