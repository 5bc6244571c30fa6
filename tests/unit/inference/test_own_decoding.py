"""A model's own decoding settings: they hold where a request leaves them to the model, and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.inference.choices import Choices, calls
from services.inference.engine.engine import Engine
from services.inference.engine.events import Failed, Finished
from services.inference.engine.request import EngineConfig, ModelRef, Request, Sampling
from services.inference.wire import OPERATION, Generate, done_frame, parse, to_request
from shared.contracts.generation_config import FILE, NAMES
from shared.contracts.inference import ChatMessage, Completion
from shared.contracts.inference import Sampling as Asked
from tests.unit.inference.tiny_models import build_model, greedy, save_adapter, save_model

PROMPT = [5, 9, 17, 3, 21]
OWN = {"do_sample": False, "max_new_tokens": 5, "eos_token_id": None}
LEFT = Sampling(unsaid=frozenset(NAMES), ignore_eos=True)


def _pin(folder: Path, **settings: Any) -> Path:
    (folder / FILE).write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    folder = save_model(tmp_path_factory.mktemp("base"))
    return ModelRef("base", str(_pin(folder, **OWN)))


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine(EngineConfig(max_slots=8, kv_tokens=2048, default_max_tokens=40))
    yield engine
    engine.close()


def ask(base: ModelRef, sampling: Sampling, name: str = "r", **more: Any) -> Request:
    return Request(id=name, base=base, prompt_ids=tuple(PROMPT), sampling=sampling, **more)


def answered(engine: Engine, request: Request) -> Finished:
    (found,) = engine.generate([request])
    assert isinstance(found, Finished), found
    return found


def test_what_is_left_to_the_model_is_as_its_folder_says(engine: Engine, base: ModelRef) -> None:
    found = answered(engine, ask(base, LEFT))
    assert list(found.token_ids) == greedy(build_model("llama"), PROMPT, 5)
    assert found.decoding == {"temperature": 0.0, "max_tokens": 5}


def test_what_is_said_wins_setting_by_setting(engine: Engine, base: ModelRef) -> None:
    longer = replace(LEFT, max_tokens=8, unsaid=frozenset(NAMES) - {"max_tokens"})
    found = answered(engine, ask(base, longer))
    assert list(found.token_ids) == greedy(build_model("llama"), PROMPT, 8)
    assert found.decoding == {"temperature": 0.0}
    drawn = replace(LEFT, temperature=2.0, seed=1, unsaid=frozenset(NAMES) - {"temperature"})
    found = answered(engine, ask(base, drawn))
    assert (len(found.token_ids), found.decoding) == (5, {"max_tokens": 5})
    assert list(found.token_ids) != greedy(build_model("llama"), PROMPT, 5)


def test_a_plain_script_says_all_of_it(engine: Engine, base: ModelRef) -> None:
    found = answered(engine, ask(base, Sampling(seed=1, ignore_eos=True)))
    assert (len(found.token_ids), found.decoding) == (40, {})


def test_an_adapter_has_its_own_file_or_its_bases(engine: Engine, base: ModelRef, tmp_path: Path) -> None:
    plain, other = (save_adapter(tmp_path / name, Path(base.path)) for name in ("plain", "other"))
    (plain / FILE).unlink(missing_ok=True)
    _pin(other, temperature=0.5, do_sample=True, max_new_tokens=3)
    decoded = [
        answered(engine, ask(base, LEFT, adapter=ModelRef(folder.name, str(folder)))).decoding
        for folder in (plain, other)
    ]
    assert decoded == [{"temperature": 0.0, "max_tokens": 5}, {"temperature": 0.5, "max_tokens": 3}]


def test_an_answer_is_no_longer_than_there_is_room_for(engine: Engine, tmp_path: Path) -> None:
    context = build_model("llama").config.max_position_embeddings
    folder = _pin(save_model(tmp_path / "m"), do_sample=False, max_new_tokens=context, eos_token_id=None)
    found = answered(engine, ask(ModelRef("long", str(folder)), LEFT))
    assert len(found.token_ids) == context - len(PROMPT)


def test_settings_without_a_meaning_are_told_to_who_asks(engine: Engine, tmp_path: Path) -> None:
    folder = _pin(save_model(tmp_path / "m"), top_p=1.5)
    (found,) = engine.generate([ask(ModelRef("bad", str(folder)), LEFT)])
    assert isinstance(found, Failed)
    assert (found.code, found.param) == ("model_unreadable", "top_p")
    assert "generation_config.json has top_p=1.5" in found.message


def _sent(wanted: Completion) -> Request:
    (frame,) = calls("r", wanted, {"base": {"id": "b", "path": "/b"}})
    message = parse(OPERATION, {"op": "generate", **json.loads(json.dumps(frame))})
    assert isinstance(message, Generate)
    return to_request(message)


def test_what_a_client_does_not_say_arrives_as_left_to_the_model() -> None:
    chat = Completion(messages=(ChatMessage(role="user", content="hi"),))
    left = _sent(chat).sampling
    assert (left.unsaid, left.default_tokens, left.max_tokens) == (frozenset(NAMES), None, None)
    said = _sent(chat.model_copy(update={"sampling": Asked(temperature=0.5, top_k=0, max_tokens=7)})).sampling
    assert (said.temperature, said.top_k, said.max_tokens) == (0.5, 0, 7)
    assert said.unsaid == set(NAMES) - {"temperature", "top_k", "max_tokens"}


def test_a_text_is_answered_in_sixteen_tokens_where_nobody_says(engine: Engine, base: ModelRef) -> None:
    sampling = _sent(Completion(prompts=((1, 2),))).sampling
    assert sampling.of_model({})[0].default_tokens == 16
    assert sampling.of_model({"max_tokens": 5})[0].default_tokens == 5


def test_what_was_the_models_is_told_with_the_answer(engine: Engine, base: ModelRef) -> None:
    wanted = Completion(prompts=(tuple(PROMPT),))
    answers = Choices(wanted)
    frame = done_frame(answered(engine, ask(base, LEFT, "r.0")))
    assert answers.take(json.loads(json.dumps(frame)))
    assert answers.result()["decoding"] == {"temperature": 0.0, "max_tokens": 5}
