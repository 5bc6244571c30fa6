"""The marks of a generated answer: the label in its text and the metadata beside it. Pure.

After GB 45438-2025 (China, in force since 2025-09-01), whose annex E describes the object `AIGC`, and article 50 of
the EU's AI Act. The metadata stand in the field `heliu` of an answer, and of the last chunk of a choice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from shared.contracts.inference import Completion
from shared.contracts.marking import Marking
from shared.text.language import script_of

# Of the annex's three cases the one that is certain: the content is generated.
GENERATED = "1"
LABELS = {"zh": "（AI生成）", "en": " (AI-generated)"}
BOTH = "（AI生成 / AI-generated）"
FIELD = "heliu"


def label_before(marking: Marking | None) -> str:
    """The label in front of a text; in both languages where it must be told before the text is known."""
    if marking is None or marking.mode != "visible" or marking.place != "start":
        return ""
    return (BOTH if marking.language == "auto" else LABELS[marking.language]).strip() + "\n"


def label_behind(marking: Marking | None, text: str) -> str:
    """The label behind a text, in its language; none behind an empty one."""
    if marking is None or marking.mode != "visible" or marking.place != "end" or not text:
        return ""
    if marking.language != "auto":
        return LABELS[marking.language]
    return LABELS["zh" if script_of((text,)) in ("chinese", "mixed") else "en"]


def labelled(marking: Marking | None, choices: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Whole choices ({"text", ...}) with their labels."""
    return [{**choice, "text": _whole(marking, str(choice["text"]))} for choice in choices]


def _whole(marking: Marking | None, text: str) -> str:
    return label_before(marking) + text + label_behind(marking, text) if text else text


def metadata(marking: Marking | None, answer_id: str, texts: Sequence[str]) -> dict[str, Any]:
    """The field that tells what the answer is; nothing where it is not marked.

    ProduceID is the answer's id, which leads back through its lineage. ReservedCode1 is the SHA-256 of the texts as
    they were generated, by which it can be told what content the mark belongs to.
    """
    if marking is None or marking.mode == "off":
        return {}
    digest = hashlib.sha256("\n".join(texts).encode("utf-8", "surrogatepass")).hexdigest()
    told = {
        "Label": GENERATED,
        "ContentProducer": marking.producer,
        "ProduceID": answer_id,
        "ReservedCode1": digest,
        "ContentPropagator": marking.propagator,
        "PropagateID": answer_id if marking.propagator else "",
        "ReservedCode2": "",
    }
    return {FIELD: {"AIGC": told}}


def fitting(marking: Marking | None, asked: Completion) -> Marking | None:
    """The marking that fits a request: an answer that is called for as JSON or as calls of tools has no label in it."""
    if marking is None or marking.mode == "off":
        return None
    return marking.without_label() if asked.tools or asked.sampling.form is not None else marking
