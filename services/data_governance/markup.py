"""Takes the markup off a text: HTML and XML tags, entities, Markdown. Pure, and linear in the text.

A tag must look like one all through: `a < b`, `if a<b and c>d` and `List<String>` are text.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from typing import Literal

Counts = dict[str, int]
Code = Literal["keep", "unwrap", "drop"]


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Elements whose end is a line's end; those whose content is no text; all others of HTML stand within a line.
_BLOCKS = _names(
    "address article aside blockquote br caption center dd details dialog dir div dl dt fieldset "
    "figcaption figure footer form h1 h2 h3 h4 h5 h6 header hgroup hr legend li main menu nav ol "
    "optgroup option p pre section select summary table tbody tfoot thead title tr ul"
)
_CELLS = frozenset(("td", "th"))
_INLINE = _names(
    "a abbr acronym applet area audio b base basefont bdi bdo big body button canvas cite code col "
    "colgroup data datalist del dfn em embed font frame frameset head html i iframe img input ins kbd "
    "label link map mark marquee meta meter nobr noframes noscript object output param picture "
    "progress q rp rt ruby s samp small source span strike strong sub sup template textarea time track "
    "tt u var video wbr"
)
_KNOWN = _BLOCKS | _CELLS | _INLINE
# An attribute has a value, or is one of those that need none; else `a<b and c>d` would be a tag `b`.
_VALUE = r"""(?:"[^"<]{0,4000}"|'[^'<]{0,4000}'|[^\s"'<>=`]{1,4000})"""
_BARE = (
    "allowfullscreen|async|autofocus|autoplay|checked|controls|default|defer|disabled|download|formnovalidate|hidden"
    "|inert|ismap|itemscope|loop|multiple|muted|nomodule|noshade|novalidate|nowrap|open|playsinline|readonly|required"
    "|reversed|selected"
)
_TAG = re.compile(
    r"<(/?)([A-Za-z][A-Za-z0-9:_.-]{0,40})"
    rf"(?:\s+(?:[A-Za-z_:@][A-Za-z0-9_:.@-]{{0,60}}\s*=\s*{_VALUE}|(?:{_BARE})(?![A-Za-z0-9_-])))*+\s*/?>",
)
_DECLARATION = re.compile(
    r"<(?:!DOCTYPE[^<>]{0,1000}|\?xml[^<>]{0,1000}\?|!\[CDATA\[)>?|\]\]>", re.IGNORECASE
)
_SILENT = re.compile(r"<(script|style)(?=[\s>])[^<>]{0,4000}>", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_LINE_ENDS = re.compile(r"[ \t]*\n[ \t]*(?:\n[ \t]*)+")

_MARKDOWN: tuple[tuple[str, re.Pattern[str], str], ...] = (
    # What must be there, what is looked for, and what is left of it.
    ("](", re.compile(r"!?\[([^\[\]\n]{0,500})\]\([^()\s]{0,2000}(?:[ \t]+\"[^\"\n]{0,300}\")?\)"), r"\1"),
    ("**", re.compile(r"\*\*(?=[^\s*])([^*\n]{1,1000})(?<=\S)\*\*"), r"\1"),
    ("__", re.compile(r"(?<![A-Za-z0-9_])__(?=[^\s_])([^_\n]{1,1000})(?<=\S)__(?![A-Za-z0-9_])"), r"\1"),
    ("~~", re.compile(r"~~(?=[^\s~])([^~\n]{1,1000})(?<=\S)~~"), r"\1"),
    ("*", re.compile(r"(?<![A-Za-z0-9*\\])\*(?=[^\s*])([^*\n]{1,1000})(?<=[^\s*])\*(?![A-Za-z0-9*])"), r"\1"),
    ("`", re.compile(r"(?<!`)`([^`\n]{1,1000})`(?!`)"), r"\1"),
    ("#", re.compile(r"^ {0,3}#{1,6}[ \t]+(.{0,2000}?)[ \t]*#*$", re.MULTILINE), r"\1"),
    (">", re.compile(r"^ {0,3}(?:>[ \t]?)+", re.MULTILINE), ""),
)


def strip_tags(text: str, counts: Counts, known: Literal["html", "any"] = "html") -> str:
    """Tags, comments, scripts and styles go; ends of blocks become line ends."""
    text = _without_comments(_without_silent(text, counts), counts)
    taken = 0

    def left(match: re.Match[str]) -> str:
        nonlocal taken
        name = match[2].lower()
        if known == "html" and name not in _KNOWN:
            return match[0]
        taken += 1
        return "\n" if name in _BLOCKS else " " if name in _CELLS else ""

    text, declared = _DECLARATION.subn("", text)
    bare = _TAG.sub(left, text)
    if not taken + declared:
        return text
    counts["markup_tags"] = counts.get("markup_tags", 0) + taken + declared
    return _LINE_ENDS.sub("\n\n", bare)


def _without_silent(text: str, counts: Counts) -> str:
    """Scripts and styles with their content; one that is never closed is left to be a tag."""
    if not _SILENT.search(text):
        return text
    low, parts, at = text.lower(), [], 0
    unclosed: set[str] = set()
    while match := _SILENT.search(text, at):
        name = match[1].lower()
        end = -1 if name in unclosed or len(low) != len(text) else low.find(f"</{name}", match.end())
        if end < 0:
            unclosed.add(name)
            parts.append(text[at : match.end()])
            at = match.end()
            continue
        parts.append(text[at : match.start()])
        close = text.find(">", end)
        at = len(text) if close < 0 else close + 1
        counts["markup_scripts"] = counts.get("markup_scripts", 0) + 1
    return "".join([*parts, text[at:]])


def _without_comments(text: str, counts: Counts) -> str:
    parts, at = [], 0
    while (start := text.find("<!--", at)) >= 0 and (end := text.find("-->", start + 4)) >= 0:
        parts.append(text[at:start])
        at = end + 3
        counts["markup_comments"] = counts.get("markup_comments", 0) + 1
    return "".join([*parts, text[at:]]) if parts else text


def decode_entities(text: str, counts: Counts) -> str:
    """`&amp;`, `&#8364;` and the like as the characters they stand for; without its semicolon none is one."""
    decoded, times = _ENTITY.subn(lambda match: html.unescape(match[0]), text)
    if decoded != text:
        counts["markup_entities"] = counts.get("markup_entities", 0) + times
    return decoded


def strip_markdown(text: str, counts: Counts) -> str:
    """Links, images, emphasis, inline code, headings and quotes as the text that they show."""
    for mark, pattern, left in _MARKDOWN:
        if mark in text:
            text, times = pattern.subn(left, text)
            if times:
                counts["markup_markdown"] = counts.get("markup_markdown", 0) + times
    return text


def outside_code(
    text: str, code: Literal["keep", "unwrap", "drop"], strip: Callable[[str], str], counts: Counts
) -> str:
    """`strip` over all but the fenced blocks, and those kept, unwrapped or dropped. An open fence is text."""
    pieces = text.split("```")
    if len(pieces) < 3:
        return strip(text)
    made = []
    for number, piece in enumerate(pieces):
        inside, closed = number % 2 == 1, number < len(pieces) - 1
        if not inside:
            made.append(strip(piece) if piece else piece)
        elif not closed or code == "keep":
            made += ["```", piece, "```" if closed else ""]
        else:
            counts["markup_code"] = counts.get("markup_code", 0) + 1
            # Behind the opening fence stands the language's name.
            made.append(piece.partition("\n")[2].removesuffix("\n") if code == "unwrap" else "")
    return "".join(made)
