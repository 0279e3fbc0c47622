"""Tokens to text as it may be shown: whole characters, and nothing that may yet turn out to be a stop string."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple, Protocol

from maxllm.generate.request import TokenLogprob


class ByteStream(Protocol):
    def push(self, token_id: int) -> str: ...
    def flush(self) -> str: ...


class Detokenizer(Protocol):
    """What the scheduler needs of `maxllm.tokenizer.Tokenizer`."""

    vocab_size: int
    eos_id: int | None

    def byte_stream(self) -> ByteStream: ...
    def decode(self, ids: list[int]) -> str: ...


class Piece(NamedTuple):
    """What is settled: text, and the tokens whose text it is."""

    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...]
    stop: str | None = None  # the stop string that ends the text here


class _Token(NamedTuple):
    id: int
    logprob: TokenLogprob | None
    start: int  # characters before its text
    end: int


class TextStream:
    """Of one request. `stop`: strings, none empty."""

    def __init__(self, tokenizer: Detokenizer, stop: tuple[str, ...]) -> None:
        self._bytes = tokenizer.byte_stream()
        self._stop = stop
        self._held = ""  # drawn, perhaps the beginning of a stop string
        self._released = 0  # characters
        self._tokens: deque[_Token] = deque()  # drawn, their text not released

    def push(self, token_id: int, logprob: TokenLogprob | None = None) -> Piece:
        """One more token. After a Piece with a `stop` nothing may follow."""
        start = self._released + len(self._held)
        text = self._bytes.push(token_id)
        self._held += text
        # A part of a character belongs to the next one that is whole.
        self._tokens.append(_Token(token_id, logprob, start, start + max(len(text), 1)))
        if not self._stop:
            return self._release(len(self._held))
        found = [(at, stop) for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if found:
            at, stop = min(found)
            # Tokens that reached into the text before the stop string stay; the others were only part of it.
            self._tokens = deque(token for token in self._tokens if token.start < self._released + at)
            self._tokens = deque(token._replace(end=self._released + at) for token in self._tokens)
            return self._release(at)._replace(stop=stop)
        return self._release(len(self._held) - _beginning_of(self._stop, self._held))

    def flush(self) -> Piece:
        """Everything held back: no stop string came. Bytes that never became a character give U+FFFD."""
        self._held += self._bytes.flush()
        self._tokens = deque(token._replace(end=token.start) for token in self._tokens)
        return self._release(len(self._held))

    def _release(self, count: int) -> Piece:
        text, self._held = self._held[:count], self._held[count:]
        self._released += count
        tokens = []
        while self._tokens and self._tokens[0].end <= self._released:
            tokens.append(self._tokens.popleft())
        return Piece(
            tuple(token.id for token in tokens), text, tuple(token.logprob for token in tokens if token.logprob)
        )


def _beginning_of(stops: tuple[str, ...], text: str) -> int:
    """Length of the longest end of `text` that begins one of `stops`."""
    longest = min(len(text), max(map(len, stops)) - 1)
    for length in range(longest, 0, -1):
        if any(stop.startswith(text[-length:]) for stop in stops):
            return length
    return 0
