"""Continuous batching: requests in, events out, one thread that owns the engine.

Each turn of the thread prefills a few waiting prompts (as many as `prefill_tokens` allows), starts one decode step
for all slots, and then, while the device works on that, hands out the tokens of the step before: the host's work
hides behind the device's. What ends a request by count is known before its tokens are, and its slot is given on at
once; what ends it by content (a stop, a cancellation) is seen one step late, and that step's token is thrown away.
"""

from __future__ import annotations

import dataclasses
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from maxllm.config.serve import SchedulerConfig
from maxllm.generate.checks import check
from maxllm.generate.engine import Engine, Prefix
from maxllm.generate.handle import Handle
from maxllm.generate.request import FinishReason, InvalidRequest, QueueFull, Request, Unavailable
from maxllm.generate.result import LOGPROBS, ResultTokens
from maxllm.generate.sampling import RowSampling
from maxllm.generate.sequence import Sequence
from maxllm.generate.stats import Stats
from maxllm.generate.text import Detokenizer

log = logging.getLogger(__name__)


class _Step(NamedTuple):
    """Work given to the device: its result, and whose row each is."""

    result: ResultTokens
    rows: list[tuple[int, Sequence]]
    scores: jax.Array | None = None  # of the prompt, for a prefill with echo


class Scheduler:
    """Runs requests on an engine. Every method may be called from any thread.

    A request that fails takes nobody with it: its own last event has finish_reason "error".
    """

    def __init__(self, engine: Engine, tokenizer: Detokenizer, config: SchedulerConfig) -> None:
        self.engine = engine
        self.config = config
        self._tokenizer = tokenizer
        self._stats = Stats(slots=engine.max_concurrent_decodes)
        self._changed = threading.Condition()  # guards the next four
        self._waiting: deque[Sequence] = deque()
        self._accepting = False
        self._closing = False
        self._busy = False  # the thread is in a turn, or has work left
        self._thread: threading.Thread | None = None
        # The thread's own.
        self._slots: list[Sequence | None] = [None] * engine.max_concurrent_decodes
        self._steps: deque[_Step] = deque()
        self._state: Any = None  # a DecodeState once started
        self._waited = 0.0  # seconds spent waiting for the device

    def start(self) -> Scheduler:
        """Starts the engine's thread. Also `with Scheduler(...) as scheduler:`."""
        self._state = self.engine.init_decode_state()
        self._accepting = True
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()
        return self

    def __enter__(self) -> Scheduler:
        return self if self._thread else self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def submit(self, request: Request) -> Handle:
        """Queues a request. Raises InvalidRequest, QueueFull or Unavailable; never blocks."""
        try:
            limit = check(
                request,
                vocab_size=self.engine.model_config.vocab_size,
                max_length=self.engine.max_length,
                max_prompt=self.engine.max_prefill_length,
                begins_at=self.engine.begins_at(len(request.prompt)),
                scores=self.engine.scores_prompts,
            )
        except InvalidRequest:
            with self._changed:
                self._stats.invalid += 1
            raise
        if not request.request_id:
            request = dataclasses.replace(request, request_id=secrets.token_hex(8))
        handle = Handle(request)
        allowed = [seconds for seconds in (request.deadline_seconds, self.config.deadline_seconds) if seconds]
        deadline = handle.times.submitted + min(allowed) if allowed else None
        sequence = Sequence(handle, self._tokenizer, limit, deadline, self._stats)
        with self._changed:
            if not self._accepting:
                raise Unavailable("this server is not accepting requests: it is starting, draining or closed")
            if len(self._waiting) >= self.config.queue:
                self._stats.refused += 1
                raise QueueFull(f"{len(self._waiting)} requests are waiting already; try again later")
            self._waiting.append(sequence)
            self._changed.notify_all()
        return handle

    def drain(self, seconds: float | None = None) -> bool:
        """Refuses new requests, finishes those accepted; what is left after `seconds` (config's when None) is
        cancelled. Blocks; True when all finished by themselves."""
        seconds = self.config.drain_seconds if seconds is None else seconds
        with self._changed:
            self._accepting = False
            finished = self._changed.wait_for(lambda: not (self._busy or self._waiting), timeout=seconds)
        self.close()
        return finished

    def close(self) -> None:
        """Cancels what is left and ends the thread."""
        with self._changed:
            self._accepting = False
            self._closing = True
            self._changed.notify_all()
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join()

    @property
    def healthy(self) -> bool:
        """False when the engine's thread is gone or the engine could not be set up again after a failure."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def accepting(self) -> bool:
        """False before `start`, while draining and after."""
        return self._accepting

    @property
    def stats(self) -> Stats:
        return self._stats

    # The engine's thread.

    def _run(self) -> None:
        sentence = "the server closed before this request was done"
        try:
            while self._wait_for_work():
                started, self._waited = time.perf_counter(), 0.0
                self._turn()
                seconds = time.perf_counter() - started
                self._stats.step_seconds += seconds
                self._stats.host_seconds += seconds - self._waited
        except Exception:
            log.exception("the engine could not be set up again; no request will be served")
            sentence = "the engine failed and could not be set up again"
        finally:
            with self._changed:
                self._accepting = False
                waiting, closing = list(self._waiting), self._closing
                self._waiting.clear()
            for sequence in [*waiting, *self._unfinished()]:
                if closing:
                    _guard(sequence, sequence.finish, "cancelled")
                else:
                    sequence.fail(sentence)
            self._forget_all()
            self._count()
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _wait_for_work(self) -> bool:
        """Sleeps while there is nothing to do. False when closing."""
        with self._changed:
            self._busy = bool(self._waiting or self._steps or any(self._slots))
            if not self._busy:
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting or self._closing)
                self._busy = True
            return not self._closing

    def _turn(self) -> None:
        try:
            self._drop_ended()
            self._admit()
            started = self._decode()
            while len(self._steps) > (1 if started else 0):
                self._deliver(self._steps.popleft())
        except Exception as error:  # not one request's: the state may be lost with it
            log.exception("a step failed; every running request ends with an error and the engine starts afresh")
            for sequence in self._unfinished():
                sequence.fail(f"the engine failed: {error}")
            self._forget_all()
            self._state = None  # its memory first
            self._state = self.engine.init_decode_state()
        self._count()

    def _drop_ended(self) -> None:
        """Cancelled, or past the deadline: out of the queue, or out of the slot."""
        now = time.monotonic()

        def verdict(sequence: Sequence) -> FinishReason | None:
            if sequence.handle.cancelled:
                return "cancelled"
            return "deadline" if sequence.deadline is not None and now >= sequence.deadline else None

        with self._changed:
            ended = [(sequence, reason) for sequence in self._waiting if (reason := verdict(sequence))]
            for sequence, _ in ended:
                self._waiting.remove(sequence)
        # Whoever gave his slot back already gets his last tokens within this turn.
        ended += [(sequence, reason) for sequence in self._slots if sequence and (reason := verdict(sequence))]
        for sequence, reason in ended:
            _guard(sequence, sequence.finish, reason)
            self._leave_slot(sequence)

    def _admit(self) -> None:
        """Prefills waiting prompts while there are slots, until the next would exceed `prefill_tokens`."""
        spent = 0
        while None in self._slots:
            with self._changed:
                if not self._waiting:
                    return
                spent += self._waiting[0].prompt_tokens
                if spent > self.config.prefill_tokens and spent > self._waiting[0].prompt_tokens:
                    return
                sequence = self._waiting.popleft()
            self._start(sequence)

    def _start(self, sequence: Sequence) -> None:
        sequence.handle.times.scheduled = time.monotonic()
        try:
            prefix, step = self._prefill(sequence)
        except Exception as error:  # the state was not touched: this request's failure alone
            log.exception("request %s failed in prefill", sequence.handle.id)
            sequence.fail(f"the prompt could not be processed: {error}")
            return
        self._stats.prompt_tokens += sequence.prompt_tokens
        sequence.dispatched = 1
        self._steps.append(step)
        if sequence.limit > 1:
            # The lowest free slot, so that the rows in use stay few.
            slot = self._slots.index(None)
            self._state = self.engine.insert(prefix, self._state, slot)
            self._slots[slot] = sequence

    def _prefill(self, sequence: Sequence) -> tuple[Prefix, _Step]:
        request, params = sequence.handle.request, self.engine.params
        padded = self.engine.pad(request.prompt)
        asked = request.logprobs is not None
        prefix, result = self.engine.prefill(
            params=params,
            padded_tokens=padded,
            true_length=len(request.prompt),
            sampling=RowSampling.of(request.sampling, asked),
            max_tokens=max(sequence.limit, 1),
        )
        scores = self.engine.score(params, prefix, padded) if request.echo and asked else None
        return prefix, _Step(result, [(0, sequence)], scores)

    def _decode(self) -> bool:
        """Starts one step for every slot in use. False when there is none."""
        rows = [(slot, sequence) for slot, sequence in enumerate(self._slots) if sequence]
        if not rows:
            return False
        # A step caches the token before the one it draws.
        longest = max(max(sequence.prompt_tokens, self._held(sequence)) for _, sequence in rows)
        self._state, result = self.engine.generate(
            self.engine.params,
            self._state,
            rows=self.engine.rows_for(rows[-1][0] + 1),
            length=self.engine.length_for(longest),
        )
        result.copy_to_host_async()
        self._steps.append(_Step(result, rows))
        self._stats.steps += 1
        for slot, sequence in rows:
            sequence.dispatched += 1
            if sequence.dispatched >= sequence.limit:
                self._slots[slot] = None  # the device stops counting there too
        return True

    def _held(self, sequence: Sequence) -> int:
        """Positions of its slot's cache in use when all that was asked for is there."""
        return self.engine.begins_at(sequence.prompt_tokens) + sequence.dispatched

    def _deliver(self, step: _Step) -> None:
        """Waits for a step and gives every token to its request."""
        waited = time.perf_counter()
        data = step.result.convert_to_numpy().data
        scores = None if step.scores is None else np.asarray(step.scores)
        self._waited += time.perf_counter() - waited
        heads = data[:, :2].tolist()
        for row, sequence in step.rows:
            if not sequence.done:
                token, valid = heads[row]
                _guard(sequence, _take, sequence, token, valid, data[row, LOGPROBS], scores)
                self._leave_slot(sequence)

    def _leave_slot(self, sequence: Sequence) -> None:
        """If it ended before its tokens were used up, the device must be told."""
        if sequence.done and sequence in self._slots:
            slot = self._slots.index(sequence)
            self._slots[slot] = None
            self._state = self.engine.free_resource(slot, self._state)

    def _unfinished(self) -> list[Sequence]:
        """In a slot, or with tokens still on their way."""
        found = {id(sequence): sequence for sequence in self._slots if sequence and not sequence.done}
        for step in self._steps:
            found.update({id(sequence): sequence for _, sequence in step.rows if not sequence.done})
        return list(found.values())

    def _forget_all(self) -> None:
        self._slots = [None] * len(self._slots)
        self._steps.clear()

    def _count(self) -> None:
        held = [self._held(sequence) for sequence in self._slots if sequence]
        self._stats.running = len(held)
        self._stats.waiting = len(self._waiting)
        self._stats.kv_usage = sum(held) / (len(self._slots) * self.engine.max_length)


def _take(sequence: Sequence, token: int, valid: int, logprobs: np.ndarray, scores: np.ndarray | None) -> None:
    if sequence.drawn == 0 and sequence.handle.request.echo:
        sequence.echo(scores)
    if not valid:
        raise ArithmeticError("the model's logits were not finite")
    if sequence.limit == 0:
        sequence.finish("length")
    else:
        sequence.take(token, logprobs)


def _guard(sequence: Sequence, function: Callable[..., None], *arguments: object) -> None:
    """Whatever goes wrong in `function` is this request's failure."""
    try:
        function(*arguments)
    except Exception as error:
        log.exception("request %s failed", sequence.handle.id)
        sequence.fail(f"{type(error).__name__}: {error}")
