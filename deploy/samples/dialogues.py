"""Turns the hand-written material into sound dialogues. It knows nothing of dirt, files or ids."""

import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from deploy.samples.dice import Deck, Dice
from deploy.samples.material import GENERAL, Intent, Language, slots_of

CHANNELS = ("app", "web", "phone", "mail")
FIRST_DAY = datetime(2025, 1, 1, tzinfo=UTC)
# Of the questions that hold a word of the typo list.
TYPO_SHARE = 0.15
SECOND_TURN_SHARE = 0.3
_ENDINGS = {"zh": ("", "", "", "。", "！", "...", "~"), "en": ("", "", "", ".", "!", "...")}
_CHOICE = re.compile(r"\[([^\[\]]*)\]")


@dataclass(frozen=True)
class Dialogue:
    """One conversation: (role, content) pairs, user first. `intent` is that of the first question."""

    language: str
    intent: str
    messages: tuple[tuple[str, str], ...]
    channel: str
    created_at: str

    def with_question(self, text: str) -> "Dialogue":
        """The same conversation with another first question."""
        return replace(self, messages=(("user", text), *self.messages[1:]))

    @property
    def question(self) -> str:
        return self.messages[0][1]


@dataclass
class Writer:
    """Writes dialogues in one language; no question is written twice, and phrasings are used evenly."""

    language: Language
    dice: Dice
    _written: set[str] = field(default_factory=set)
    _decks: dict[str, Deck] = field(default_factory=dict)

    def write(self) -> Dialogue:
        """One sound dialogue of 2 messages, or of 4 with a second intent for SECOND_TURN_SHARE of them."""
        intent = self._next_intent()
        question, answer = self._exchange(intent)
        messages = [("user", question), ("assistant", answer)]
        if self.dice.chance(SECOND_TURN_SHARE):
            other = self._next_intent()
            while other.name == intent.name:
                other = self._next_intent()
            core, answer = self._ask(other)
            messages += [("user", self.dice.pick(self.language.bridges) + core), ("assistant", answer)]
        seconds = self.dice.below(365 * 24 * 3600)
        return Dialogue(
            language=self.language.code,
            intent=intent.name,
            messages=tuple(messages),
            channel=self.dice.pick(CHANNELS),
            created_at=(FIRST_DAY + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )

    def _next_intent(self) -> Intent:
        by_name = {intent.name: intent for intent in self.language.intents}
        return by_name[self._deal("intents", tuple(by_name))]

    def _exchange(self, intent: Intent) -> tuple[str, str]:
        """A first question that no earlier dialogue holds, with its answer."""
        for _ in range(1000):
            core, answer = self._ask(intent)
            question = self._typo(self._dress(core))
            if question.lower() not in self._written:
                self._written.add(question.lower())
                return question, answer
        raise ValueError(f"{self.language.code}/{intent.name}: no new question found; write more phrasings")

    def _ask(self, intent: Intent) -> tuple[str, str]:
        phrasing = self._deal(intent.name, intent.questions)
        template = _CHOICE.sub(lambda found: self.dice.pick(found[1].split("|")), phrasing)
        values: dict[str, str] = {}
        kind = GENERAL
        for slot in dict.fromkeys(slots_of(template)):
            if slot == "order":
                values[slot] = f"ZY{self.dice.below(90000) + 10000}"
                continue
            kinds = self.language.slots[slot]
            # Classes are dealt first: a rare class then has as many examples as a common one.
            drawn = self._deal(f"{intent.name}.{slot}", tuple(kinds))
            values[slot] = self.dice.pick(kinds[drawn])
            if slot == intent.by:
                kind = drawn
        return template.format(**values), intent.answers[kind].format(**values)

    def _dress(self, core: str) -> str:
        """What people write around a question: greeting for half, context and closing for a third each."""
        opener = self.dice.pick(self.language.openers) if self.dice.chance(0.5) else ""
        context = self.dice.pick(self.language.contexts) if self.dice.chance(0.33) else ""
        text = opener + context + core
        if self.language.code == "en" and self.dice.chance(0.6):
            text = text[0].upper() + text[1:]
        return text + self._ending(core)

    def _ending(self, core: str) -> str:
        asked = core.endswith("?")
        if self.dice.chance(0.33):
            closer = self.dice.pick(self.language.closers)
            return " " + closer.lstrip(" ,") if asked else closer
        return "" if asked else self.dice.pick(_ENDINGS[self.language.code])

    def _typo(self, text: str) -> str:
        edge = r"\b" if self.language.code == "en" else ""
        fitting = [pair for pair in self.language.typos if re.search(edge + pair[0] + edge, text)]
        if not fitting or not self.dice.chance(TYPO_SHARE):
            return text
        right, wrong = self.dice.pick(fitting)
        return re.sub(edge + right + edge, wrong, text, count=1)

    def _deal(self, deck: str, items: tuple[str, ...]) -> str:
        if deck not in self._decks:
            self._decks[deck] = Deck(items, self.dice)
        return self._decks[deck].deal()
