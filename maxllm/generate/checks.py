"""What is refused before it can waste a slot."""

from __future__ import annotations

import math

import numpy as np

from maxllm.generate.request import MAX_LOGPROBS, InvalidRequest, Request


def check(request: Request, *, vocab_size: int, max_length: int, max_prompt: int, begins_at: int, scores: bool) -> int:
    """Tokens that may be drawn for `request`: its max_tokens, or what fits. Raises InvalidRequest, one sentence.

    `begins_at`: the position of the first one; `scores`: whether prompts have logprobs.
    """
    _check_prompt(request, vocab_size, max_prompt)
    if request.echo and request.logprobs is not None and not scores:
        raise InvalidRequest("echo with logprobs: an encoder-decoder reads its prompt and does not predict it")
    _check_sampling(request)
    if not _is_integer(request.max_tokens) or request.max_tokens < 0:
        raise InvalidRequest(f"max_tokens is {request.max_tokens!r}; it must be an integer, 0 or more")
    if request.logprobs is not None and not (_is_integer(request.logprobs) and 0 <= request.logprobs <= MAX_LOGPROBS):
        raise InvalidRequest(f"logprobs is {request.logprobs!r}; it must be between 0 and {MAX_LOGPROBS}")
    if not all(isinstance(stop, str) and stop for stop in request.stop):
        raise InvalidRequest("a stop string is empty or not text")
    if not all(_is_integer(token) for token in request.stop_token_ids):
        raise InvalidRequest("stop_token_ids must be integers")
    seconds = request.deadline_seconds
    if seconds is not None and not (_is_real(seconds) and seconds > 0):
        raise InvalidRequest(f"deadline_seconds is {seconds!r}; it must be above 0")
    room = max_length - begins_at
    if request.max_tokens and room < 1:
        raise InvalidRequest(
            f"the prompt's {len(request.prompt)} tokens leave no room for an answer within {max_length}; shorten it"
        )
    return min(request.max_tokens, room)


def _check_prompt(request: Request, vocab_size: int, max_prompt: int) -> None:
    if len(request.prompt) == 0:
        raise InvalidRequest("the prompt is empty; it needs at least one token")
    if len(request.prompt) > max_prompt:
        raise InvalidRequest(f"the prompt has {len(request.prompt)} tokens; at most {max_prompt} are accepted")
    try:
        ids = np.asarray(request.prompt)
    except (ValueError, OverflowError):
        ids = np.zeros(0)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise InvalidRequest("the prompt's token ids must be integers")
    if ids.min() < 0 or ids.max() >= vocab_size:
        wrong = int(ids[(ids < 0) | (ids >= vocab_size)][0])
        raise InvalidRequest(f"token id {wrong} in the prompt is not in the vocabulary, 0 to {vocab_size - 1}")


def _check_sampling(request: Request) -> None:
    sampling = request.sampling
    if not (_is_real(sampling.temperature) and sampling.temperature >= 0):
        raise InvalidRequest(f"temperature is {sampling.temperature!r}; it must be 0 or more")
    if not (_is_integer(sampling.top_k) and 0 <= sampling.top_k < 2**31):
        raise InvalidRequest(f"top_k is {sampling.top_k!r}; it must be an integer, 0 or more (0 = all)")
    if not (_is_real(sampling.top_p) and 0 < sampling.top_p <= 1):
        raise InvalidRequest(f"top_p is {sampling.top_p!r}; it must be above 0 and at most 1")
    if sampling.seed is not None and not _is_integer(sampling.seed):
        raise InvalidRequest(f"seed is {sampling.seed!r}; it must be an integer")


def _is_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_real(value: object) -> bool:
    return (isinstance(value, float) or _is_integer(value)) and math.isfinite(value)  # type: ignore[arg-type]
