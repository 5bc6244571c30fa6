"""How models write calls of tools: the form that a chat template teaches, as a grammar and as a reader of answers.

Pure: takes a template's text and answers as they grow. Three forms are known; a template of another is refused.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from shared.contracts.structured import guidance
from shared.errors import InvalidInput

MAX_PARALLEL = 16
# As json.dumps writes; see `shared.contracts.structured`.
_JSON = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class ToolForm(StrEnum):
    """By the mark that a template has: JSON in tags (Qwen, Hermes), a list of it (Mistral), or it alone (Llama)."""

    TAGGED = "<tool_call>"
    LISTED = "[TOOL_CALLS]"
    BARE = '"parameters"'

    @property
    def arguments(self) -> str:
        return "parameters" if self is ToolForm.BARE else "arguments"


def form_of(template: str | None) -> ToolForm:
    """The form that a chat template teaches. Raises InvalidInput for one without tools, or of another form."""
    text = template or ""
    if "tools" in text:
        for form in (ToolForm.TAGGED, ToolForm.LISTED, ToolForm.BARE):
            if form.value in text:
                return form
    why = "writes calls in a form that is not known here" if "tools" in text else "has no place for tools"
    raise InvalidInput(
        f"this model's chat template {why}; leave tools out, or use a model with {', '.join(ToolForm)} in its template",
        code="unsupported_parameter",
        param="tools",
    )


def grammar(
    form: ToolForm,
    tools: Sequence[Mapping[str, Any]],
    *,
    named: str | None,
    parallel: bool,
    special: Mapping[str, int],
) -> str:
    """The grammar of an answer that must be calls: of any of `tools`, or of the one `named`.

    `special` has the numbers of the tokenizer's special tokens, which a grammar names by number.
    """
    schemas = [
        {
            "type": "object",
            "properties": {"name": {"const": tool["name"]}, form.arguments: json.loads(tool["parameters"])},
            "required": ["name", form.arguments],
            "additionalProperties": False,
        }
        for tool in tools
        if named in (None, tool["name"])
    ]
    one: dict[str, Any] = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    if form is ToolForm.LISTED:
        one = {"type": "array", "items": one, "minItems": 1, "maxItems": MAX_PARALLEL if parallel else 1}
    body = f"%json {json.dumps({**one, 'x-guidance': _JSON}, ensure_ascii=False)}"
    if form is ToolForm.BARE:
        return str(guidance().LLMatcher.grammar_from_lark(f"start: {body}"))
    if form is ToolForm.LISTED:
        return str(
            guidance().LLMatcher.grammar_from_lark(f"start: {_mark(form.value, special)} body\nbody: {body}")
        )
    calls = f'call ("\\n" call){{0,{MAX_PARALLEL - 1}}}' if parallel else "call"
    opening, closing = _mark("<tool_call>", special), _mark("</tool_call>", special)
    call = f'call: {opening} "\\n" body "\\n" {closing}'
    return str(guidance().LLMatcher.grammar_from_lark(f"start: {calls}\n{call}\nbody: {body}"))


def _mark(text: str, special: Mapping[str, int]) -> str:
    """A marker in a grammar: a special token by its number, or plain text."""
    return f"<[{special[text]}]>" if text in special else json.dumps(text)


@dataclass(frozen=True)
class Call:
    """One call of a tool; `arguments` is JSON as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass
class ToolReader:
    """Splits an answer, as it grows, into what is said and what is called. What is no call after all is said."""

    form: ToolForm
    calls: list[Call] = field(default_factory=list)
    _held: str = ""
    _spoken: bool = False

    def push(self, text: str) -> tuple[str, list[Call]]:
        """Add text; returns (text that is said for certain, calls that are whole)."""
        self._held += text
        return self._tagged(final=False) if self.form is ToolForm.TAGGED else self._at_once(final=False)

    def finish(self) -> tuple[str, list[Call]]:
        """No more comes; returns the rest."""
        return self._tagged(final=True) if self.form is ToolForm.TAGGED else self._at_once(final=True)

    def _tagged(self, *, final: bool) -> tuple[str, list[Call]]:
        said, found = "", []
        while (opening := self._held.find("<tool_call>")) >= 0:
            closing = self._held.find("</tool_call>", opening)
            if closing < 0 and not final:
                break
            end = closing if closing >= 0 else len(self._held)
            after = end + (len("</tool_call>") if closing >= 0 else 0)
            text, self._held = self._held[:after], self._held[after:]
            calls = self._read(text[opening + len("<tool_call>") : end])
            found += calls
            said += self._said(text[:opening] if calls else text, after_call=len(self.calls) > len(calls))
        keep = (
            0 if final else len(self._held) - opening if opening >= 0 else _overlap(self._held, "<tool_call>")
        )
        text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return said + self._said(text, after_call=bool(self.calls)), found

    def _at_once(self, *, final: bool) -> tuple[str, list[Call]]:
        """A form that is the whole answer: nothing is said while it may still become one."""
        begun = self._held.lstrip()
        mark = ToolForm.LISTED.value
        starts = ("{",) if self.form is ToolForm.BARE else ("[", mark)
        possible = not self._spoken and (not begun or any(begun.startswith(start) for start in starts))
        if possible and not final:
            return "", []
        text, self._held = self._held, ""
        calls = self._read(begun.removeprefix(mark)) if possible else []
        return ("", calls) if calls else (self._said(text, after_call=False), [])

    def _said(self, text: str, *, after_call: bool) -> str:
        # The line ends between calls are the form's, not the answer's.
        if after_call and not text.strip():
            return ""
        self._spoken = self._spoken or bool(text.strip())
        return text

    def _read(self, text: str) -> list[Call]:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return []
        items = value if isinstance(value, list) else [value]
        calls = []
        for item in items:
            arguments = item.get(self.form.arguments) if isinstance(item, dict) else None
            if not isinstance(arguments, dict) or not isinstance(item.get("name"), str):
                return []
            written = json.dumps(arguments, ensure_ascii=False)
            calls.append(Call(f"call_{secrets.token_hex(12)}", item["name"], written))
        self.calls += calls
        return calls


def _overlap(text: str, mark: str) -> int:
    """How many of the last characters may be the beginning of `mark`."""
    return next((n for n in range(min(len(mark) - 1, len(text)), 0, -1) if mark.startswith(text[-n:])), 0)
