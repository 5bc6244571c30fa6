"""The end of a fine-tuning run: the whole model in one process, its folder, and what the engine is held against."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from services.training import world
from services.training.checkpoint import MOST_CHECKED, checkpoint_samples
from services.training.hyperparameters import SftHyperparameters
from services.training.model_folder import (
    load_adapter,
    load_base,
    pin_decoding,
    save_adapter,
    save_model,
)
from services.training.parity import Sample, leave_samples
from services.training.run import Run
from services.training.spec import Spec
from services.training.start import outline_start
from services.training.tuning import attention
from services.training.tuning.adapters import with_adapter

_PLAIN_ATTENTION = "sdpa"


def whole(trainer: Any, model: Any, spec: Spec, wanted: SftHyperparameters, adapter: Any) -> Any:
    """The trained model as one process has it; sharded, it is gathered in the first one, on the CPU in float32."""
    if world.size() == 1:
        if model.config._attn_implementation == attention.NAME:
            model.set_attn_implementation(_PLAIN_ATTENTION)
        return model
    weights = trainer.accelerator.get_state_dict(trainer.model)
    if world.rank() > 0:
        return model
    base, _ = outline_start(spec)
    gathered = base if wanted.method == "full" else with_adapter(base, adapter, spec, wanted)
    for name, weight in weights.items():
        # One by one, and taken over as they are: two models would need twice the memory.
        weights[name] = weight.float() if weight.is_floating_point() else weight
    gathered.load_state_dict(weights, assign=True)
    base.tie_weights()
    base.generation_config = model.generation_config
    return gathered


def samples_of_checkpoints(
    spec: Spec, wanted: SftHyperparameters, tokenizer: PreTrainedTokenizerBase, samples: Sequence[Sample]
) -> Callable[[Any, int], None] | None:
    """What leaves beside a checkpoint, by model and step, what the engine is held against; of the newest alone.

    None where one process does not compute what will be served: of several each has its share, and a base in few bits
    or a DoRA adapter is served as another.
    """
    if world.size() > 1 or wanted.quantization != "none" or wanted.use_dora:
        return None

    def leave(model: Any, step: int) -> None:
        leave_samples(model, tokenizer, samples, checkpoint_samples(spec.workdir, step).parent)
        for old in sorted(checkpoint_samples(spec.workdir, step).parent.parent.iterdir())[:-MOST_CHECKED]:
            shutil.rmtree(old)

    return leave


def save(
    run: Run,
    spec: Spec,
    wanted: SftHyperparameters,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    samples: Sequence[Sample],
) -> None:
    """Write the folder, and beside it what the engine is held against: some of the `samples`."""
    assert spec.base_dir is not None
    if wanted.method == "full":
        save_model(model, tokenizer, spec.output_dir)
    elif wanted.use_dora:
        run.event(
            "the DoRA adapter is merged into the weights: the model is served as a base, since DoRA rescales every "
            "weight and cannot be added beside one"
        )
        model = model.merge_and_unload()
        save_model(model, tokenizer, spec.output_dir)
    else:
        save_adapter(model, tokenizer, spec.output_dir)
    if wanted.quantization != "none" and wanted.makes_adapter:
        # It is served on the base as it is stored; what differs from training is the quantization itself.
        run.event(f"trained on a base in {wanted.quantization}, served on the base as it is stored", "warn")
        model = load_adapter(load_base(spec.base_dir, model.device)[0], spec.output_dir)
        pin_decoding(model, spec.decoding)
    leave_samples(model, tokenizer, samples, spec.workdir)
