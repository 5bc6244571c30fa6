"""Graders on items: string checks, judges, Python in its sandbox, and what each error leaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from typing import Any

import pytest
from pydantic import TypeAdapter

from services.training.evals.grade import Answers, Graded, Graders
from services.training.evals.items import Item, items_of, of_lines
from services.training.evals.python_grader import MOST_HANGS, PythonGrading
from services.training.evals.sampling import Sample, request, sample_of, source_of, with_json
from shared.contracts.eval_items import CustomConfig
from shared.contracts.graders import Criterion, LabelModel, ScoreModel
from shared.errors import InvalidInput
from shared.task.judging import judge_body, read_verdict

CRITERIA: TypeAdapter[list[Criterion]] = TypeAdapter(list[Criterion])
JUDGED = {"model": "m", "input": [{"role": "user", "content": "rate {{sample.output_text}}"}]}
LABEL = {
    **JUDGED,
    "type": "label_model",
    "name": "label",
    "labels": ["good", "bad"],
    "passing_labels": ["good"],
}
SCORE = {**JUDGED, "type": "score_model", "name": "score", "range": [1, 5]}


def item(**fields: Any) -> Item:
    return Item(0, fields, None, "key", "key", {})


def check(operation: str, text: str, reference: str) -> bool:
    (criterion,) = CRITERIA.validate_python(
        [
            {
                "type": "string_check",
                "name": "check",
                "input": "{{sample.output_text}}",
                "reference": "{{item.want}}",
                "operation": operation,
            }
        ]
    )
    return graded([criterion], text, want=reference).passed


def graded(criteria: list[Any], text: str, answers: Answers = Answers(), **fields: Any) -> Graded:
    with closing(Graders(criteria, python=True)) as graders:
        return graders.grade(item(**fields), Sample(with_json({"output_text": text}), []), answers)


@pytest.mark.parametrize(
    ("operation", "text", "reference", "passed"),
    [
        ("eq", "Yes", "Yes", True),
        ("eq", "Yes", "yes", False),
        ("ne", "Yes", "yes", True),
        ("like", "the answer is 退款", "退款", True),
        ("like", "YES it is", "yes", False),
        ("ilike", "STRASSE", "straße", True),
        ("ilike", "no", "yes", False),
    ],
)
def test_string_checks(operation: str, text: str, reference: str, passed: bool) -> None:
    assert check(operation, text, reference) is passed


def test_an_item_passes_where_all_do_and_its_score_is_their_mean() -> None:
    criteria = CRITERIA.validate_python([LABEL, {**SCORE, "pass_threshold": 4}])
    told = graded(criteria, "x", Answers(said={0: '{"label": "good"}', 1: '{"score": 4}'}))
    assert (told.passed, told.error, told.score) == (True, None, (1 + 0.75) / 2)
    assert [result.score for result in told.results] == [1.0, 4.0]
    told = graded(criteria, "x", Answers(said={0: '{"label": "good"}', 1: '{"score": 2}'}))
    assert (told.passed, told.error, told.score) == (False, None, (1 + 0.25) / 2)


@pytest.mark.parametrize(
    "said", ["", "good", '"good"', '{"label": "great"}', '{"label": 1}', '{"label": "good"', "[" * 9000]
)
def test_a_label_that_does_not_parse_is_an_error_and_never_a_pass(said: str) -> None:
    told = graded(CRITERIA.validate_python([LABEL]), "x", Answers(said={0: said}))
    assert told.error is not None
    assert (told.passed, told.score, told.error["code"]) == (False, 0.0, "judge_unparsable")


@pytest.mark.parametrize(
    "said", ['{"score": 6}', '{"score": 0.9}', '{"score": true}', '{"score": "3"}', '{"score": NaN}', "4"]
)
def test_a_score_outside_of_its_range_is_an_error(said: str) -> None:
    judge = ScoreModel.model_validate(SCORE)
    with pytest.raises(InvalidInput, match=r"no number from 1 to 5|no object"):
        read_verdict(judge, said)


def test_a_judge_is_asked_for_one_field_bound_by_a_schema() -> None:
    values = {"item": {}, "sample": {"output_text": "fine"}}
    body = judge_body(LabelModel.model_validate(LABEL), values, "place")
    assert body["messages"] == [{"role": "user", "content": "rate fine"}]
    schema = body["response_format"]["json_schema"]["schema"]
    assert schema["properties"] == {"label": {"type": "string", "enum": ["good", "bad"]}}
    assert (body["temperature"], schema["additionalProperties"]) == (0, False)


def test_a_sample_that_failed_fails_every_criterion_with_its_reason() -> None:
    error = {"code": "upstream_failed", "message": "the server died"}
    with closing(Graders(CRITERIA.validate_python([LABEL]), python=False)) as graders:
        told = graders.grade(item(), Sample({}, [], error), Answers())
    assert told.error == error
    assert [result.error for result in told.results] == [error]


def test_python_runs_only_where_the_operator_lets_it() -> None:
    criteria = CRITERIA.validate_python(
        [{"type": "python", "name": "p", "source": "def grade(s, i): return 1"}]
    )
    with closing(Graders(criteria, python=False)) as graders:
        told = graders.grade(item(), Sample({}, []), Answers())
    assert told.error is not None
    assert told.error["code"] == "python_not_allowed"


@pytest.fixture
def grading() -> Iterator[Any]:
    opened: list[PythonGrading] = []

    def grade(source: str, sample: Any = None, **fields: Any) -> float:
        opened.append(PythonGrading(source, item_s=1.0, memory_mb=256))
        return opened[-1].grade(sample or {"output_text": "x"}, fields)

    yield grade
    for one in opened:
        one.__exit__()


def test_a_python_grader_sees_sample_and_item_and_the_standard_library(grading: Any) -> None:
    source = (
        "import json, re, difflib\ndef grade(sample, item):\n    print('noise')\n    return item['n'] / 2"
    )
    assert grading(source, n=3) == 1.5


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import io\ndef grade(s, i): return io.open('/etc/passwd').read()", "PermissionError"),
        (
            "import io, os\ndef grade(s, i): return io.open(f'/proc/{os.getppid()}/environ').read()",
            "PermissionError",
        ),
        ("import os\ndef grade(s, i): return os.listdir('/')", "PermissionError"),
        ("import io\ndef grade(s, i): io.open('here', 'w')", "PermissionError"),
        ("import socket\ndef grade(s, i): socket.socket()", "may not use socket"),
        ("import os\ndef grade(s, i): os.fork()", "may not use os.fork"),
        ("import os\ndef grade(s, i): os.kill(os.getppid(), 0)", "may not use os.kill"),
        ("import subprocess\ndef grade(s, i): subprocess.run(['id'])", "PermissionError"),
        ("import ctypes\ndef grade(s, i): ctypes.CDLL(None)", "PermissionError"),
        ("def grade(s, i):\n    while True: pass", "took longer than 1 s"),
        ("def grade(s, i): return len([0] * 10**9)", "MemoryError"),
        ("import os\ndef grade(s, i): os._exit(0)", "ended without an answer"),
        ("def grade(s, i): return 'high'", "must return a finite number, got 'high'"),
        ("def grade(s, i): return float('nan')", "must return a finite number"),
        ("def grade(s, i):\n    return 1 / 0", "ZeroDivisionError: division by zero (line 2)"),
        ("1 / 0\ndef grade(s, i): return 1", "failed when it was loaded: ZeroDivisionError"),
        ("grade = 3", "defines no function grade"),
    ],
)
def test_a_python_grader_can_reach_nothing_and_hold_up_nobody(grading: Any, source: str, words: str) -> None:
    with pytest.raises(InvalidInput) as told:
        grading(source)
    assert words in told.value.message
    assert told.value.code == "python_grader_failed"


def test_a_python_grader_has_no_environment_and_goes_on_after_one_that_hung(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HELIU_DATABASE_URL", "postgresql://secret")
    source = "import os\ndef grade(s, i):\n    while i['hang']: pass\n    return any('HELIU' in k for k in os.environ)"
    with PythonGrading(source, item_s=0.5) as one:
        assert one.grade({}, {"hang": False}) == 0.0
        with pytest.raises(InvalidInput, match="took longer"):
            one.grade({}, {"hang": True})
        assert one.grade({}, {"hang": False}) == 0.0


def test_a_python_grader_that_keeps_hanging_is_not_asked_again() -> None:
    with PythonGrading("def grade(s, i):\n    while True: pass", item_s=0.05) as one:
        said = []
        for _ in range(MOST_HANGS + 2):
            with pytest.raises(InvalidInput) as told:
                one.grade({}, {})
            said.append(told.value.message)
    assert all("took longer" in text for text in said[:MOST_HANGS])
    assert all("is not asked again" in text for text in said[MOST_HANGS:])


def read(*lines: str, schema: dict[str, Any] | None = None, **how: Any) -> list[Item]:
    config = CustomConfig(type="custom", item_schema=schema or {"type": "object"})
    raw = of_lines(BytesIO("\n".join(lines).encode()))
    return list(items_of(raw, config, slices=how.get("slices", ()), cluster=how.get("cluster")))


def test_the_same_item_has_the_same_key_wherever_it_stands() -> None:
    first = read('{"item": {"a": 1, "b": "x"}}', '{"item": {"a": 2}}', '{"item": {"a": 1, "b": "x"}}')
    second = read('{"item": {"b": "x", "a": 1}}', '{"item": {"a": 1, "b": "x"}}')
    assert first[0].key == second[0].key
    assert first[2].key == second[1].key
    assert len({one.key for one in first}) == 3


def test_items_know_their_slices_and_cluster() -> None:
    (one, other) = read(
        '{"item": {"q": "退款多久", "label": "refund", "meta": {"from": 3}, "talk": "t1"}}',
        '{"item": {"q": "hello", "meta": {"from": [1]}, "talk": "t1"}}',
        slices=("item.meta.from", "talk"),
        cluster="item.talk",
    )
    assert one.slices == {"language": "chinese", "label": "refund", "item.meta.from": "3", "talk": "t1"}
    assert other.slices == {"language": "latin", "item.meta.from": "(no text)", "talk": "t1"}
    assert one.cluster == other.cluster == "t1"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[]", "line 1: a line is"),
        ('{"item": 3}', "line 1: a line is"),
        ('{"item": {}, "samples": {}}', "line 1: it has the key 'samples'"),
        ('{"item": {}, "sample": "x"}', "line 1: sample must be an object"),
        ('{"item": {"a": NaN}}', "line 1: it is no JSON"),
        ('{"item": {"a": "\\u0000"}}', "line 1: a string holds a NUL"),
        ('{"item": {"a": "\\ud800"}}', "half of a surrogate pair"),
        ('{"item": {}}', "item 1.q is missing"),
    ],
)
def test_a_wrong_line_is_told_by_its_number(line: str, words: str) -> None:
    schema = {"type": "object", "required": ["q"]} if "missing" in words else None
    with pytest.raises(InvalidInput) as told:
        read(line, schema=schema)
    assert words in told.value.message


def test_a_request_has_messages_settings_and_variables_of_their_own_kind() -> None:
    source = source_of(
        {
            "type": "responses",
            "model": "task:say",
            "source": {"type": "file_id", "id": "given"},
            "variables": {"count": "{{item.n}}", "said": "n is {{item.n}}"},
            "input_messages": {"type": "item_reference", "item_reference": "item.talk"},
            "sampling_params": {"temperature": 0.0, "text": {"format": {"type": "json_object"}}},
        }
    )
    talk = [{"role": "user", "content": "hi", "type": "message"}]
    seen: list[dict[str, Any]] = []
    body = request(source, item(n=3, talk=talk), seen.append)  # type: ignore[arg-type]
    assert seen == [body]
    assert body == {
        "model": "task:say",
        "messages": [{"role": "user", "content": "hi"}],
        "variables": {"count": 3, "said": "n is 3"},
        "temperature": 0.0,
        "response_format": {"type": "json_object"},
    }
    told = sample_of(source, item(n=3), None, seen.append)
    assert told.error is not None
    assert "the item has no item.talk" in told.error["message"]
