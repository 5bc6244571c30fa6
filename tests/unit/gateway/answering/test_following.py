"""Places in an answer, and a reader that goes on from one, whatever became of the attempt that it had read."""

from __future__ import annotations

from typing import Any

import pytest

from services.gateway.answering.answers import Answer
from services.gateway.answering.following import Follower, Gap
from services.gateway.answering.guarded import Guarded
from services.gateway.answering.places import Place
from shared.contracts import answers
from shared.contracts.task import Guard, PiiGuard
from shared.errors import HeliuError, InvalidInput
from shared.streams import Entry

WORDS = ("one", " two", " three", " four")


def made(attempt: int, words: tuple[str, ...] = WORDS, end: str = "stop") -> list[Entry]:
    """The entries of a whole attempt."""
    usage = {"prompt_tokens": 3, "completion_tokens": len(words)}
    said: list[tuple[str, dict[str, Any]]] = [("accepted", {"worker": "w"})]
    said += [("token", {"text": word, "tokens": 1}) for word in words]
    said += [("done", {"choices": [{"text": "".join(words), "finish_reason": end}], "usage": usage})]
    return [Entry("r", attempt, seq, type_, data) for seq, (type_, data) in enumerate(said)]


def follower(place: str = "", guard: Guard | None = None, *, include_usage: bool = False) -> Follower:
    def begin() -> tuple[Answer, Guarded | None]:
        answer = Answer(answers.CHAT, "m", include_usage, id="chatcmpl-1", created=1)
        return answer, Guarded(guard, 1) if guard else None

    return Follower(Place.parse(place), begin)


def read(reader: Follower, entries: list[Entry]) -> list[tuple[str, dict[str, Any]]]:
    return [(str(place), chunk) for entry in entries for place, chunk in reader.take(entry)]


def text(chunks: list[tuple[str, dict[str, Any]]]) -> str:
    said = [choice["delta"].get("content") or "" for _, chunk in chunks for choice in chunk["choices"]]
    return "".join(said)


def test_a_reader_that_broke_off_anywhere_gets_exactly_the_rest() -> None:
    whole = read(follower(include_usage=True), made(1))
    assert text(whole) == "one two three four"
    assert len({place for place, _ in whole}) == len(whole)
    for had, (place, _) in enumerate(whole, 1):
        assert read(follower(place, include_usage=True), made(1)) == whole[had:]


def test_an_attempt_that_says_the_same_again_goes_on_where_the_lost_one_ended() -> None:
    reader = follower()
    before = read(reader, made(1)[:4])
    assert text(before) == "one two three"
    after = read(reader, made(2))
    assert text(after) == " four"
    assert [*before, *after] == read(follower(), made(1))
    assert reader.done


def test_an_attempt_that_says_another_thing_ends_the_reader_and_no_other() -> None:
    reader = follower()
    place = read(reader, made(1)[:4])[-1][0]
    other = made(2, ("one", " or", " two", " more"))
    with pytest.raises(HeliuError) as caught:
        read(reader, other)
    assert caught.value.code == "answer_restarted"
    with pytest.raises(HeliuError, match="from the beginning"):
        read(follower(place), other)
    assert text(read(follower(), other)) == "one or two more"


def test_who_is_behind_the_end_of_a_shorter_answer_hears_that_it_is_another() -> None:
    place = read(follower(), made(1))[-1][0]
    with pytest.raises(HeliuError) as caught:
        read(follower(place), made(2, ("one",)))
    assert caught.value.code == "answer_restarted"


def test_what_an_older_attempt_still_says_is_passed_over() -> None:
    reader = follower()
    marker = Entry("r", 2, -1, "attempt", {})
    late, new = made(1, ("x", "y")), made(2)
    mixed = [marker, late[1], new[0], late[2], *new[1:3], late[3], *new[3:]]
    assert text(read(reader, mixed)) == "one two three four"


def test_entries_that_were_written_twice_count_once() -> None:
    entries = made(1)
    doubled = [*entries[:3], *entries[1:3], *entries[3:]]
    assert text(read(follower(), doubled)) == "one two three four"


def test_a_missing_entry_is_a_gap_and_no_shorter_answer() -> None:
    entries = made(1)
    with pytest.raises(Gap):
        read(follower(), [*entries[:2], *entries[3:]])


def test_what_the_guards_hold_back_is_held_back_of_a_reader_that_comes_later_too() -> None:
    guard = Guard(pii=PiiGuard(action="mask", types=["email"]))
    entries = made(1, ("write to ", "a.b@", "example.com", " now"))
    whole = read(follower(guard=guard), entries)
    assert "example.com" not in text(whole)
    assert text(whole).endswith(" now")
    for had, (place, _) in enumerate(whole, 1):
        assert read(follower(place, guard), entries) == whole[had:]


@pytest.mark.parametrize("wrong", ["7", "7-xyz", "-1-0123456789abcdef", "７-0123456789abcdef", "x" * 300])
def test_an_id_that_no_chunk_has_is_refused_by_its_header(wrong: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Place.parse(wrong)
    assert caught.value.param == "Last-Event-ID"


def test_calls_of_tools_are_the_same_whatever_ids_were_drawn_for_them() -> None:
    def entries(attempt: int, call_id: str) -> list[Entry]:
        calls = [{"id": call_id, "name": "look", "arguments": "{}"}]
        done = {"choices": [{"text": "", "finish_reason": "tool_calls", "tool_calls": calls}]}
        usage = {"usage": {"prompt_tokens": 1, "completion_tokens": 1}}
        token = {"text": "", "tokens": 1, "tool_calls": calls}
        return [Entry("r", attempt, 0, "token", token), Entry("r", attempt, 1, "done", {**done, **usage})]

    reader = follower()
    first = read(reader, entries(1, "call_a")[:1])
    rest = read(reader, entries(2, "call_b"))
    told = [c for _, chunk in [*first, *rest] for c in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert [call["function"]["name"] for call in told] == ["look"]
