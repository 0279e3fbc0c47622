"""Events as OpenAI's JSON: choices, chunks and log probabilities."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from maxllm.generate.request import Event, TokenLogprob
from maxllm.tokenizer import Tokenizer


@dataclass(slots=True)
class Answer:
    """The events of one choice so far, or one event alone."""

    text: str = ""
    logprobs: list[TokenLogprob] | None = None
    finish_reason: str | None = None

    def add(self, event: Event) -> Answer:
        self.text += event.text
        if event.logprobs is not None:
            self.logprobs = [*(self.logprobs or []), *event.logprobs]
        self.finish_reason = event.finish_reason
        return self


class TokenNames:
    """Tokens as strings. A token that is part of a character is spelled as OpenAI does: `bytes:\\xe2\\x82`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = {i: name for name, i in tokenizer.special_tokens.items()}

    def content(self, token_id: int) -> bytes:
        return self._tokenizer.token_bytes(token_id)

    def name(self, token_id: int) -> str:
        if token_id in self._special:
            return self._special[token_id]
        content = self.content(token_id)
        try:
            return content.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


@dataclass
class Completions:
    """The shapes of `/v1/completions`. One object per call: it knows how far each choice's text has come."""

    names: TokenNames
    id_prefix = "cmpl-"
    object = "text_completion"
    chunk_object = "text_completion"
    _decoders: dict[int, Any] = field(default_factory=dict)
    _offsets: dict[int, int] = field(default_factory=dict)

    def whole(self, index: int, answer: Answer) -> dict[str, Any]:
        logprobs = None if answer.logprobs is None else self._logprobs(index, answer.logprobs)
        finish = answer.finish_reason
        return {"index": index, "text": answer.text, "logprobs": logprobs, "finish_reason": finish}

    piece = whole

    def _logprobs(self, index: int, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        names = [self.names.name(token.token_id) for token in tokens]
        return {
            "tokens": names,
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [self._top(name, token) for name, token in zip(names, tokens, strict=True)],
            "text_offset": [self._advance(index, token.token_id) for token in tokens],
        }

    def _top(self, name: str, token: TokenLogprob) -> dict[str, float] | None:
        """Two tokens may have one name (a byte, and the letter it is): the likelier counts."""
        if token.logprob is None:
            return None
        top: dict[str, float] = {}
        for token_id, logprob in token.top:
            top.setdefault(self.names.name(token_id), logprob)
        top.setdefault(name, token.logprob)
        return top

    def _advance(self, index: int, token_id: int) -> int:
        """Characters before this token in the choice's text."""
        decoder = self._decoders.setdefault(index, codecs.getincrementaldecoder("utf-8")("replace"))
        offset = self._offsets.get(index, 0)
        self._offsets[index] = offset + len(decoder.decode(self.names.content(token_id)))
        return offset


@dataclass
class Chat:
    """The shapes of `/v1/chat/completions`."""

    names: TokenNames
    id_prefix = "chatcmpl-"
    object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    _begun: set[int] = field(default_factory=set)

    def whole(self, index: int, answer: Answer) -> dict[str, Any]:
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        return {"index": index, "message": message, **self._rest(answer)}

    def piece(self, index: int, answer: Answer) -> dict[str, Any]:
        delta = {"content": answer.text} if index in self._begun else {"role": "assistant", "content": answer.text}
        self._begun.add(index)
        return {"index": index, "delta": delta, **self._rest(answer)}

    def _rest(self, answer: Answer) -> dict[str, Any]:
        logprobs = None
        if answer.logprobs is not None:
            content = [
                {
                    **self._token(token.token_id, token.logprob),
                    "top_logprobs": [self._token(token_id, logprob) for token_id, logprob in token.top],
                }
                for token in answer.logprobs
            ]
            logprobs = {"content": content, "refusal": None}
        return {"logprobs": logprobs, "finish_reason": answer.finish_reason}

    def _token(self, token_id: int, logprob: float | None) -> dict[str, Any]:
        content = self.names.content(token_id)
        return {"token": self.names.name(token_id), "logprob": logprob, "bytes": list(content) or None}
