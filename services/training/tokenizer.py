"""The tokenizer that a pretraining run makes, and how a conversation becomes tokens. Knows transformers, no model.

What is trained is what is served: prompts are rendered by the model's own chat template with its generation
prompt, exactly as the engine renders them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from services.training.dataset import Message

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|pad|>"
IGNORED = -100
# Qwen's pattern: single digits, words with their leading blank, runs of signs, line breaks.
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


@dataclass(frozen=True)
class Encoded:
    """Token ids and labels of the same length; a label is -100 where nothing is learned."""

    ids: list[int]
    labels: list[int]


def train_tokenizer(texts: Iterable[str], vocab_size: int, context_length: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over `texts` with the ChatML signs; any text round-trips, Chinese and English alike.

    The vocabulary may come out smaller than asked where the texts hold fewer pairs.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        # At most five Han characters a token: a whole phrase as one token would learn nothing about its parts.
        max_token_length=16,
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[START],
        model_max_length=context_length,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of `text` alone; signs such as <|im_end|> inside user text stay plain text."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    return ids


def render(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Message], *, prompt: bool) -> str:
    """The chat template's text; `prompt` adds the opening of the assistant's answer."""
    text: str = tokenizer.apply_chat_template(
        [m.as_dict() for m in turns], tokenize=False, add_generation_prompt=prompt
    )
    return text


def encode_rendered(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def encode_prompt(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Message], room: int) -> list[int]:
    """Ids of the prompt that asks for the answer after `turns`; the oldest turns go until it fits into `room`.

    A single turn that is too long keeps its end.
    """
    turns = list(turns)
    system = turns[:1] if turns[0].role == "system" else []
    rest = turns[len(system) :]
    while True:
        ids = encode_rendered(tokenizer, render(tokenizer, system + rest, prompt=True))
        if len(ids) <= room:
            return ids
        later = next((i for i in range(1, len(rest)) if rest[i].role == "user"), None)
        if later is None:
            return ids[-room:]
        rest = rest[later:]


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Message], max_length: int
) -> list[Encoded]:
    """A conversation as sequences of at most `max_length` whose labels are the assistant's answers and their end.

    One that does not fit is cut at a user's turn, each part with the system message; an answer that does not fit
    even so is cut at its end, and one whose prompt alone fills `max_length` is left out.
    """
    system = tuple(turns[:1]) if turns[0].role == "system" else ()
    rest = list(turns[len(system) :])
    out: list[Encoded] = []
    while rest:
        cuts = [i for i in range(1, len(rest)) if rest[i].role == "user"] + [len(rest)]
        part, cut = _longest(tokenizer, system, rest, cuts, max_length)
        if any(label != IGNORED for label in part.labels):
            out.append(part)
        rest = rest[cut:]
    return out


def _longest(
    tokenizer: PreTrainedTokenizerBase,
    system: tuple[Message, ...],
    rest: list[Message],
    cuts: list[int],
    max_length: int,
) -> tuple[Encoded, int]:
    """The longest head of `rest` that fits, by bisection over the user turns; the first turn cut short if none."""
    low, high = 0, len(cuts) - 1
    whole = _encode_turns(tokenizer, [*system, *rest[: cuts[high]]])
    if len(whole.ids) <= max_length:
        return whole, cuts[high]
    best: Encoded | None = None
    while low < high:
        middle = (low + high) // 2
        tried = _encode_turns(tokenizer, [*system, *rest[: cuts[middle]]])
        if len(tried.ids) <= max_length:
            best, low = tried, middle + 1
        else:
            high = middle
    if best is not None:
        return best, cuts[low - 1]
    first = _encode_turns(tokenizer, [*system, *rest[: cuts[0]]])
    return Encoded(first.ids[:max_length], first.labels[:max_length]), cuts[0]


def _encode_turns(tokenizer: PreTrainedTokenizerBase, turns: list[Message]) -> Encoded:
    ids: list[int] = []
    labels: list[int] = []
    done = ""
    for place, turn in enumerate(turns):
        if turn.role != "assistant":
            continue
        prompt = render(tokenizer, turns[:place], prompt=True)
        full = render(tokenizer, turns[: place + 1], prompt=False)
        if not prompt.startswith(done) or not full.startswith(prompt):
            # A template that rewrites earlier turns (drops reasoning, say): only the last answer is exact.
            return _last_answer(tokenizer, turns)
        before = encode_rendered(tokenizer, prompt[len(done) :])
        answer = encode_rendered(tokenizer, full[len(prompt) :])
        end = _end_of_answer(tokenizer, answer)
        ids += before + answer
        learned = answer[:end] if turn.trained else [IGNORED] * end
        labels += [IGNORED] * len(before) + learned + [IGNORED] * (len(answer) - end)
        done = full
    return Encoded(ids, labels)


def _last_answer(tokenizer: PreTrainedTokenizerBase, turns: list[Message]) -> Encoded:
    last = max(i for i, m in enumerate(turns) if m.role == "assistant")
    before = encode_rendered(tokenizer, render(tokenizer, turns[:last], prompt=True))
    answer = [*encode_text(tokenizer, turns[last].content), tokenizer.eos_token_id]
    learned = answer if turns[last].trained else [IGNORED] * len(answer)
    return Encoded(before + answer, [IGNORED] * len(before) + learned)


def _end_of_answer(tokenizer: PreTrainedTokenizerBase, answer: list[int]) -> int:
    """Where learning ends: just after the last end sign, since generation stops there."""
    eos = tokenizer.eos_token_id
    return len(answer) - answer[::-1].index(eos) if eos in answer else len(answer)
