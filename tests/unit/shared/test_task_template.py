"""The template language of tasks: what it does, and what it refuses instead of running away."""

from __future__ import annotations

import pytest

from shared.errors import InvalidInput
from shared.task.template import MAX_STEPS, render
from shared.task.template_check import check_template

DECLARED = ["text", "count", "items"]
VALUES = {"text": "a" * 1000, "count": 7, "items": ["u", "v"] * 200}


def run(source: str, **values: object) -> str:
    check_template(source, DECLARED, "spec.prompt")
    return render(source, {**VALUES, **values}, "spec.prompt")


def test_conditions_loops_and_filters_make_the_text() -> None:
    source = (
        "{% for item in items %}{{ loop.index }}. {{ item|trim }}{% if not loop.last %}; {% endif %}{% endfor %}"
        "{% if count > 3 %} ({{ count + 1 }}){% else %} few{% endif %} {{ text[:2]|upper }}{{ items|join('/') }}"
    )
    assert run(source, text="你好吗", items=["甲 ", "乙"]) == "1. 甲; 2. 乙 (8) 你好甲 /乙"


def test_a_text_is_cut_to_a_length() -> None:
    assert run("{{ text|truncate(5) }} {{ text|truncate(3, '') }}", text="你好你好你好") == "你好... 你好你"


def test_what_a_caller_sends_is_text_and_never_a_template() -> None:
    assert run("{{ text }}", text="{{ 7 * 7 }}{% for") == "{{ 7 * 7 }}{% for"


@pytest.mark.parametrize(
    "source",
    [
        *("{{ ''.__class__ }}", "{{ text.format }}", "{{ text.upper() }}", "{{ text|attr('__class__') }}"),
        *("{{ text|sort(attribute='__class__') }}", "{{ items|sum('__class__') }}", "{{ loop.__init__ }}"),
        *("{% set x = text %}", "{% macro m() %}{% endmacro %}", "{% include 'x' %}", "{% extends 'x' %}"),
        *(
            "{{ lipsum(n=99999999) }}",
            "{{ cycler('a') }}",
            "{{ text|center(999999999) }}",
            "{{ 2 ** 99999 }}",
        ),
        *(
            "{{ text ~ text }}",
            "{% for a in items recursive %}{% endfor %}",
            "{{ {'a': 1} }}",
            "{{ range }}x{{",
        ),
        *("{% for loop in items %}{% endfor %}", "{% filter upper %}{% endfilter %}", "{{ " + "(" * 4000),
        *("{{ 9" + "9" * 5000 + " }}", "{% with a = 1 %}{% endwith %}", "{% call text() %}{% endcall %}"),
    ],
)
def test_what_could_run_away_or_look_behind_is_refused_when_it_is_made(source: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_template(source, DECLARED, "spec.prompt")
    assert caught.value.param == "spec.prompt"
    assert caught.value.code in ("invalid_template", "undeclared_variable")


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("{% for i in range(10000000000) %}a{% endfor %}", "template_too_large"),
        ("{{ 'a' * 1000000000 }}", "template_error"),
        ("{{ text * count }}", "template_error"),
        ("{{ text + text }}", "template_error"),
        ("{{ '%0999999999d' % count }}", "template_error"),
        ("{{ text|replace('', text) }}", "template_too_large"),
        ("{{ items|join(text) }}", "template_too_large"),
        ("{{ count|round(999999999) }}", "template_error"),
        ("{{ 999999999 * 999999999 }}", "template_error"),
        ("{{ count / 0 }}", "template_error"),
        ("{{ text|truncate(1) }}", "template_error"),
        ("{{ items|truncate(9)|sum }}", "template_error"),
        ("{{ text['__class__'] }}", "template_error"),
        ("{% for i in text %}{% endfor %}", "template_error"),
        ("{% for i in items %}{{ text }}{% endfor %}", "template_too_large"),
        ("{% for i in range(999) %}" * 4 + "{% endfor %}" * 4, "template_too_large"),
    ],
)
def test_what_shows_only_with_values_ends_in_a_typed_error(source: str, code: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        run(source)
    assert caught.value.code == code


def test_a_loop_pays_for_each_node_of_its_body() -> None:
    body = "{{ text|upper|lower }}" * 200
    rounds = MAX_STEPS // 200
    with pytest.raises(InvalidInput, match="steps"):
        run(f"{{% for i in range({rounds}) %}}{body}{{% endfor %}}", text="")


def test_an_undeclared_variable_is_refused_with_the_name_that_was_meant() -> None:
    with pytest.raises(InvalidInput, match=r"uses 'txet'.*did you mean 'text'\? \(line 2\)") as caught:
        check_template("first\n{{ txet }}", DECLARED, "spec.prompt")
    assert caught.value.code == "undeclared_variable"
