"""What a GPU is given gives transformers' own answers: decodes, chunks, adapters and recorded steps, by stand-ins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from torch.nn.modules.module import register_module_forward_hook
from transformers.models.llama.modeling_llama import LlamaMLP

from services.inference.engine import runner
from services.inference.engine.accelerator import Accelerator, settled
from services.inference.engine.engine import Engine
from services.inference.engine.events import Failed, Finished
from services.inference.engine.gpu_attention import Kernels
from services.inference.engine.graphs import sizes_up_to
from services.inference.engine.paged_decode import decode, write
from services.inference.engine.request import EngineConfig, ModelRef, Request, Sampling
from services.inference.engine.runner import ModelRunner
from shared.errors import ConfigurationError
from tests.unit.inference.fake_gpu import FakeGpu
from tests.unit.inference.tiny_models import FAMILIES, build_model, greedy, prompts, save_adapter, save_model

COUNT = 8
Use = Callable[[Accelerator], None]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Have every base that is loaded find this accelerator."""

    def chosen(accelerator: Accelerator) -> None:
        monkeypatch.setattr(runner, "accelerator_of", lambda device: accelerator)

    return chosen


def questions() -> list[list[int]]:
    return [*prompts(4, longest=50), *prompts(1, shortest=1, longest=1), *prompts(1, shortest=80, longest=80)]


def ask(folder: Path, texts: list[list[int]], adapters: list[ModelRef | None] | None = None) -> list[Request]:
    chosen = adapters or [None]
    return [
        Request(
            str(number),
            ModelRef("base", str(folder)),
            chosen[number % len(chosen)],
            prompt_ids=tuple(text),
            sampling=Sampling(max_tokens=COUNT, temperature=0, ignore_eos=True),
        )
        for number, text in enumerate(texts)
    ]


def answers(config: EngineConfig, *rounds: list[Request]) -> list[list[list[int]]]:
    engine = Engine(config)
    try:
        found = []
        for requests in rounds:
            ends = engine.generate(requests)
            assert all(isinstance(end, Finished) for end in ends), ends
            found.append([list(end.token_ids) for end in ends if isinstance(end, Finished)])
        return found
    finally:
        engine.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_equal_generate(family: str, tmp_path: Path, use: Use) -> None:
    gpu = FakeGpu()
    use(gpu.accelerator)
    folder = save_model(tmp_path, family, tokenizer=False)
    config = EngineConfig(max_slots=6, kv_tokens=1024, block_size=4, step_tokens=40)
    # The second time all prompts are found in the cache.
    first, second = answers(config, ask(folder, questions()), ask(folder, questions()))
    model = build_model(family)
    expected = [greedy(model, question, COUNT) for question in questions()]
    assert first == expected
    assert second == expected
    assert gpu.varlen.calls > 0
    assert len(gpu.recorder.tapes) == len(sizes_up_to(6))
    assert gpu.recorder.plays > COUNT


def test_the_kernels_in_the_whole_engine_equal_generate(tmp_path: Path, use: Use) -> None:
    """Triton's, in its interpreter; float32, so prefill is plain attention."""
    use(Accelerator(Kernels(write, decode, None), None))
    folder = save_model(tmp_path, "mistral", tokenizer=False)
    texts = prompts(2, shortest=20, longest=30)
    config = EngineConfig(max_slots=2, kv_tokens=128, block_size=8, step_tokens=32)
    (found,) = answers(config, ask(folder, texts))
    model = build_model("mistral")
    assert found == [greedy(model, text, COUNT) for text in texts]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_adapters_come_and_go_between_recorded_steps(family: str, tmp_path: Path, use: Use) -> None:
    gpu = FakeGpu()
    use(gpu.accelerator)
    folder = save_model(tmp_path / "base", family, tokenizer=False)
    targets = {"gpt2": ["c_fc"]}.get(family, ["q_proj", "down_proj"])
    few = {"target_modules": targets}
    paths = [
        save_adapter(tmp_path / "0", folder, family, seed=1),
        save_adapter(tmp_path / "1", folder, family, seed=2, r=9, lora_alpha=5, **few),
        save_adapter(tmp_path / "2", folder, family, seed=3, r=20),
    ]
    refs: list[ModelRef | None] = [ModelRef(f"a{n}", str(path)) for n, path in enumerate(paths)]
    texts = questions()[2:]
    oracles = [PeftModel.from_pretrained(build_model(family), path).eval() for path in paths]
    oracles.append(build_model(family))
    # Two fit: the third drives one out, whose slot it takes though its rank is higher.
    config = EngineConfig(max_slots=16, kv_tokens=1024, step_tokens=64, max_adapters=2)
    choices = [[0], [None, 0, 1], [2, None], [1, 2]]
    rounds = [[None if which is None else refs[which] for which in choice] for choice in choices]
    found = answers(config, *(ask(folder, texts, some) for some in rounds))
    for choice, got in zip(choices, found, strict=True):
        expected = [
            greedy(oracles[-1 if (which := choice[n % len(choice)]) is None else which], text, COUNT)
            for n, text in enumerate(texts)
        ]
        assert got == expected, choice
    assert gpu.recorder.plays > len(choices)


def test_a_model_that_cannot_be_recorded_is_served_step_by_step(
    tmp_path: Path, use: Use, caplog: pytest.LogCaptureFixture
) -> None:
    gpu = FakeGpu()
    use(gpu.accelerator)
    folder = save_model(tmp_path, "llama", tokenizer=False)

    def decides(module: torch.nn.Module, _: object, out: torch.Tensor) -> None:
        if isinstance(module, LlamaMLP) and not float(out.flatten()[0]):
            raise AssertionError("never, but it had to look")

    hook = register_module_forward_hook(decides)
    try:
        (found,) = answers(EngineConfig(max_slots=4, kv_tokens=1024), ask(folder, questions()))
    finally:
        hook.remove()
    model = build_model("llama")
    assert found == [greedy(model, question, COUNT) for question in questions()]
    assert gpu.recorder.tapes == []
    assert caplog.text.count("no recorded steps: one of 4 rows fails") == 1


def test_more_rows_than_the_largest_recording_are_computed_step_by_step(tmp_path: Path) -> None:
    gpu = FakeGpu()
    config = EngineConfig(max_slots=2, kv_tokens=256, block_size=4)
    runner = ModelRunner(build_model("llama"), config, gpu.accelerator)
    assert [len(tape.outputs[0]) for tape in gpu.recorder.tapes] == [2, 1]
    assert runner.accelerator is gpu.accelerator


def test_kernels_that_fail_or_are_wrong_leave_plain_attention(
    tmp_path: Path, use: Use, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("no kernel image is available for execution on the device")

    def wrong(*given: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(given[0])

    folder = save_model(tmp_path, "llama", tokenizer=False)
    model = build_model("llama")
    for kernel, reason in ((fails, "no kernel image"), (wrong, "other logits")):
        use(Accelerator(Kernels(write, kernel, None), None))
        caplog.clear()
        (found,) = answers(EngineConfig(max_slots=4, kv_tokens=1024), ask(folder, questions()))
        assert found == [greedy(model, question, COUNT) for question in questions()]
        assert reason in caplog.text


def test_the_cache_is_a_share_of_what_the_loaded_base_has_left(tmp_path: Path, use: Use) -> None:
    gpu = FakeGpu()
    # Two layers, two heads of 8 numbers, keys and values, four bytes each.
    block = 2 * 2 * 8 * 2 * 4 * 16
    use(replace(gpu.accelerator, free_bytes=lambda: 100 * block))
    folder = save_model(tmp_path, "llama", tokenizer=False)
    engine = Engine(EngineConfig(max_slots=2, kv_tokens=64, kv_share=0.5))
    try:
        (end,) = engine.generate(ask(folder, prompts(1)))
        assert isinstance(end, Finished)
        # One of them is padding.
        assert engine.stats().models[0].blocks_total == 49
    finally:
        engine.close()


def test_a_base_that_leaves_no_memory_for_a_cache_is_refused(tmp_path: Path, use: Use) -> None:
    use(replace(FakeGpu().accelerator, free_bytes=lambda: 20_000))
    folder = save_model(tmp_path, "llama", tokenizer=False)
    engine = Engine(EngineConfig(max_slots=2, kv_share=0.5))
    try:
        (end,) = engine.generate(ask(folder, prompts(1)))
        assert isinstance(end, Failed)
        assert end.code == "out_of_memory"
        assert "0.5 of the free memory is 1 blocks of 4096 bytes" in end.message
    finally:
        engine.close()


def test_what_is_left_open_is_settled_by_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settled({"device": "auto", "dtype": "auto"}) == {"device": "cpu", "dtype": "float32"}
    with pytest.raises(ConfigurationError, match="torch sees no GPU"):
        settled({"device": "cuda"})
    with pytest.raises(ConfigurationError, match="auto, cpu or cuda, got 'cuda:1'; CUDA_VISIBLE_DEVICES"):
        settled({"device": "cuda:1"})
    with pytest.raises(ConfigurationError, match="got 'int4'"):
        settled({"dtype": "int4"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    card = SimpleNamespace(total_memory=1000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    assert settled({"device": "auto", "step_tokens": 64}) == {
        "device": "cuda",
        "dtype": "float16",
        "step_tokens": 64,
        "live_step_tokens": 512,
        "max_model_bytes": 900,
    }


def test_recordings_have_the_sizes_of_small_batches_and_then_every_sixteen() -> None:
    assert sizes_up_to(1) == (1,)
    assert sizes_up_to(6) == (1, 2, 4, 6)
    assert sizes_up_to(16) == (1, 2, 4, 8, 16)
    assert sizes_up_to(60) == (1, 2, 4, 8, 16, 32, 48, 60)
