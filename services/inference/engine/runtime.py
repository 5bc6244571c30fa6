"""One base being served: its runner, scheduler and tokenizers. A step is schedule -> run -> postprocess.

Knows the generations submitted to it; nothing of other bases, of loading, or of who asked.
"""

from __future__ import annotations

import hashlib
import logging
import traceback
from collections.abc import Callable
from dataclasses import replace

import torch

from services.inference.engine.adapter_folder import AdapterWeights, UnsupportedAdapter
from services.inference.engine.codec import Codec
from services.inference.engine.detokenize import Detokenizer
from services.inference.engine.events import Event, FinishReason
from services.inference.engine.generation import Generation, conclude, delta, embedded, failure
from services.inference.engine.grammar import Constraint, GrammarFailed, MaskMaker
from services.inference.engine.request import EngineConfig, Request, Sampling
from services.inference.engine.runner import ModelRunner
from services.inference.engine.sampler import Choice, choose
from services.inference.engine.scheduler import Row, Scheduler, Sequence
from services.inference.engine.vectors import check_dimensions
from services.inference.prompt import answer_room, check_characters, check_length, render
from shared.errors import HeliuError, InvalidInput

log = logging.getLogger(__name__)


class Runtime:
    """Serves one base. Not thread-safe: the engine's thread owns it."""

    def __init__(
        self, runner: ModelRunner, codec: Codec, config: EngineConfig, clock: Callable[[], float]
    ) -> None:
        self._runner = runner
        self._codec = codec
        self._config = config
        self._clock = clock
        self._adapter_codecs: dict[str, Codec] = {}
        self._installs: dict[str, int] = {}
        self._generations: dict[str, Generation] = {}
        self.scheduler = Scheduler(
            runner.allocator, config.max_slots, config.step_tokens, config.live_step_tokens
        )
        self.adapters = runner.adapters
        self.steps = 0
        self.last_used = clock()
        self.prompt_tokens = 0
        self.answer_tokens = 0
        self.preemptions = 0
        self._masks = MaskMaker()

    @property
    def idle(self) -> bool:
        return not self._generations

    def bytes(self) -> int:
        return self._runner.bytes()

    def install_adapter(self, name: str, weights: AdapterWeights, codec: Codec) -> None:
        """Make an adapter that was read available. Raises UnsupportedAdapter when it is not of this base."""
        if codec.tokenizer is not None and len(codec.tokenizer) > self._runner.embeddings:
            raise UnsupportedAdapter(
                f"the adapter's tokenizer has {len(codec.tokenizer)} tokens, its base embeds "
                f"{self._runner.embeddings}: it was trained on another base"
            )
        self.adapters.install(name, weights)
        self._installs[name] = self._installs.get(name, 0) + 1
        self._adapter_codecs[name] = codec.on(self._codec)

    def remove_adapter(self, name: str) -> None:
        self.adapters.remove(name)

    def submit(
        self, request: Request, *, order: int, seed: int, received: float, received_ns: int
    ) -> Generation:
        """Tokenize and queue a request, whose adapter is in memory. Raises a typed error if it cannot be served."""
        adapter = request.adapter.id if request.adapter is not None else None
        codec = self._adapter_codecs[adapter] if adapter is not None else self._codec
        sampling, decoding = request.sampling.of_model(codec.decoding or {})
        request = replace(request, sampling=sampling)
        prompt = self._prompt(request, codec)
        self._check_bias(request.sampling)
        context = min(self._runner.context, self._runner.allocator.capacity_tokens)
        if request.vector is not None:
            room = 0
            check_dimensions(request.vector.dimensions, self._runner.width)
            check_length(len(prompt), context=context)
        else:
            usual = sampling.default_tokens or self._config.default_max_tokens
            room = answer_room(len(prompt), sampling.max_tokens, context=context, default_max_tokens=usual)
        ends = frozenset() if request.sampling.ignore_eos else codec.ends | self._codec.ends
        sequence = Sequence(
            request.id,
            request.tenant,
            request.priority,
            order,
            prompt,
            len(prompt),
            adapter,
            _salt(request.tenant, adapter, self._installs.get(adapter or "", 0)),
        )
        tools, grammar = request.tools, request.sampling.grammar
        reader = codec.tool_reader() if tools is not None else None
        if tools is not None and tools.choice is not None:
            grammar = codec.tool_grammar(tools)
        constraint = Constraint(codec.vocabulary, grammar) if grammar is not None else None
        generation = Generation(
            request,
            sequence,
            len(prompt) + room,
            seed,
            ends,
            codec,
            Detokenizer(codec.decoder(), sampling.stop),
            constraint,
            reader,
            received,
            received_ns,
            decoding=decoding,
        )
        self.resume(generation)
        return generation

    def resume(self, generation: Generation) -> None:
        """Queue a generation that may have tokens from an earlier stay; its adapter is in memory."""
        if generation.sequence.adapter is not None:
            self.adapters.pin(generation.sequence.adapter)
        self._generations[generation.request.id] = generation
        self.scheduler.add(generation.sequence)
        self.last_used = self._clock()

    def withdraw(self, generation: Generation) -> None:
        """Forget a generation, wherever it is; its blocks are free at once."""
        del self._generations[generation.request.id]
        self.scheduler.remove(generation.sequence)
        if generation.sequence.adapter is not None:
            self.adapters.unpin(generation.sequence.adapter)

    def withdraw_all(self) -> list[Generation]:
        generations = list(self._generations.values())
        for generation in generations:
            self.withdraw(generation)
        return generations

    def step(self) -> list[Event]:
        """One forward pass, if anything is to be computed; returns what came of it."""
        plan = self.scheduler.schedule()
        self.preemptions += len(plan.preempted)
        if not plan.rows:
            return []
        now = self._clock()
        for row in plan.rows:
            generation = self._generations[row.sequence.id]
            if generation.started is None:
                generation.started, generation.cached = now, row.sequence.cached
        events: list[Event] = []
        self._run(plan.rows, events)
        self.steps += 1
        self.last_used = self._clock()
        return events

    def end(self, generation: Generation, reason: FinishReason) -> list[Event]:
        """Withdraw a generation and say what it came to."""
        self.withdraw(generation)
        return conclude(generation, reason, self._clock())

    def _check_bias(self, sampling: Sampling) -> None:
        for token, _ in sampling.logit_bias:
            if not 0 <= token < self._runner.vocabulary:
                raise InvalidInput(
                    f"logit_bias names token {token}; the model has 0 to {self._runner.vocabulary - 1}",
                    param="logit_bias",
                )

    def _prompt(self, request: Request, codec: Codec) -> list[int]:
        if request.prompt_ids is not None:
            worst = max(request.prompt_ids, default=0)
            if not 0 <= min(request.prompt_ids, default=0) <= worst < self._runner.embeddings:
                raise InvalidInput(
                    f"prompt_ids must be from 0 to {self._runner.embeddings - 1}, got {worst}",
                    param="prompt_ids",
                )
            return list(request.prompt_ids)
        if codec.tokenizer is None:
            raise InvalidInput("this model's folder has no tokenizer; give prompt_ids", param="messages")
        texts = [request.prompt or "", *(message["content"] for message in request.messages or ())]
        texts += [tool["parameters"] for tool in (request.tools.functions if request.tools else ())]
        check_characters(sum(map(len, texts)), longest_token=codec.longest, context=self._runner.context)
        tools = request.tools.functions if request.tools is not None else ()
        return render(codec.tokenizer, messages=request.messages, prompt=request.prompt, tools=tools)

    def _run(self, rows: list[Row], events: list[Event]) -> None:
        """Compute and postprocess; a pass that fails is repeated in halves until the one at fault stands alone."""
        computed = self._compute(rows)
        if not isinstance(computed, Exception):
            self._accept_all(rows, *computed, events)
            return
        if isinstance(computed, (MemoryError, torch.OutOfMemoryError)):
            self.scheduler.shrink()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        if len(rows) > 1:
            self._run(rows[: len(rows) // 2], events)
            self._run(rows[len(rows) // 2 :], events)
        else:
            self._fail(rows[0].sequence, computed, events)

    def _compute(self, rows: list[Row]) -> tuple[list[Row], list[Choice | None]] | Exception:
        """The rows that sampled and what was chosen, or why there is nothing."""
        try:
            sampling = [self._generations[row.sequence.id] for row in self._runner.sampled(rows)]
            masks = self._masks.start([generation.constraint for generation in sampling])
            sampled, logits = self._runner.forward(rows)
            allowed = masks.result() if masks is not None else [None] * len(sampling)
            picks = [generation.pick(mask) for generation, mask in zip(sampling, allowed, strict=True)]
            return sampled, choose(logits, picks)
        except torch.AcceleratorError:
            # The GPU takes no more work of this process, which must end and be started afresh.
            raise
        except Exception as exc:  # noqa: BLE001 - whatever the model raises, it must not end the others
            # What the pass had computed would else stay in memory as long as the exception.
            traceback.clear_frames(exc.__traceback__)
            return exc

    def _accept_all(
        self, rows: list[Row], sampled: list[Row], choices: list[Choice | None], events: list[Event]
    ) -> None:
        for row in rows:
            self.scheduler.computed(row)
            self.prompt_tokens += 0 if row.samples and row.count == 1 else row.count
        now = self._clock()
        for place, (row, choice) in enumerate(zip(sampled, choices, strict=True)):
            generation = self._generations[row.sequence.id]
            if generation.request.vector is not None and choice is not None:
                self.withdraw(generation)
                events.append(embedded(generation, self._runner.hidden()[place], now))
            else:
                self._accept(generation, choice, now, events)

    def _accept(self, generation: Generation, choice: Choice | None, now: float, events: list[Event]) -> None:
        constraint = generation.constraint
        if choice is None:
            error = constraint.error if constraint is not None else ""
            cause = GrammarFailed(f"the grammar cannot go on: {error}") if error else None
            self._fail(generation.sequence, cause, events)
            return
        if generation.first_token is None:
            generation.first_token = now
        self.answer_tokens += 1
        try:
            generation.take(choice)
        except GrammarFailed as failure:
            self._fail(generation.sequence, failure, events)
            return
        complete = constraint is not None and constraint.complete
        if choice.token in generation.ends or self._show(generation, events) or complete:
            events.extend(self.end(generation, FinishReason.STOP))
        elif len(generation.sequence.tokens) >= generation.limit:
            events.extend(self.end(generation, FinishReason.LENGTH))

    def _show(self, generation: Generation, events: list[Event]) -> bool:
        """Decode the newest tokens where somebody watches or a stop string may come; True at a stop string."""
        request = generation.request
        if not (request.stream or request.sampling.stop):
            return False
        answer = generation.answer
        piece = generation.text.push(answer[generation.pushed :])
        generation.pushed = len(answer)
        said, calls = generation.tell(piece.text)
        if (said or calls) and request.stream:
            events.append(delta(generation, said, calls))
        return piece.stopped

    def _fail(self, sequence: Sequence, cause: Exception | None, events: list[Event]) -> None:
        generation = self._generations[sequence.id]
        if cause is None:
            # What it wrote may be non-finite too, and 0 x NaN would spoil the padding of whoever gets its blocks.
            self._runner.scrub(self.scheduler.allocator.spoil(sequence.blocks))
        self.withdraw(generation)
        if cause is None:
            message, code = "the model's output for this request is not finite", "model_output_invalid"
        elif isinstance(cause, HeliuError):
            message, code = cause.message, cause.code
        elif isinstance(cause, (MemoryError, torch.OutOfMemoryError)):
            message, code = "the machine's memory does not hold this request", "out_of_memory"
        else:
            # Its text can hold anything, and goes to the log alone.
            log.error("forward_failed", exc_info=cause)
            message, code = f"the forward pass failed: {type(cause).__name__}", "engine_failed"
        events.append(failure(generation.request.id, HeliuError(message, code=code)))


def _salt(tenant: str, adapter: str | None, install: int) -> bytes:
    """What is cached belongs to a tenant, and to an adapter as it was read: the next of its name may be another."""
    return hashlib.blake2b("\0".join((tenant, adapter or "", str(install))).encode(), digest_size=16).digest()
