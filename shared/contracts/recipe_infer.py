"""Guesses a mapping from columns and sample rows, and the recipe used when none is given. Reads no file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from shared.contracts.recipe import Gates, InputMapping, Recipe, Split
from shared.contracts.steps import Step
from shared.contracts.steps.conflicting_labels import ConflictingLabels
from shared.contracts.steps.drop_broken import DropBroken
from shared.contracts.steps.drop_empty import DropEmpty
from shared.contracts.steps.exact_duplicates import ExactDuplicates, ExactDuplicatesParams
from shared.contracts.steps.length_bounds import LengthBounds, LengthBoundsParams
from shared.contracts.steps.mask_pii import MaskPii
from shared.contracts.steps.normalize_text import NormalizeText
from shared.errors import InvalidInput

# In order of preference; compared without case, spaces, dashes and underscores.
_MESSAGES = (
    *("messages", "conversation", "conversations", "dialogue", "dialog", "turns", "chat"),
    *("对话", "消息", "会话"),
)
_PROMPT = (
    *("prompt", "question", "instruction", "query", "user", "input", "ask"),
    *("问题", "提问", "用户", "问", "指令"),
)
_COMPLETION = (
    *("completion", "answer", "response", "output", "reply", "assistant", "target", "chosen"),
    *("回答", "答案", "回复", "答", "客服", "输出"),
)
# Instructions come with their material in a column of its own; without it the answers make no sense.
_CONTEXT = ("input", "context", "passage", "输入", "上下文", "背景", "材料")
_TEXT = (
    *("text", "content", "body", "sentence", "utterance", "document", "article", "message"),
    *("文本", "内容", "正文", "句子", "原文"),
)
_LABEL = (
    *("label", "intent", "category", "class", "topic", "tag", "type"),
    *("标签", "意图", "类别", "分类", "类型"),
)
_ID = (
    *("id", "uid", "uuid", "rowid", "messageid", "conversationid", "dialogueid", "dialogid", "sessionid"),
    *("编号", "序号", "会话id", "对话id"),
)
_SYSTEM = ("system", "systemprompt", "系统提示")
_ROLE_FIELDS = (
    *(("role", "content"), ("from", "value"), ("speaker", "text")),
    *(("role", "text"), ("role", "value")),
)
_Role = Literal["system", "user", "assistant", "tool"]
_ROLE_NAMES: dict[str, _Role] = {
    **dict.fromkeys(("human", "customer", "client", "visitor", "usr", "用户", "客户", "顾客"), "user"),
    **dict.fromkeys(("gpt", "bot", "agent", "ai", "chatgpt", "sys", "support", "客服", "助手"), "assistant"),
}


def infer_mapping(columns: Sequence[str], samples: Sequence[Mapping[str, Any]]) -> InputMapping:
    """The mapping that these columns and sample rows (parsed values) suggest.

    Conversations first, then question and answer, then text with a label (the label is then the answer),
    then text alone. Raises InvalidInput, with the columns found, when nothing fits.
    """
    names = {_plain(c): c for c in reversed(columns)}
    extra: dict[str, Any] = {
        "id": _pick(names, _ID),
        "label": _label(names, samples),
        "system": _pick(names, _SYSTEM),
    }
    for column in _ordered(columns, names, _MESSAGES):
        if shape := _message_shape(column, samples):
            return InputMapping(messages=column, **shape, **_without(extra, column))
    texts = [c for c in columns if _is_text(c, samples)]
    text_names = {_plain(c): c for c in reversed(texts)}
    prompt, completion = _pick(text_names, _PROMPT), _pick(text_names, _COMPLETION)
    if prompt and completion and prompt != completion:
        context = _pick({n: c for n, c in text_names.items() if c not in (prompt, completion)}, _CONTEXT)
        return InputMapping(
            prompt=prompt, completion=completion, context=context, **_without(extra, prompt, context)
        )
    text = _pick(text_names, _TEXT) or prompt
    if text and extra["label"] and extra["label"] != text:
        return InputMapping(prompt=text, completion=extra["label"], **extra)
    free = [c for c in texts if c not in extra.values()]
    if text is None and len(free) == 1:
        text = free[0]
    if text is not None:
        extra["system"] = None
        return InputMapping(text=text, **_without(extra, text))
    shown = ", ".join(f"`{c[:60]}`" for c in columns[:20]) or "none"
    raise InvalidInput(
        f"cannot tell which columns hold the conversation; the columns are {shown}. Name them in the recipe: "
        '{"input": {"prompt": "question", "completion": "answer"}}, {"input": {"messages": "dialogue"}} or '
        '{"input": {"text": "body"}}',
        code="mapping_unclear",
        param="input",
    )


def default_recipe(mapping: InputMapping | Literal["auto"] = "auto") -> Recipe:
    """The recipe of a dataset made without one: repair, mask, settle conflicts, deduplicate, bound."""
    # A conversation that long is a pasted log; plain documents are longer.
    longest = 100_000 if mapping != "auto" and mapping.text is not None else 5_000
    steps: list[Step] = [
        NormalizeText(op="normalize_text"),
        DropEmpty(op="drop_empty"),
        DropBroken(op="drop_broken"),
        MaskPii(op="mask_pii"),
    ]
    if mapping == "auto" or mapping.label is not None:
        steps.append(ConflictingLabels(op="conflicting_labels"))
    steps += [
        ExactDuplicates(op="exact_duplicates", params=ExactDuplicatesParams(normalised=True)),
        LengthBounds(
            op="length_bounds", params=LengthBoundsParams(min_chars=2, max_chars=longest, max_turns=100)
        ),
    ]
    gates = Gates(min_rows=10, max_dropped_ratio=0.5, max_pii_left=0, max_leaked_questions=0)
    return Recipe(input=mapping, steps=steps, gates=gates, split=Split(validation=0.1), seed=0)


def _plain(name: str) -> str:
    return "".join(ch for ch in name.lower() if ch not in " _-.")


def _pick(names: Mapping[str, str], wanted: Sequence[str]) -> str | None:
    return next((names[w] for w in wanted if w in names), None)


def _ordered(columns: Sequence[str], names: Mapping[str, str], wanted: Sequence[str]) -> list[str]:
    first = [names[w] for w in wanted if w in names]
    return first + [c for c in columns if c not in first]


def _without(extra: Mapping[str, str | None], *taken: str | None) -> dict[str, Any]:
    return {key: None if value in taken else value for key, value in extra.items()}


def _values(column: str, samples: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [s[column] for s in samples if s.get(column) not in (None, "")]


def _is_text(column: str, samples: Sequence[Mapping[str, Any]]) -> bool:
    values = _values(column, samples)
    return bool(values) and sum(isinstance(v, str) for v in values) * 2 > len(values)


def _label(names: Mapping[str, str], samples: Sequence[Mapping[str, Any]]) -> str | None:
    """A column with a label's name, whose values are short and repeat."""
    for wanted in _LABEL:
        column = names.get(wanted)
        if column is None:
            continue
        values = [v for v in _values(column, samples) if isinstance(v, (str, int))]
        distinct = len({str(v) for v in values})
        short = all(len(str(v)) <= 100 for v in values)
        if values and short and (distinct <= 20 or distinct * 2 <= len(values)):
            return column
    return None


def _message_shape(column: str, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The keys of one message and the renamed roles, or None when the column holds no conversations."""
    messages: list[Mapping[str, Any]] = []
    for value in _values(column, samples):
        turns = _parsed(value)
        if isinstance(turns, list):
            messages += [t for t in turns if isinstance(t, Mapping)]
    for role_field, content_field in _ROLE_FIELDS:
        fitting = [m for m in messages if isinstance(m.get(content_field), str) and role_field in m]
        if fitting and len(fitting) * 2 > len(messages):
            roles = {str(m[role_field]) for m in fitting}
            renamed = {r: _ROLE_NAMES[r.lower()] for r in sorted(roles) if r.lower() in _ROLE_NAMES}
            return {"role_field": role_field, "content_field": content_field, "roles": renamed}
    return None


def _parsed(value: Any) -> Any:
    """A conversation in a CSV cell is JSON text."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value
