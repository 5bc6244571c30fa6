"""Vectors are those of the model's own forward, whatever else is in the batch, and generation goes on meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from services.inference.engine.embedder import SLICE_TOKENS
from services.inference.engine.embedder_item import Item, take_slice
from services.inference.engine.engine import Engine
from services.inference.engine.events import Embedded, Event, Failed, Finished, FinishReason, Loaded
from services.inference.engine.request import EngineConfig, ModelRef, Priority, Request, Sampling, Vector
from tests.unit.inference.tiny_encoders import plain, save_encoder, write
from tests.unit.inference.tiny_models import CONTEXT, CORPUS, FAMILIES, prompts, save_adapter, save_model

ENCODER = Vector(encoder=True)
TEXTS = [" ".join((CORPUS * 3)[i : i + 1 + i % 3])[: 4 + 7 * i] for i in range(9)]


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine(EngineConfig(max_slots=4, kv_tokens=1024, step_tokens=64, live_step_tokens=120))
    yield made
    made.close()


def of(folder: Path | str, name: str = "") -> ModelRef:
    return ModelRef(name or str(folder), str(folder))


def ask(base: ModelRef, text: str | list[int], request: str = "r", **options: Any) -> Request:
    given: dict[str, Any] = {"prompt": text} if isinstance(text, str) else {"prompt_ids": tuple(text)}
    return Request(id=request, base=base, vector=options.pop("vector", ENCODER), **given, **options)


def vectors(
    engine: Engine, base: ModelRef, texts: list[Any], vector: Vector = ENCODER, **options: Any
) -> Any:
    """(texts, width), in the order of the texts."""
    requests = [ask(base, text, str(i), vector=vector, **options) for i, text in enumerate(texts)]
    ends = engine.generate(requests)
    assert all(isinstance(end, Embedded) for end in ends), ends
    return torch.stack([numbers(end) for end in ends])


def numbers(end: Any) -> torch.Tensor:
    return torch.frombuffer(bytearray(end.vector), dtype=torch.float32)


def failure(engine: Engine, request: Request) -> Failed:
    (end,) = engine.generate([request])
    assert isinstance(end, Failed), end
    return end


# --- a real model


def test_a_real_encoder_gives_what_mean_pooling_over_its_plain_forward_gives(
    engine: Engine, minilm: str
) -> None:
    texts = [
        "short",
        "How do I reset my password? " * 4,
        "订单还没有到。",
        "The weather is nice today. " * 30,
    ]
    got = vectors(engine, of(minilm), texts)
    tokenizer, model = AutoTokenizer.from_pretrained(minilm), AutoModel.from_pretrained(minilm).eval()
    for text, vector in zip(texts, got, strict=True):
        with torch.inference_mode():
            mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        assert (vector - mean / mean.norm()).abs().max() < 1e-5


def test_a_real_encoder_puts_paraphrases_before_strangers(engine: Engine, minilm: str) -> None:
    pairs = [
        ("How do I reset my password?", "I forgot my password and need a new one."),
        ("When will my parcel arrive?", "How long does delivery of the package take?"),
        ("I want my money back.", "Please give me a refund."),
        ("The invoice shows a wrong amount.", "There is an error in the sum on my bill."),
    ]
    first = vectors(engine, of(minilm), [a for a, _ in pairs])
    second = vectors(engine, of(minilm), [b for _, b in pairs])
    assert (first @ second.T).argmax(1).tolist() == [0, 1, 2, 3]


def test_what_a_real_encoder_was_not_made_for_is_refused_with_both_numbers(
    engine: Engine, minilm: str
) -> None:
    end = failure(engine, ask(of(minilm), "word " * 300))
    assert end.code == "context_length_exceeded"
    assert "302 tokens" in end.message
    assert "takes 256" in end.message


# --- families and poolings


@pytest.mark.parametrize(
    ("kind", "pooling", "normalize"),
    [
        ("bert", "mean_tokens", True),
        ("roberta", "cls_token", True),
        ("xlm-roberta", "mean_tokens", False),
        ("qwen2", "lasttoken", True),
    ],
)
def test_a_batch_of_mixed_lengths_gives_each_text_its_own_vector(
    engine: Engine, tmp_path: Path, kind: str, pooling: str, normalize: bool
) -> None:
    folder = save_encoder(tmp_path / kind, kind, pooling=pooling, normalize=normalize)
    got = vectors(engine, of(folder), TEXTS)
    for text, vector in zip(TEXTS, got, strict=True):
        expected = plain(folder, text, pooling, normalize=normalize)
        assert (vector - expected).abs().max() < 1e-5, text


def test_a_folder_without_modules_is_averaged_and_of_length_1(engine: Engine, tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "bare", modules=False)
    got = vectors(engine, of(folder), TEXTS[:2])
    assert (got[1] - plain(folder, TEXTS[1])).abs().max() < 1e-5


def test_tokens_stand_for_the_text_that_they_are_of(engine: Engine, tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "bert")
    ids = AutoTokenizer.from_pretrained(folder).encode(TEXTS[3])
    got = vectors(engine, of(folder), [TEXTS[3], ids])
    assert torch.equal(got[0], got[1])


def test_fewer_dimensions_are_the_first_ones_at_length_1(engine: Engine, tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "bert", normalize=False)
    (whole,) = vectors(engine, of(folder), TEXTS[:1])
    (cut,) = vectors(engine, of(folder), TEXTS[:1], Vector(8, encoder=True))
    assert (cut - whole[:8] / whole[:8].norm()).abs().max() < 1e-6
    assert failure(engine, ask(of(folder), "x", vector=Vector(33, encoder=True))).param == "dimensions"


@pytest.mark.parametrize(("kind", "context"), [("bert", 66), ("roberta", 65), ("xlm-roberta", 65)])
def test_a_text_may_have_as_many_tokens_as_the_model_has_positions(
    engine: Engine, tmp_path: Path, kind: str, context: int
) -> None:
    folder = of(save_encoder(tmp_path / kind, kind))
    vectors(engine, folder, [[5] * context])
    assert failure(engine, ask(folder, [5] * (context + 1))).code == "context_length_exceeded"
    assert failure(engine, ask(folder, [5, 320])).param == "prompt_ids"
    assert failure(engine, ask(folder, "x" * 100_000)).code == "context_length_exceeded"


def test_the_layout_may_allow_fewer_tokens(engine: Engine, tmp_path: Path) -> None:
    folder = of(save_encoder(tmp_path / "bert", longest=10))
    vectors(engine, folder, [[5] * 10])
    assert "takes 10" in failure(engine, ask(folder, [5] * 11)).message


# --- folders that are refused


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"1_Pooling/config.json": {"pooling_mode_max_tokens": True}}, "model_unsupported", "max_tokens"),
        ({"1_Pooling/config.json": {}}, "model_unsupported", "not told"),
        (
            {"1_Pooling/config.json": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}},
            "model_unsupported",
            "cls_token and mean_tokens",
        ),
        (
            {"modules.json": [{"idx": 0, "path": "", "type": "my_package.Mine"}]},
            "model_unsafe",
            "my_package.Mine",
        ),
        (
            {
                "modules.json": [
                    {"idx": 0, "path": "../x", "type": "sentence_transformers.models.Transformer"}
                ]
            },
            "model_unsafe",
            "outside",
        ),
        (
            {"modules.json": [{"idx": 0, "path": "", "type": "sentence_transformers.models.Dense"}]},
            "model_unsupported",
            "Dense",
        ),
        ({"modules.json": {"idx": 0}}, "model_unreadable", "modules.json"),
        ({"config.json": {"model_type": "t5"}}, "model_unsupported", "t5"),
        (
            {"config.json": {"model_type": "bert", "auto_map": {"AutoModel": "x.y"}}},
            "model_unsafe",
            "auto_map",
        ),
        ({"pytorch_model.bin": {}}, "model_unsafe", "pickle"),
    ],
)
def test_a_folder_that_cannot_be_served_is_refused_with_the_reason(
    engine: Engine, tmp_path: Path, change: dict[str, Any], code: str, said: str
) -> None:
    folder = save_encoder(tmp_path / "bert")
    for name, value in change.items():
        write(folder / name, value)
    end = failure(engine, ask(of(folder), "x"))
    assert (end.code, said in end.message) == (code, True), end


def test_missing_weights_are_refused(engine: Engine, tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "bert")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    assert "lacks" in failure(engine, ask(of(folder), "x")).message


# --- beside each other and beside generation


def test_generation_goes_on_between_slices(engine: Engine, tmp_path: Path) -> None:
    base, encoder = of(save_model(tmp_path / "base")), of(save_encoder(tmp_path / "bert"))
    engine.generate([ask(encoder, "load it"), Request(id="g", base=base, prompt="x", sampling=one_token())])
    for i in range(200):
        engine.add(ask(encoder, [5 + i] * 60, f"v{i}"))
    sampling = Sampling(max_tokens=12, ignore_eos=True)
    engine.add(Request(id="g", base=base, prompt_ids=(5, 6), sampling=sampling))
    steps = []
    while engine.has_work:
        steps.append(engine.step())
    answered = next(i for i, step in enumerate(steps) if any(isinstance(event, Finished) for event in step))
    assert answered <= 14, "an answer of 12 tokens waited for the vectors"
    made = [sum(isinstance(event, Embedded) for event in step) for step in steps]
    assert sum(made) == 200
    # Little beside a live answer, so that it does not stutter; more when it has ended.
    assert max(made[1:answered]) == 120 // 60
    assert max(made[answered + 1 :]) == SLICE_TOKENS // 60
    assert all(made[1:answered]), "the vectors waited for the answer"


def test_live_goes_before_batch_and_tenants_take_turns(engine: Engine, tmp_path: Path) -> None:
    encoder = of(save_encoder(tmp_path / "bert"))
    for i in range(100):
        engine.add(ask(encoder, [5] * 60, f"batch {i}", priority=Priority.BATCH))
    for i in range(100):
        engine.add(ask(encoder, [5] * 60, f"greedy {i}", tenant="greedy"))
    engine.add(ask(encoder, [5] * 60, "modest 0", tenant="modest"))
    done = [event.request_id for event in run(engine) if isinstance(event, Embedded)]
    assert done.index("modest 0") < 64
    assert all(name.startswith("batch") for name in done[-100:])


def test_two_encoders_with_room_for_one_take_turns(tmp_path: Path) -> None:
    engine = Engine(EngineConfig(max_encoders=1, max_slots=4, kv_tokens=512))
    one, two = of(save_encoder(tmp_path / "one")), of(save_encoder(tmp_path / "two", seed=1))
    for i in range(300):
        engine.add(ask(one, [5 + i % 200] * 60, f"one {i}"))
    engine.add(ask(two, TEXTS[4], "two"))
    events = list(run(engine))
    engine.close()
    done = [event.request_id for event in events if isinstance(event, Embedded)]
    assert len(done) == 301
    assert done.index("two") < 300, "the one that waited had to wait for all of the other's"
    assert [event.id for event in events if isinstance(event, Loaded)] == [one.id, two.id, one.id]


def test_the_least_recently_used_model_of_any_kind_makes_room(tmp_path: Path) -> None:
    encoder, base = of(save_encoder(tmp_path / "bert")), of(save_model(tmp_path / "base"))
    now = iter(range(10_000))
    engine = Engine(
        EngineConfig(max_slots=4, kv_tokens=512, max_model_bytes=1, max_models=3),
        clock=lambda: float(next(now)),
    )
    held = []
    for request in (
        ask(encoder, "x"),
        Request(id="r", base=base, prompt="x", sampling=one_token()),
        ask(encoder, "x"),
    ):
        engine.generate([request])
        stats = engine.stats()
        held.append((len(stats.models), len(stats.encoders)))
    engine.close()
    assert held == [(0, 1), (1, 0), (0, 1)]


def test_a_cancelled_text_is_not_computed(engine: Engine, tmp_path: Path) -> None:
    encoder = of(save_encoder(tmp_path / "bert"))
    for i in range(80):
        engine.add(ask(encoder, [5] * 60, str(i)))
    while not any(isinstance(event, Embedded) for event in engine.step()):
        engine.wait()
    assert engine.cancel("30")
    assert engine.cancel("79")
    assert not engine.cancel("80")
    ends = {event.request_id: event for event in run(engine) if isinstance(event, (Embedded, Finished))}
    for name in ("30", "79"):
        cancelled = ends.pop(name)
        assert isinstance(cancelled, Finished)
        assert cancelled.finish_reason is FinishReason.CANCELLED
    assert all(isinstance(end, Embedded) for end in ends.values())
    assert not engine.has_work


def test_a_deadline_ends_a_text_that_waits(tmp_path: Path) -> None:
    now = [0.0]
    engine = Engine(EngineConfig(max_slots=4, kv_tokens=512), clock=lambda: now[0])
    engine.add(ask(of(save_encoder(tmp_path / "bert")), "x", deadline_s=5.0))
    now[0] = 6.0
    (end,) = run(engine)
    engine.close()
    assert isinstance(end, Finished)
    assert end.finish_reason is FinishReason.DEADLINE


def test_one_that_fails_in_a_slice_fails_alone(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from services.inference.engine.encoder import Encoder

    encoder = of(save_encoder(tmp_path / "bert"))
    vectors(engine, encoder, ["load it"])
    sound = Encoder.encode

    def encode(self: Encoder, texts: Any, seconds: Any = ()) -> torch.Tensor:
        if any(66 in text for text in texts):
            raise RuntimeError("secret words of a library")
        return sound(self, texts, seconds)

    monkeypatch.setattr(Encoder, "encode", encode)
    ends = engine.generate([ask(encoder, [60 + i] * 9, str(i)) for i in range(12)])
    assert [i for i, end in enumerate(ends) if isinstance(end, Failed)] == [6]
    assert isinstance(ends[6], Failed)
    assert "secret" not in ends[6].message


def test_slices_are_of_like_length_and_bounded() -> None:
    items = []
    for i in range(200):
        item = Item(ask(ModelRef("e", "e"), [1], str(i)), i, 0.0, 0)
        item.tokens = [1] * (1 + (i * 37) % 90)
        items.append(item)
    items.sort(key=lambda item: -len(item.tokens))
    left, cut = deque(items), []
    while left:
        cut.append(take_slice(left, SLICE_TOKENS))
    assert [item for run in cut for item in run] == items
    assert all(len(run) * len(run[0].tokens) <= SLICE_TOKENS for run in cut)
    padded = sum(len(run) * len(run[0].tokens) for run in cut)
    assert padded <= 1.2 * sum(len(item.tokens) for item in items)
    assert len(take_slice(deque(items), 1)) == 1


# --- causal language models


@pytest.mark.parametrize("family", FAMILIES)
def test_a_base_gives_its_last_tokens_final_state(engine: Engine, tmp_path: Path, family: str) -> None:
    folder = save_model(tmp_path / family, family)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    # Longer than a step, so that they are computed in chunks, and one that is a prefix of another.
    texts = [*prompts(5, longest=200, seed=3), [9], [7] * 150, [7] * 150]
    got = vectors(engine, of(folder), texts, Vector())
    for text, vector in zip(texts, got, strict=True):
        with torch.inference_mode():
            state = model.base_model(torch.tensor([text])).last_hidden_state[0, -1]
        assert (vector - state / state.norm()).abs().max() < 1e-5


def test_an_adapter_gives_other_vectors_than_its_base(engine: Engine, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "base")
    adapter = of(save_adapter(tmp_path / "adapter", folder))
    (base,) = vectors(engine, of(folder), ["您好"], Vector())
    (tuned,) = vectors(engine, of(folder), ["您好"], Vector(), adapter=adapter)
    assert (base - tuned).abs().max() > 1e-3


def test_a_base_embeds_between_the_answers_that_it_gives(engine: Engine, tmp_path: Path) -> None:
    base = of(save_model(tmp_path / "base"))
    answer = Request(
        id="alone", base=base, prompt="您好", sampling=Sampling(max_tokens=20, temperature=0, ignore_eos=True)
    )
    (alone,) = engine.generate([answer])
    engine.add(Request(id="beside", base=base, prompt="您好", sampling=answer.sampling))
    for i, text in enumerate(prompts(12, longest=80)):
        engine.add(ask(base, text, str(i), vector=Vector()))
    events = list(run(engine))
    assert sum(isinstance(event, Embedded) for event in events) == 12
    (beside,) = [event for event in events if isinstance(event, Finished)]
    assert isinstance(alone, Finished)
    assert beside.token_ids == alone.token_ids


def test_a_text_over_the_context_of_a_base_is_refused(engine: Engine, tmp_path: Path) -> None:
    base = of(save_model(tmp_path / "base"))
    vectors(engine, base, [[5] * CONTEXT], Vector(4))
    too_long = failure(engine, ask(base, [5] * (CONTEXT + 1), vector=Vector()))
    assert (too_long.code, f"takes {CONTEXT}" in too_long.message) == ("context_length_exceeded", True)
    assert failure(engine, ask(base, "x", vector=Vector(33))).param == "dimensions"


def one_token() -> Sampling:
    return Sampling(max_tokens=1)


def run(engine: Engine) -> Iterator[Event]:
    while engine.has_work:
        yield from engine.step()
        engine.wait()
