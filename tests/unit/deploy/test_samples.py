"""The sample export: reproducible, as dirty as it says and no dirtier."""

import json
import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from deploy import samples
from deploy.samples import dirt
from deploy.samples.dialogues import Writer
from deploy.samples.dice import Deck, Dice
from deploy.samples.generate import MARK, generate, main, table
from deploy.samples.material import LANGUAGES, load, slots_of

FOLDER = Path(samples.__file__).parent
FILE = FOLDER / "service_dialogues.jsonl"
MISREAD = re.compile(r"â[\u0080-\u009f€]|[\u0080-\u009f]|[åäæçèéï][^\x00-\x7f]")
HTML = re.compile(r"<(br|p|div)\b|&nbsp;")
EMAIL = re.compile(r"[\w.+]+@[\w.]*example\.\w+")
DICE_OF_SEED_7 = ([3, 5, 4, 2, 0, 1], [36, 5, 50, 3])
DIGITS = re.compile(r"(?<!\w)\+?\(?\d[\d .()-]{8,24}[\dX](?![0-9])", re.ASCII)


@pytest.fixture(scope="module")
def made() -> tuple[list[bytes], dict[str, int]]:
    return generate(7, 2400)


@pytest.fixture(scope="module")
def rows(made: tuple[list[bytes], dict[str, int]]) -> list[dict[str, Any]]:
    """The lines that are UTF-8 and JSON."""
    found = []
    for line in made[0]:
        try:
            found.append(json.loads(line.decode("utf-8")))
        except ValueError:
            continue
    return found


@pytest.fixture(scope="module")
def sound(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row of each question that a trainer could use, whatever personal data or HTML it holds."""
    kept: dict[str, dict[str, Any]] = {}
    for row in rows:
        if complete(row) and not damaged(row) and len(question(row)) < 1000:
            kept.setdefault(plain(question(row)), row)
    return list(kept.values())


def complete(row: dict[str, Any]) -> bool:
    messages = row.get("messages") or []
    return len(messages) > 1 and all(message["content"].strip() for message in messages)


def damaged(row: dict[str, Any]) -> bool:
    text = "".join(message["content"] for message in row["messages"])
    return "\ufffd" in text or bool(MISREAD.search(text))


def question(row: dict[str, Any]) -> str:
    return str(row["messages"][0]["content"])


def plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())


def numbers(rows: list[dict[str, Any]]) -> Counter[str]:
    """Personal numbers by kind, told apart by their checksums, which the generator does not share with us."""
    counts: Counter[str] = Counter()
    for row in rows:
        for found in DIGITS.findall(EMAIL.sub("", question(row))):
            bare = re.sub(r"[^\dX]", "", found)
            if len(bare) == 18 and gb11643(bare):
                counts["id_card"] += 1
            elif len(bare) >= 15 and luhn(bare):
                counts["bank_card"] += 1
            else:
                counts["phone"] += 1
    return counts


def luhn(digits: str) -> bool:
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(value - 9 * (value > 9) for value in doubled) % 10 == 0


def gb11643(number: str) -> bool:
    values = [10 if digit == "X" else int(digit) for digit in number]
    return sum(value * 2 ** (17 - place) for place, value in enumerate(values)) % 11 == 1


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    assert generate(3, 300) == generate(3, 300)
    assert generate(3, 300)[0] != generate(4, 300)[0]


def test_the_shipped_file_is_what_the_generator_writes(made: tuple[list[bytes], dict[str, int]]) -> None:
    assert FILE.read_bytes() == b"".join(line + b"\n" for line in made[0])
    assert FILE.stat().st_size < 2_000_000


def test_the_readme_tells_the_counts_of_the_shipped_file(made: tuple[list[bytes], dict[str, int]]) -> None:
    assert (FOLDER / "README.md").read_text(encoding="utf-8").split(MARK)[1].strip() == table(made[1]).strip()


def test_the_command_writes_the_file_and_leaves_a_readme_without_the_mark_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "README.md").write_text("mine\n")
    assert main(["--seed", "5", "--dialogues", "120", "--output", str(tmp_path / "out.jsonl")]) == 0
    lines, planted = generate(5, 120)
    assert (tmp_path / "out.jsonl").read_bytes() == b"".join(line + b"\n" for line in lines)
    assert (tmp_path / "README.md").read_text() == "mine\n"
    assert capsys.readouterr().out == table(planted)


def test_too_few_dialogues_are_refused() -> None:
    with pytest.raises(ValueError, match="99"):
        generate(7, 99)


def test_broken_lines_are_found_as_often_as_planted(
    made: tuple[list[bytes], dict[str, int]], rows: list[dict[str, Any]]
) -> None:
    lines, planted = made
    invalid = [line for line in lines if "\ufffd" in line.decode("utf-8", "replace") and not is_utf8(line)]
    assert len(invalid) == planted["invalid_utf8"]
    assert len(lines) - len(rows) - len(invalid) == planted["not_json"]
    assert len(lines) == planted["lines"]
    assert not any(b"\n" in line for line in lines)


def is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def test_incomplete_rows_are_found_as_often_as_planted(
    made: tuple[list[bytes], dict[str, int]], rows: list[dict[str, Any]]
) -> None:
    planted = made[1]
    assert sum(not row.get("messages") for row in rows) == planted["missing_messages"]
    assert sum(len(row.get("messages") or []) == 1 for row in rows) == planted["missing_answer"]
    empty = [row for row in rows if any(not m["content"].strip() for m in row.get("messages") or [])]
    assert len(empty) == planted["empty_message"]


def test_damaged_texts_are_found_as_often_as_planted(
    made: tuple[list[bytes], dict[str, int]], rows: list[dict[str, Any]]
) -> None:
    planted = made[1]
    texts = ["".join(message["content"] for message in row.get("messages") or []) for row in rows]
    assert sum("\ufffd" in text for text in texts) == planted["replacement_character"]
    assert sum(bool(MISREAD.search(text)) for text in texts) == planted["mojibake"]
    assert sum(len(text) > 6000 for text in texts) == planted["overlong"]


def test_copies_are_found_as_often_as_planted(
    made: tuple[list[bytes], dict[str, int]], rows: list[dict[str, Any]]
) -> None:
    planted = made[1]
    usable = [row for row in rows if complete(row)]
    exact = {json.dumps({**row, "id": ""}, sort_keys=True) for row in usable}
    same_spelling = {json.dumps([plain(m["content"]) for m in row["messages"]]) for row in usable}
    questions = {plain(question(row)) for row in usable}
    assert len(usable) - len(exact) == planted["exact_duplicate"]
    assert len(exact) - len(same_spelling) == planted["near_duplicate"]
    assert len(same_spelling) - len(questions) == planted["label_conflict"]


def test_labels_disagree_as_often_as_planted(
    made: tuple[list[bytes], dict[str, int]], rows: list[dict[str, Any]]
) -> None:
    labels: dict[str, set[str]] = {}
    for row in filter(complete, rows):
        labels.setdefault(plain(question(row)), set()).add(row["intent"])
    assert Counter(len(found) for found in labels.values())[2] == made[1]["label_conflict"]
    assert max(len(found) for found in labels.values()) == 2


def test_personal_data_and_html_are_found_as_often_as_planted(
    made: tuple[list[bytes], dict[str, int]], sound: list[dict[str, Any]]
) -> None:
    planted, found = made[1], numbers(sound)
    assert {kind: found[kind] for kind in ("phone", "id_card", "bank_card")} == {
        kind: planted[kind] for kind in ("phone", "id_card", "bank_card")
    }
    assert sum(bool(EMAIL.search(question(row))) for row in sound) == planted["email"]
    assert sum(bool(HTML.search(question(row))) for row in sound) == planted["html"]


def test_enough_sound_dialogues_are_left_in_both_languages(sound: list[dict[str, Any]]) -> None:
    assert len(sound) >= 2000
    languages = Counter(row["language"] for row in sound)
    assert 0.4 <= languages["zh"] / len(sound) <= 0.6
    assert languages["zh"] + languages["en"] == len(sound)


def test_every_intent_and_every_answer_has_examples_enough(sound: list[dict[str, Any]]) -> None:
    for code in LANGUAGES:
        intents = Counter(row["intent"] for row in sound if row["language"] == code)
        assert len(intents) == 26
        assert min(intents.values()) >= 30
        answers = Counter(row["messages"][1]["content"] for row in sound if row["language"] == code)
        assert answers.most_common(1)[0][1] < 0.06 * sum(answers.values())


def test_answers_are_short(sound: list[dict[str, Any]]) -> None:
    for row in sound:
        answer = row["messages"][1]["content"].removeprefix("您好，").removeprefix("Hello. ")
        size = len(answer) if row["language"] == "zh" else len(answer.split())
        assert size <= (30 if row["language"] == "zh" else 22), answer
        assert size >= (8 if row["language"] == "zh" else 6), answer


def test_both_languages_cover_the_same_intents_with_phrasings_enough() -> None:
    chinese, english = (load(code) for code in LANGUAGES)
    assert [intent.name for intent in chinese.intents] == [intent.name for intent in english.intents]
    for intent in (*chinese.intents, *english.intents):
        assert len(intent.questions) >= 15


def test_a_question_is_never_written_twice() -> None:
    writer = Writer(load("zh"), Dice(1))
    questions = [writer.write().question for _ in range(1500)]
    assert len(set(questions)) == len(questions)


def test_a_deck_deals_everything_once_before_anything_twice() -> None:
    deck = Deck(["a", "b", "c"], Dice(1))
    assert sorted(deck.deal() for _ in range(3)) == sorted(deck.deal() for _ in range(3)) == ["a", "b", "c"]


def test_the_dice_do_not_change_between_versions_of_python() -> None:
    dice = Dice(7)
    items = list(range(6))
    dice.shuffle(items)
    assert (items, [dice.below(100) for _ in range(4)]) == DICE_OF_SEED_7


def test_id_cards_carry_a_valid_check_digit() -> None:
    dice = Dice(2)
    assert all(gb11643(dirt.id_card(dice)) for _ in range(200))


def test_slots_of_a_template_are_named_in_order() -> None:
    assert slots_of("from {city} by {day}") == ["city", "day"]
