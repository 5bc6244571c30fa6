"""What the engine does with requests, bases and adapters, whatever the model answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from services.inference.engine import decode_slots, order, runner
from services.inference.engine.engine import Engine
from services.inference.engine.events import Event, Failed, Finished, FinishReason, Loaded, TokenDelta
from services.inference.engine.request import EngineConfig, ModelRef, Priority, Request, Sampling, Tools
from services.inference.engine.runner import ModelRunner
from shared.contracts.structured import json_schema, structured_outputs
from shared.errors import ConfigurationError, Conflict, InvalidInput, NotFound, Unavailable
from tests.unit.inference.tiny_models import (
    TOOL_TEMPLATE,
    build_model,
    build_tokenizer,
    greedy,
    prompts,
    save_adapter,
    save_model,
)

CONFIG = EngineConfig(max_slots=8, kv_tokens=1024)
GREEDY = Sampling(max_tokens=12, temperature=0, ignore_eos=True)


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("base"))


@pytest.fixture
def make() -> Iterator[Callable[..., Engine]]:
    engines: list[Engine] = []

    def build(**options: Any) -> Engine:
        clock = options.pop("clock", None)
        engines.append(Engine(replace(CONFIG, **options), **({"clock": clock} if clock else {})))
        return engines[-1]

    yield build
    for engine in engines:
        engine.close()


def ask(folder: Path, name: str = "r", **options: Any) -> Request:
    if not {"messages", "prompt", "prompt_ids"} & options.keys():
        options["prompt_ids"] = (5, 6, 7)
    options.setdefault("sampling", GREEDY)
    return Request(id=name, base=ModelRef(str(folder), str(folder)), **options)


def run(engine: Engine, *requests: Request) -> dict[str, list[Event]]:
    """All events by request."""
    for request in requests:
        engine.add(request)
    found: dict[str, list[Event]] = {}
    while engine.has_work:
        for event in engine.step():
            found.setdefault(getattr(event, "request_id", ""), []).append(event)
        engine.wait()
    return found


def finished(events: list[Event]) -> Finished:
    assert isinstance(events[-1], Finished), events[-1]
    return events[-1]


def until_running(engine: Engine) -> list[Event]:
    events: list[Event] = []
    while not any(model.running for model in engine.stats().models):
        events += engine.step()
        engine.wait()
    return events


def test_a_chat_is_answered_in_pieces_that_join_to_the_whole(
    make: Callable[..., Engine], folder: Path
) -> None:
    request = ask(folder, messages=({"role": "user", "content": "您好 hello"},))
    events = run(make(), request)["r"]
    end = finished(events)
    pieces = [event for event in events if isinstance(event, TokenDelta)]
    prompt = build_tokenizer().apply_chat_template(
        [{"role": "user", "content": "您好 hello"}], add_generation_prompt=True, return_dict=False
    )
    expected = greedy(build_model("llama"), prompt, 12)
    assert list(end.token_ids) == expected
    assert end.text == build_tokenizer().decode(expected, skip_special_tokens=True)
    assert "".join(piece.text for piece in pieces) == end.text
    assert sum(piece.tokens for piece in pieces) <= 12
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (len(prompt), 12)
    assert end.finish_reason is FinishReason.LENGTH
    assert [span.name for span in end.spans] == ["engine.queue", "engine.prefill", "engine.decode"]


@pytest.mark.parametrize("slot", [0, 32, 1024])
def test_groups_and_slots_of_decodes_do_not_change_the_answers(
    make: Callable[..., Engine], folder: Path, monkeypatch: pytest.MonkeyPatch, slot: int
) -> None:
    """None in slots, those that outgrow theirs, and all."""
    monkeypatch.setattr(order, "_GROUP_TOKENS", 60)
    monkeypatch.setattr(order, "_GROUP_WASTE_TOKENS", 5)
    monkeypatch.setattr(decode_slots, "_WASTE", 5)
    monkeypatch.setattr(
        runner, "DecodeSlots", lambda most, _, size: decode_slots.DecodeSlots(most, slot, size)
    )
    asked = [ask(folder, f"r{number}", prompt_ids=tuple(p)) for number, p in enumerate(prompts(8))]
    ends = run(make(), *asked)
    model = build_model("llama")
    for request in asked:
        assert list(finished(ends[request.id]).token_ids) == greedy(model, list(request.prompt_ids or ()), 12)


def test_a_request_that_is_not_streamed_gives_only_its_end(make: Callable[..., Engine], folder: Path) -> None:
    events = run(make(), ask(folder, stream=False))["r"]
    assert [type(event) for event in events] == [Finished]
    assert finished(events).text


def test_an_end_token_ends_the_answer_and_is_not_in_its_text(
    make: Callable[..., Engine], tmp_path: Path
) -> None:
    answer = greedy(build_model("llama"), [5, 6, 7], 12)
    end_token = next(token for place, token in enumerate(answer) if place > 2 and token not in answer[:place])
    folder = save_model(tmp_path / "m", eos_token_id=end_token)
    end = finished(run(make(), ask(folder, sampling=Sampling(max_tokens=12, temperature=0)))["r"])
    assert end.finish_reason is FinishReason.STOP
    assert list(end.token_ids) == answer[: answer.index(end_token) + 1]
    assert end.text == build_tokenizer().decode(list(end.token_ids)[:-1], skip_special_tokens=True)


@pytest.mark.parametrize("stream", [True, False])
def test_a_stop_string_ends_the_answer_before_it(
    make: Callable[..., Engine], folder: Path, stream: bool
) -> None:
    whole = finished(run(make(), ask(folder))["r"]).text
    stop = whole[len(whole) // 2 :][:2]
    end = finished(run(make(), ask(folder, sampling=replace(GREEDY, stop=(stop,)), stream=stream))["r"])
    assert end.text == whole[: whole.index(stop)]
    assert end.finish_reason is FinishReason.STOP


def test_the_same_seed_gives_the_same_text_in_any_company(make: Callable[..., Engine], folder: Path) -> None:
    sampling = Sampling(max_tokens=16, temperature=1.2, top_p=0.95, seed=7, ignore_eos=True)
    alone = finished(run(make(), ask(folder, sampling=sampling))["r"])
    others = [
        ask(folder, f"o{number}", prompt_ids=tuple(prompt), sampling=replace(sampling, seed=number))
        for number, prompt in enumerate(prompts(6))
    ]
    tiny = make(kv_tokens=128, block_size=4, step_tokens=16)
    together = finished(run(tiny, *others, ask(folder, sampling=sampling, priority=Priority.BATCH))["r"])
    assert together.token_ids == alone.token_ids
    assert tiny.stats().models[0].preemptions > 0


def test_without_a_seed_answers_differ(make: Callable[..., Engine], folder: Path) -> None:
    sampling = Sampling(max_tokens=16, temperature=1.5, ignore_eos=True)
    ends = run(make(), ask(folder, "a", sampling=sampling), ask(folder, "b", sampling=sampling))
    assert finished(ends["a"]).token_ids != finished(ends["b"]).token_ids


def test_logprobs_come_with_every_token_when_asked_for(make: Callable[..., Engine], folder: Path) -> None:
    events = run(make(), ask(folder, sampling=replace(GREEDY, logprobs=True)))["r"]
    end = finished(events)
    assert end.logprobs is not None
    assert [item.id for item in end.logprobs] == list(end.token_ids)
    with torch.inference_mode():
        logits = build_model("llama")(torch.tensor([[5, 6, 7]])).logits[0, -1]
    assert abs(end.logprobs[0].logprob - float(logits.log_softmax(-1)[end.token_ids[0]])) < 1e-4


def test_likeliest_tokens_come_beside_each_chosen_one_with_their_bytes(
    make: Callable[..., Engine], folder: Path
) -> None:
    sampling = replace(GREEDY, logprobs=True, top_logprobs=3)
    end = finished(run(make(), ask(folder, sampling=sampling))["r"])
    assert end.logprobs is not None
    for told in end.logprobs:
        assert len(told.top) == 3
        assert (told.top[0].id, told.top[0].logprob) == (told.id, pytest.approx(told.logprob))
        assert bytes(told.bytes).decode("utf-8", "replace") == told.text
    # Joined they are the text, characters that were split over tokens included.
    ordinary = [bytes(told.bytes) for told in end.logprobs if not told.text.startswith("<|")]
    assert b"".join(ordinary).decode("utf-8", "replace") == end.text


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_grammar_shapes_its_own_answer_whatever_shares_the_batch(
    make: Callable[..., Engine], folder: Path, temperature: float
) -> None:
    schema = {
        "type": "object",
        "properties": {
            "level": {"enum": ["high", "low"]},
            "tags": {"type": "array", "items": {"type": "boolean"}},
        },
        "required": ["level", "tags"],
        "additionalProperties": False,
    }
    shaped = Sampling(max_tokens=120, temperature=temperature, seed=3, grammar=json_schema(schema, "schema"))
    choice = replace(shaped, grammar=structured_outputs({"choice": ["行", "不行"]}))
    found = run(
        make(),
        ask(folder, "plain"),
        ask(folder, "json", sampling=shaped, priority=Priority.BATCH),
        ask(folder, "choice", sampling=choice),
    )
    assert finished(found["plain"]).token_ids == finished(run(make(), ask(folder))["r"]).token_ids
    end = finished(found["json"])
    if end.finish_reason is FinishReason.STOP:
        assert json.loads(end.text)["level"] in ("high", "low")
    else:
        assert end.text.startswith('{"level": "')
    assert finished(found["choice"]).text in ("行", "不行")
    assert finished(found["choice"]).finish_reason is FinishReason.STOP


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose template knows tools."""
    made = save_model(tmp_path_factory.mktemp("tools"), max_position_embeddings=1024)
    tokenizer = build_tokenizer()
    tokenizer.chat_template = TOOL_TEMPLATE
    tokenizer.save_pretrained(made)
    return made


SCHEMA = {
    "type": "object",
    "properties": {"no": {"enum": [1, 2]}},
    "required": ["no"],
    "additionalProperties": False,
}
ORDER = {"name": "order", "description": "Look an order up", "parameters": json.dumps(SCHEMA)}


@pytest.mark.parametrize("stream", [True, False])
def test_a_tool_that_must_be_called_is_called_with_arguments_that_fit(
    make: Callable[..., Engine], caller: Path, stream: bool
) -> None:
    sampling = Sampling(max_tokens=200, temperature=0)
    messages = (
        {"role": "user", "content": "where is 7?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c1", "name": "order", "arguments": '{"no": 1}'}],
        },
        {"role": "tool", "content": "on its way", "tool_call_id": "c1"},
    )
    request = ask(
        caller,
        messages=messages,
        tools=Tools((ORDER,), "order", parallel=False),
        sampling=sampling,
        stream=stream,
    )
    events = run(make(kv_tokens=4096), request)["r"]
    end = finished(events)
    assert (end.finish_reason, end.text) == (FinishReason.TOOL_CALLS, "")
    (call,) = end.tool_calls
    assert (call.name, json.loads(call.arguments)["no"] in (1, 2)) == ("order", True)
    streamed = [call for event in events if isinstance(event, TokenDelta) for call in event.tool_calls]
    assert streamed == ([call] if stream else [])


def test_tools_of_a_model_whose_template_has_none_are_refused_by_name(
    make: Callable[..., Engine], folder: Path
) -> None:
    messages = ({"role": "user", "content": "hi"},)
    failed = run(make(), ask(folder, messages=messages, tools=Tools((ORDER,))))["r"][-1]
    assert isinstance(failed, Failed)
    assert (failed.code, failed.param) == ("unsupported_parameter", "tools")


def test_a_grammar_that_is_none_fails_its_request_alone(make: Callable[..., Engine], folder: Path) -> None:
    bad = replace(GREEDY, grammar="start: (")
    found = run(make(), ask(folder, "bad", sampling=bad), ask(folder, "good"))
    assert isinstance(found["bad"][-1], Failed)
    assert found["bad"][-1].code == "invalid_grammar"
    finished(found["good"])


def test_penalties_and_biases_change_the_answer_they_belong_to(
    make: Callable[..., Engine], folder: Path
) -> None:
    plain = finished(run(make(), ask(folder))["r"]).token_ids
    banned = tuple((token, -100.0) for token in set(plain))
    found = run(
        make(),
        ask(folder, "plain"),
        ask(folder, "banned", sampling=replace(GREEDY, logit_bias=banned)),
        ask(folder, "unlike", sampling=replace(GREEDY, max_tokens=60, repetition_penalty=100)),
    )
    assert finished(found["plain"]).token_ids == plain
    assert not set(plain) & set(finished(found["banned"]).token_ids)
    unlike = finished(found["unlike"]).token_ids
    assert len(set(unlike)) == len(unlike)


def test_a_bias_outside_the_vocabulary_is_refused(make: Callable[..., Engine], folder: Path) -> None:
    found = run(make(), ask(folder, sampling=replace(GREEDY, logit_bias=((100_000, 1.0),))))
    assert isinstance(found["r"][-1], Failed)
    assert found["r"][-1].param == "logit_bias"


def test_a_cancelled_request_frees_its_blocks_at_once(make: Callable[..., Engine], folder: Path) -> None:
    engine = make()
    engine.add(ask(folder, sampling=replace(GREEDY, max_tokens=200)))
    until_running(engine)
    assert engine.cancel("r")
    assert engine.stats().models[0].blocks_free == engine.stats().models[0].blocks_total
    end = finished(engine.step())
    assert end.finish_reason is FinishReason.CANCELLED
    assert 0 < len(end.token_ids) < 200
    assert not engine.cancel("r")
    assert not engine.has_work


def test_an_id_may_be_used_again_right_after_a_cancel(make: Callable[..., Engine], folder: Path) -> None:
    engine = make()
    engine.add(ask(folder))
    engine.cancel("r")
    ends = [event for event in run(engine, ask(folder))["r"] if isinstance(event, Finished)]
    assert [end.finish_reason for end in ends] == [FinishReason.CANCELLED, FinishReason.LENGTH]


def test_a_deadline_ends_a_request_with_what_it_has(make: Callable[..., Engine], folder: Path) -> None:
    clock = Clock()
    engine = make(clock=clock)
    engine.add(ask(folder, sampling=replace(GREEDY, max_tokens=200), deadline_s=5))
    until_running(engine)
    clock.now += 6
    end = finished(engine.step())
    assert end.finish_reason is FinishReason.DEADLINE
    assert end.token_ids


def test_a_deadline_holds_while_the_base_loads(make: Callable[..., Engine], folder: Path) -> None:
    clock = Clock()
    engine = make(clock=clock)
    engine.add(ask(folder, deadline_s=1))
    clock.now += 2
    assert finished(engine.step()).finish_reason is FinishReason.DEADLINE


def test_a_draining_engine_ends_what_it_has_and_takes_no_more(
    make: Callable[..., Engine], folder: Path
) -> None:
    engine = make()
    engine.add(ask(folder))
    engine.drain()
    with pytest.raises(Unavailable) as raised:
        engine.add(ask(folder, "late"))
    assert raised.value.code == "draining"
    assert not engine.drained
    finished(run(engine)["r"])
    assert engine.drained


def test_an_id_in_use_is_refused(make: Callable[..., Engine], folder: Path) -> None:
    engine = make()
    engine.add(ask(folder))
    with pytest.raises(Conflict):
        engine.add(ask(folder))


def test_a_prompt_over_the_context_fails_alone_with_the_numbers(
    make: Callable[..., Engine], folder: Path
) -> None:
    ends = run(make(), ask(folder, "long", prompt_ids=(5,) * 300), ask(folder))
    failed = ends["long"][-1]
    assert isinstance(failed, Failed)
    assert failed.code == "context_length_exceeded"
    assert "300" in failed.message
    assert "256" in failed.message
    finished(ends["r"])


def test_a_prompt_over_the_cache_fails_instead_of_waiting_for_ever(
    make: Callable[..., Engine], folder: Path
) -> None:
    failed = run(make(kv_tokens=64), ask(folder, prompt_ids=(5,) * 100))["r"][-1]
    assert isinstance(failed, Failed)
    assert "64" in failed.message


def test_tokens_outside_the_vocabulary_are_refused(make: Callable[..., Engine], folder: Path) -> None:
    for ids in ((5, 320), (-1, 5)):
        failed = run(make(), ask(folder, prompt_ids=ids))["r"][-1]
        assert isinstance(failed, Failed)
        assert failed.param == "prompt_ids"


def test_a_pass_that_fails_for_one_row_fails_that_row_alone(
    make: Callable[..., Engine],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    forward = ModelRunner.forward

    def fragile(self: ModelRunner, rows: Any) -> Any:
        if any(row.sequence.id == "bad" for row in rows):
            raise RuntimeError("no luck")
        return forward(self, rows)

    monkeypatch.setattr(ModelRunner, "forward", fragile)
    others = [ask(folder, f"r{number}", prompt_ids=tuple(p)) for number, p in enumerate(prompts(4))]
    engine = make()
    ends = run(engine, *others[:2], ask(folder, "bad"), *others[2:])
    failed = ends["bad"][-1]
    assert isinstance(failed, Failed)
    # What the exception says can hold anything: it is for the log.
    assert (failed.code, failed.message) == ("engine_failed", "the forward pass failed: RuntimeError")
    assert "no luck" in caplog.text
    model = build_model("llama")
    for request in others:
        assert list(finished(ends[request.id]).token_ids) == greedy(model, list(request.prompt_ids or ()), 12)
    assert engine.stats().models[0].blocks_free == engine.stats().models[0].blocks_total


def test_out_of_memory_shrinks_the_steps_and_fails_nobody(
    make: Callable[..., Engine], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, sizes = ModelRunner.forward, list[int]()

    def narrow(self: ModelRunner, rows: Any) -> Any:
        sizes.append(sum(row.count for row in rows))
        if sizes[-1] > 40:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, rows)

    monkeypatch.setattr(ModelRunner, "forward", narrow)
    texts = prompts(6, shortest=20, longest=30)
    requests = [ask(folder, f"r{n}", prompt_ids=tuple(text)) for n, text in enumerate(texts)]
    # Without it, each long step would be tried in vain first.
    more = [ask(folder, f"s{n}", prompt_ids=(9, *text)) for n, text in enumerate(texts)]
    engine, model = make(step_tokens=128), build_model("llama")
    for lot in (requests, more):
        sizes.clear()
        ends = run(engine, *lot)
        for request in lot:
            expected = greedy(model, list(request.prompt_ids or ()), 12)
            assert list(finished(ends[request.id]).token_ids) == expected
    assert max(sizes) <= 40


def test_a_gpu_that_takes_no_more_work_ends_the_engine(
    make: Callable[..., Engine], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(ModelRunner, "forward", broken)
    with pytest.raises(torch.AcceleratorError):
        run(make(), ask(folder), ask(folder, "another"))


def test_a_broken_folder_fails_its_requests_and_no_others(make: Callable[..., Engine], folder: Path) -> None:
    missing = Request(id="bad", base=ModelRef("x", "/nowhere"), prompt="a")
    ends = run(make(), missing, ask(folder))
    assert isinstance(ends["bad"][-1], Failed)
    assert ends["bad"][-1].code == "model_unreadable"
    finished(ends["r"])


def test_bases_beyond_the_limit_take_turns(make: Callable[..., Engine], folder: Path, tmp_path: Path) -> None:
    other = save_model(tmp_path / "other", "gpt2", seed=3)
    engine = make(max_models=1)
    ends = run(engine, ask(folder, "a"), ask(other, "b"), ask(folder, "c"))
    assert list(finished(ends["a"]).token_ids) == greedy(build_model("llama"), [5, 6, 7], 12)
    assert list(finished(ends["b"]).token_ids) == greedy(build_model("gpt2", seed=3), [5, 6, 7], 12)
    finished(ends["c"])
    assert [model.base_id for model in engine.stats().models] == [str(other)]


def test_a_live_request_drives_out_a_base_that_serves_batches_which_then_go_on(
    make: Callable[..., Engine], folder: Path, tmp_path: Path
) -> None:
    other = save_model(tmp_path / "other", "gpt2", seed=3)
    engine = make(max_models=1, max_slots=2)
    long = replace(GREEDY, max_tokens=120)
    rows = [ask(folder, f"b{n}", priority=Priority.BATCH, sampling=long, stream=False) for n in range(4)]
    for row in rows:
        engine.add(row)
    order = []
    until_running(engine)
    engine.add(ask(other, "live"))
    while engine.has_work:
        order += [event.request_id for event in engine.step() if isinstance(event, Finished)]
        engine.wait()
    assert order.index("live") < order.index("b3")
    assert sorted(order) == ["b0", "b1", "b2", "b3", "live"]


def test_the_least_recently_used_adapter_makes_room(
    make: Callable[..., Engine], folder: Path, tmp_path: Path
) -> None:
    refs = [
        ModelRef(f"a{n}", str(save_adapter(tmp_path / f"a{n}", folder, seed=n, target_modules=["q_proj"])))
        for n in range(3)
    ]
    engine = make(max_adapters=2)
    for number in (0, 1, 0, 2):
        finished(run(engine, ask(folder, adapter=refs[number]))["r"])
    assert engine.stats().models[0].adapters == ["a0", "a2"]


def test_prefixes_are_shared_within_a_tenant_and_an_adapter_alone(
    make: Callable[..., Engine], folder: Path, tmp_path: Path
) -> None:
    adapter = ModelRef("a", str(save_adapter(tmp_path / "a", folder)))
    engine = make()

    def cached(tenant: str, adapter: ModelRef | None = None) -> int:
        request = ask(folder, prompt_ids=tuple(range(5, 45)), tenant=tenant, adapter=adapter)
        return finished(run(engine, request)["r"]).usage.cached_tokens

    assert [cached("a"), cached("a")] == [0, 32]
    assert [cached("b"), cached("b")] == [0, 32]
    assert [cached("a", adapter), cached("a", adapter)] == [0, 32]
    # What comes back under the same name may be another adapter.
    engine.unload_adapter("a")
    assert cached("a", adapter) == 0


def test_batch_rows_of_more_adapters_than_fit_all_end(
    make: Callable[..., Engine], folder: Path, tmp_path: Path
) -> None:
    rows = []
    for number in range(3):
        path = save_adapter(tmp_path / f"a{number}", folder, seed=number, target_modules=["q_proj"])
        ref = ModelRef(f"a{number}", str(path))
        rows += [ask(folder, f"{number}-{n}", adapter=ref, priority=Priority.BATCH) for n in range(3)]
    ends = run(make(max_adapters=1), *rows)
    assert all(isinstance(ends[row.id][-1], Finished) for row in rows)


def test_an_adapter_brings_its_own_chat_template(make: Callable[..., Engine], tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", tokenizer=False)
    build_tokenizer(chat=False).save_pretrained(base)
    adapter = save_adapter(tmp_path / "adapter", base)
    build_tokenizer().save_pretrained(adapter)
    chat = ({"role": "user", "content": "hi"},)
    ends = run(
        make(),
        ask(base, "plain", messages=chat),
        ask(base, "tuned", messages=chat, adapter=ModelRef("a", str(adapter))),
    )
    assert isinstance(ends["plain"][-1], Failed)
    assert ends["plain"][-1].code == "chat_template_missing"
    finished(ends["tuned"])


def test_loads_are_told_and_a_base_can_be_unloaded(make: Callable[..., Engine], folder: Path) -> None:
    engine = make()
    events = run(engine, ask(folder))
    assert [event.kind for event in events[""] if isinstance(event, Loaded)] == ["base"]
    engine.unload_base(str(folder))
    assert engine.stats().models == []
    with pytest.raises(NotFound):
        engine.unload_base(str(folder))


def test_settings_out_of_range_are_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="max_slots"):
        EngineConfig(max_slots=0)
    with pytest.raises(InvalidInput, match="temperature"):
        Sampling(temperature=float("nan"))
    with pytest.raises(InvalidInput, match="exactly one"):
        Request(id="x", base=ModelRef("b", "/b"), prompt="a", prompt_ids=(1,))
