"""The faults of real exports, one function each: a sound dialogue or line in, its damaged form out.

Every number and address is a published test value or from a reserved range; none belongs to a person.
"""

import re
from dataclasses import replace

from deploy.samples.dialogues import Dialogue
from deploy.samples.dice import Dice

# Placeholder numbers of forms and manuals; 555-01xx and 07700 900xxx are reserved for fiction (NANPA, Ofcom).
_PHONES = {
    "zh": ("13800138000", "13800000000", "139-1234-5678", "188 1234 5678", "+86 13912345678", "15000000000"),
    "en": ("202-555-0147", "(415) 555-0132", "+1 312-555-0188", "646.555.0119", "+44 7700 900123"),
}
_MAILBOXES = ("li.lei", "hanmeimei88", "x.wang", "amy_stone", "j.doe", "sam.okoro", "lost+parcel", "zy-user")
_MAIL_HOSTS = ("example.com", "example.org", "mail.example.net")
# Card numbers that payment providers publish for testing; all satisfy Luhn's check.
_BANK_CARDS = (
    "4111111111111111",
    "4242 4242 4242 4242",
    "5555-5555-5555-4444",
    "6200000000000005",
    "6205500000000000004",
    "378282246310005",
)
_AREAS = ("110105", "310101", "440106", "510107")
_PERSONAL: dict[str, dict[str, tuple[str, ...]]] = {
    "phone": {
        "zh": ("我电话{}", "，联系电话{}谢谢", "，打我手机 {}"),
        "en": (" Call me at {}.", " My number is {}"),
    },
    "email": {"zh": ("，邮箱{}", "，请发到 {} 吧"), "en": (" Reply to {} please", " My mail: {}")},
    "id_card": {"zh": ("，身份证{}", "，证件号码是{}，本人")},
    "bank_card": {
        "zh": ("，卡号{}", "，我的银行卡{}尾号没错"),
        "en": (" Card number {}", " It is card {}, mine."),
    },
}
PERSONAL_KINDS = tuple(_PERSONAL)

_WIDE: dict[int, int | str] = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
_NARROW_PUNCTUATION: dict[int, int | str] = {ord("，"): ",", ord("？"): "?", ord("！"): "!"}
_LOG_PARTS = ("checkout", "login", "push", "cart", "render", "sync", "payment")
_LOG_FAULTS = ("timeout", "connection reset", "null pointer", "http 502", "cache miss", "retry later")


def id_card(dice: Dice) -> str:
    """An 18-digit number with a valid check digit (GB 11643) and a birth year of 1900 to 1905."""
    birth = f"190{dice.below(6)}{dice.below(12) + 1:02}{dice.below(28) + 1:02}"
    body = f"{dice.pick(_AREAS)}{birth}{dice.below(900) + 100}"
    total = sum(int(digit) * 2 ** (17 - place) for place, digit in enumerate(body))
    return body + "10X98765432"[total % 11]


def speaks(kind: str, language: str) -> bool:
    """Whether that kind of personal data occurs in dialogues of that language."""
    return language in _PERSONAL[kind]


def with_personal_data(dialogue: Dialogue, kind: str, dice: Dice) -> Dialogue:
    """The customer adds exactly one value of that kind to the question."""
    values = {
        "phone": lambda: dice.pick(_PHONES[dialogue.language]),
        "email": lambda: f"{dice.pick(_MAILBOXES)}@{dice.pick(_MAIL_HOSTS)}",
        "id_card": lambda: id_card(dice),
        "bank_card": lambda: dice.pick(_BANK_CARDS),
    }
    sentence = dice.pick(_PERSONAL[kind][dialogue.language]).format(values[kind]())
    return dialogue.with_question(dialogue.question + sentence)


def with_html(dialogue: Dialogue, dice: Dice) -> Dialogue:
    """Remnants of a web form: a tag or an entity in the question."""
    text = dialogue.question
    middle = len(text) // 2
    forms = (
        f"{text}<br>",
        f"<p>{text}</p>",
        f"{text}<br/>&nbsp;",
        f"{text[:middle]}&nbsp;{text[middle:]}",
        f'<div class="msg">{text}</div>',
    )
    return dialogue.with_question(dice.pick(forms))


def near_duplicate(dialogue: Dialogue, dice: Dice) -> Dialogue:
    """Another spelling of the same question: equal after NFKC, joining of white space and stripping."""
    text = dialogue.question
    spaced = (
        f" {text}",
        f"{text}  ",
        f"\u3000{text}",
        f"{text}\n",
        f"\t{text} ",
        text.replace(" ", "  ", 1) + " ",
    )
    if dialogue.language == "zh":
        wide = text.translate(_WIDE | _NARROW_PUNCTUATION)
    else:
        words = text.split(" ")
        at = dice.below(len(words))
        wide = " ".join([*words[:at], words[at].translate(_WIDE), *words[at + 1 :]])
    changed = wide if wide != text and dice.chance(0.5) else dice.pick(spaced)
    return dialogue.with_question(changed)


def relabelled(dialogue: Dialogue, intents: tuple[str, ...], dice: Dice) -> Dialogue:
    """The same question filed by somebody else under another intent, with a greeting before the answer."""
    others = [name for name in intents if name != dialogue.intent]
    greeting = "您好，" if dialogue.language == "zh" else "Hello. "
    role, answer = dialogue.messages[1]
    messages = (dialogue.messages[0], (role, greeting + answer), *dialogue.messages[2:])
    return replace(dialogue, intent=dice.pick(others), messages=messages)


def with_empty_message(dialogue: Dialogue, dice: Dice) -> Dialogue:
    """The question or the first answer holds nothing, or white space alone."""
    spoilt = dice.below(2)
    messages = list(dialogue.messages)
    messages[spoilt] = (messages[spoilt][0], dice.pick(("", " ", "\n", "\u3000")))
    return replace(dialogue, messages=tuple(messages))


def without_answer(dialogue: Dialogue) -> Dialogue:
    """Only the first question is left."""
    return replace(dialogue, messages=dialogue.messages[:1])


def mojibake(dialogue: Dialogue, dice: Dice) -> Dialogue:
    """UTF-8 that somebody read as Latin-1 or Windows-1252; English questions get typographic signs for it."""
    codec = dice.pick(("latin-1", "cp1252"))
    if dialogue.language == "en":
        tail = dice.pick((" – I’m waiting", " … it’s odd", " – that’s all"))
        dialogue = dialogue.with_question(dialogue.question + tail)
    messages = tuple((role, _misread(text, codec)) for role, text in dialogue.messages)
    return replace(dialogue, messages=messages)


def _misread(text: str, codec: str) -> str:
    """Bytes that the code page leaves undefined stay as control characters, as browsers read them."""
    characters = []
    for byte in text.encode("utf-8"):
        try:
            characters.append(bytes([byte]).decode(codec))
        except UnicodeDecodeError:
            characters.append(chr(byte))
    return "".join(characters)


def with_replacement_characters(dialogue: Dialogue, dice: Dice) -> Dialogue:
    """Two to four characters of the question are lost to U+FFFD."""
    characters = list(dialogue.question)
    for _ in range(2 + dice.below(3)):
        characters[dice.below(len(characters))] = "\ufffd"
    return dialogue.with_question("".join(characters))


def overlong(dialogue: Dialogue, dice: Dice) -> Dialogue:
    """The customer pastes a log of 6,000 to 9,000 characters behind the question."""
    lines = [dialogue.question]
    length = 6000 + dice.below(3000)
    while sum(len(line) + 1 for line in lines) < length:
        moment = f"{dice.below(24):02}:{dice.below(60):02}:{dice.below(60):02}"
        part, fault = dice.pick(_LOG_PARTS), dice.pick(_LOG_FAULTS)
        lines.append(f"{moment} ERROR app.{part} line {dice.below(900) + 1}: {fault}")
    return dialogue.with_question("\n".join(lines))


def invalid_utf8(line: bytes, dice: Dice) -> bytes:
    """The line in bytes that are no UTF-8: written as GB18030, a cut character, or a Windows-1252 space."""
    foreign = line.decode("utf-8").encode("gb18030")
    if not line.isascii() and b"\\" not in foreign and dice.chance(0.5):
        return foreign
    wide = re.search(rb"[\xe0-\xef][\x80-\xbf]{2}", line)
    if wide:
        return line[: wide.end() - 1] + line[wide.end() :]
    content = line.index(b'"content":"') + len(b'"content":"')
    return line[:content] + line[content:].replace(b" ", b"\xa0", 1)


def truncated(line: bytes, dice: Dice) -> bytes:
    """The first part of the line, cut between two characters: the writer was stopped."""
    text = line.decode("utf-8")
    return text[: 20 + dice.below(len(text) - 40)].encode("utf-8")
