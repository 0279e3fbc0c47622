"""One request on its way: its tokens become events, and end it."""

from __future__ import annotations

import time

import numpy as np

from maxllm.generate.handle import Handle
from maxllm.generate.request import Event, FinishReason, TokenLogprob, Usage
from maxllm.generate.result import unpack_logprobs
from maxllm.generate.stats import Stats
from maxllm.generate.text import Detokenizer, Piece, TextStream


class Sequence:
    """Belongs to the scheduler's thread. `limit`: tokens to draw; `deadline`: in `time.monotonic()`'s seconds."""

    def __init__(
        self, handle: Handle, tokenizer: Detokenizer, limit: int, deadline: float | None, stats: Stats
    ) -> None:
        request = handle.request
        self.handle = handle
        self.limit = limit
        self.deadline = deadline
        self.prompt_tokens = len(request.prompt)
        self.dispatched = 0  # tokens asked of the device; runs ahead of `drawn`
        self.drawn = 0
        self.done = False
        self._tokenizer = tokenizer
        self._stats = stats
        self._text = TextStream(tokenizer, request.stop)
        self._ends = frozenset(request.stop_token_ids)
        if not request.ignore_eos and tokenizer.eos_id is not None:
            self._ends |= {tokenizer.eos_id}

    @property
    def request_logprobs(self) -> int | None:
        return self.handle.request.logprobs

    def echo(self, scores: np.ndarray | None) -> None:
        """The event that repeats the prompt. `scores`: packed logprobs; row i is that of token i + 1."""
        prompt, top = self.handle.request.prompt, self.request_logprobs
        logprobs = None
        if scores is not None and top is not None:
            rest = [unpack_logprobs(token, row, top) for token, row in zip(prompt[1:], scores, strict=False)]
            logprobs = (TokenLogprob(prompt[0], None), *rest)
        text = self._tokenizer.decode(list(prompt))
        self.handle.put(Event(prompt, text, logprobs, prompt=True, usage=self._usage()))

    def take(self, token: int, packed_logprobs: np.ndarray | None) -> None:
        """One drawn token: its event, if it settles anything, and the end, if it is one."""
        self._observe()
        self.drawn += 1
        if token in self._ends:
            self.finish("stop", stop_reason=token)
            return
        logprob = None
        if self.request_logprobs is not None and packed_logprobs is not None:
            logprob = unpack_logprobs(token, packed_logprobs, self.request_logprobs)
        piece = self._text.push(token, logprob)
        if piece.stop is not None:
            self._end("stop", piece, stop_reason=piece.stop)
        elif self.drawn >= self.limit:
            self._end("length", _joined(piece, self._text.flush()))
        elif piece.token_ids or piece.text:
            self.handle.put(self._event(piece))

    def finish(self, reason: FinishReason, *, stop_reason: int | None = None) -> None:
        """Ends here, with the text that was held back."""
        self._end(reason, self._text.flush(), stop_reason=stop_reason)

    def fail(self, sentence: str) -> None:
        """Ends with an error; what was held back is dropped."""
        self._end("error", Piece((), "", ()), error=sentence)

    def _end(
        self, reason: FinishReason, piece: Piece, *, stop_reason: str | int | None = None, error: str | None = None
    ) -> None:
        self.done = True
        self.handle.times.finished = time.monotonic()
        self._stats.record_end(self.handle.times, reason, self.prompt_tokens, self.drawn)
        self.handle.put(self._event(piece, finish_reason=reason, stop_reason=stop_reason, error=error))

    def _event(self, piece: Piece, **end: object) -> Event:
        logprobs = piece.logprobs if self.request_logprobs is not None else None
        return Event(piece.token_ids, piece.text, logprobs, usage=self._usage(), **end)  # type: ignore[arg-type]

    def _usage(self) -> Usage:
        return Usage(self.prompt_tokens, self.drawn)

    def _observe(self) -> None:
        times, now = self.handle.times, time.monotonic()
        if self.drawn:
            self._stats.inter_token_latency.observe(now - times.last_token)
        else:
            times.first_token = now
            self._stats.time_to_first_token.observe(now - times.submitted)
        times.last_token = now
        self._stats.generation_tokens += 1


def _joined(first: Piece, second: Piece) -> Piece:
    return Piece(first.token_ids + second.token_ids, first.text + second.text, first.logprobs + second.logprobs)
