"""The engine's greedy answers are transformers' own, token by token, whatever shares the batch."""

from __future__ import annotations

from pathlib import Path

import pytest
from peft import PeftModel

from services.inference.engine.engine import Engine
from services.inference.engine.events import Finished
from services.inference.engine.request import EngineConfig, ModelRef, Priority, Request, Sampling
from tests.unit.inference import tiny_models
from tests.unit.inference.tiny_models import FAMILIES, build_model, greedy, prompts, save_adapter, save_model

COUNT = 16


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp(family), family, tokenizer=False)


@pytest.fixture(scope="module")
def questions() -> list[list[int]]:
    return [
        *prompts(9, longest=60),
        prompts(1, shortest=1, longest=1)[0],
        prompts(1, shortest=90, longest=90)[0],
    ]


@pytest.fixture(scope="module")
def answers(family: str, questions: list[list[int]]) -> list[list[int]]:
    model = build_model(family)
    found = [greedy(model, question, COUNT) for question in questions]
    # Else the comparison would hold for a model that repeats one token.
    assert len({token for answer in found for token in answer}) > 20
    return found


def requests_for(folder: Path, questions: list[list[int]], **options: object) -> list[Request]:
    return [
        Request(
            id=str(number),
            base=ModelRef("base", str(folder)),
            prompt_ids=tuple(question),
            sampling=Sampling(max_tokens=COUNT, temperature=0, ignore_eos=True),
            **options,  # type: ignore[arg-type]
        )
        for number, question in enumerate(questions)
    ]


def run(config: EngineConfig, requests: list[Request]) -> tuple[list[list[int]], int]:
    engine = Engine(config)
    try:
        ends = engine.generate(requests)
        assert all(isinstance(end, Finished) for end in ends), ends
        preemptions = engine.stats().models[0].preemptions
        free = engine.stats().models[0]
        assert free.blocks_free == free.blocks_total
        return [list(end.token_ids) for end in ends if isinstance(end, Finished)], preemptions
    finally:
        engine.close()


def test_mixed_lengths_in_one_batch_equal_generate(
    folder: Path, questions: list[list[int]], answers: list[list[int]]
) -> None:
    got, _ = run(EngineConfig(max_slots=16, kv_tokens=2048), requests_for(folder, questions))
    assert got == answers


def test_chunked_prefill_equals_generate(
    folder: Path, questions: list[list[int]], answers: list[list[int]]
) -> None:
    config = EngineConfig(max_slots=16, kv_tokens=2048, block_size=8, step_tokens=13)
    got, _ = run(config, requests_for(folder, questions))
    assert got == answers


def test_preemption_by_a_tiny_cache_equals_generate(
    folder: Path, questions: list[list[int]], answers: list[list[int]]
) -> None:
    config = EngineConfig(max_slots=8, kv_tokens=160, block_size=4, step_tokens=64)
    got, preemptions = run(config, requests_for(folder, questions, priority=Priority.BATCH))
    assert preemptions > 0
    assert got == answers


def test_prefix_hits_equal_generate(
    family: str, folder: Path, questions: list[list[int]], answers: list[list[int]]
) -> None:
    """The same questions again, and each of them gone on with: two answers of one cache, all at once."""
    model = build_model(family)
    longer = [[*question, *answer, 7, 8, 9] for question, answer in zip(questions, answers, strict=True)]
    expected = [*answers, *(greedy(model, question, COUNT) for question in longer)]
    engine = Engine(EngineConfig(max_slots=8, kv_tokens=4096, block_size=4, step_tokens=50))
    try:
        engine.generate(requests_for(folder, questions))
        ends = engine.generate(requests_for(folder, questions + longer))
    finally:
        engine.close()
    assert [list(end.token_ids) for end in ends if isinstance(end, Finished)] == expected
    cached = [end.usage.cached_tokens for end in ends if isinstance(end, Finished)]
    assert cached == [
        *((len(question) - 1) // 4 * 4 for question in questions),
        *((len(question) + COUNT - 1) // 4 * 4 for question in questions),
    ]


def test_staggered_arrivals_equal_generate(
    folder: Path, questions: list[list[int]], answers: list[list[int]]
) -> None:
    engine = Engine(EngineConfig(max_slots=4, kv_tokens=1024, step_tokens=40))
    waiting = requests_for(folder, questions)
    got: dict[str, list[int]] = {}
    steps = 0
    while waiting or engine.has_work:
        if waiting and steps % 3 == 0:
            engine.add(waiting.pop())
        for event in engine.step():
            if isinstance(event, Finished):
                got[event.request_id] = list(event.token_ids)
        engine.wait()
        steps += 1
    engine.close()
    assert [got[str(number)] for number in range(len(questions))] == answers


def test_adapters_of_unlike_ranks_and_none_in_one_batch_equal_peft(
    family: str, folder: Path, questions: list[list[int]], answers: list[list[int]], tmp_path: Path
) -> None:
    few = tiny_models.LORA_TARGETS.get(family, tiny_models.LORA_TARGETS_DEFAULT)[:1]
    adapters = [
        save_adapter(tmp_path / "a", folder, family, seed=1),
        save_adapter(
            tmp_path / "b", folder, family, seed=2, r=7, lora_alpha=5, use_rslora=True, target_modules=few
        ),
    ]
    plain = requests_for(folder, questions)
    expected, requests = [], []
    models = [PeftModel.from_pretrained(build_model(family), path).eval() for path in adapters]
    for number, request in enumerate(plain):
        which = number % 3
        if which == 2:
            requests.append(request)
            expected.append(answers[number])
            continue
        reference = ModelRef(f"adapter-{which}", str(adapters[which]))
        requests.append(
            Request(
                request.id, request.base, reference, prompt_ids=request.prompt_ids, sampling=request.sampling
            )
        )
        expected.append(greedy(models[which], questions[number], COUNT))
    assert expected[0] != answers[0]
    got, _ = run(EngineConfig(max_slots=16, kv_tokens=1024, step_tokens=50), requests)
    assert got == expected
