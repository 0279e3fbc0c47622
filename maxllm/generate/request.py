"""What is asked of the scheduler, and what comes back: plain values, no JAX."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from maxllm.config.errors import UserError

FinishReason = Literal["stop", "length", "cancelled", "deadline", "error"]

MAX_LOGPROBS = 5  # alternatives reported per token, at most; OpenAI's limit for /v1/completions


class InvalidRequest(UserError):
    """The request itself is wrong (HTTP 400, INVALID_ARGUMENT). Raised by `Scheduler.submit`."""


class QueueFull(Exception):
    """Too many requests wait already; try later (HTTP 429, RESOURCE_EXHAUSTED). Raised by `Scheduler.submit`."""


class Unavailable(Exception):
    """Draining, closed, or failed beyond repair (HTTP 503, UNAVAILABLE). Raised by `Scheduler.submit`."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is drawn. Applied in this order: temperature, then top_k, then top_p of what is left.

    The draw at position i depends on (seed, i) and the logits alone, so that the same request with the same
    seed gives the same text whatever else is in the batch (up to rounding between batch sizes).
    """

    temperature: float = 1.0  # 0 = greedy
    top_k: int = 0  # 0 = all
    top_p: float = 1.0  # in (0, 1]
    seed: int | None = None  # any integer, taken modulo 2**64; None = a random one


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to continue. For several samples of one prompt submit several requests (seed, seed + 1, ...)."""

    prompt: tuple[int, ...]  # token ids, at least one, as the model shall see them (with bos, if it wants one)
    max_tokens: int = 128  # 0 = only score the prompt (with `echo`); cut to what the engine's max_length leaves
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop: tuple[str, ...] = ()  # generation ends before the first of these; never part of the text
    stop_token_ids: tuple[int, ...] = ()  # in addition to the tokenizer's eos
    ignore_eos: bool = False
    logprobs: int | None = None  # None = none, 0 = the chosen token's, n <= 5 = and the n likeliest tokens'
    echo: bool = False  # the first event repeats the prompt (with its logprobs, if asked)
    deadline_seconds: float | None = None  # from submission; then finish_reason "deadline"
    request_id: str = ""  # for logs; the scheduler makes one when empty


class TokenLogprob(NamedTuple):
    """Natural logarithms from the float32 softmax of the raw logits (before temperature, top_k, top_p)."""

    token_id: int
    logprob: float | None  # None for the first token of a prompt: nothing predicts it
    top: tuple[tuple[int, float], ...] = ()  # (token id, logprob), likeliest first, `Request.logprobs` of them


class Usage(NamedTuple):
    prompt_tokens: int
    completion_tokens: int  # every token drawn, the stop token and tokens inside a stop string included


@dataclass(frozen=True, slots=True)
class Event:
    """A piece of the answer. The last one of a request, and only that, has a `finish_reason`.

    Tokens come with the text they belong to: text that may be the beginning of a stop string, and its tokens,
    wait until that is settled; characters are never cut. The stop token, and tokens wholly inside a stop
    string, are not part of `token_ids`. `finish_reason` "stop" says so; `stop_reason` says which.
    """

    token_ids: tuple[int, ...] = ()
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] | None = None  # one per token id, when asked
    prompt: bool = False  # True for the one event that repeats the prompt (echo), always the first
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None  # the stop string, or the token id
    error: str | None = None  # one sentence, with finish_reason "error"; never part of the text
    usage: Usage = Usage(0, 0)  # so far


@dataclass(frozen=True, slots=True)
class Completion:
    """All events of a request, joined: what `Handle.result()` returns. The prompt's part is kept apart."""

    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...] | None
    finish_reason: FinishReason
    stop_reason: str | int | None
    error: str | None
    usage: Usage
    prompt_text: str = ""
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
