"""How a text longer than the model's context is scored: windows, each token predicted exactly once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np


class Window(NamedTuple):
    """`tokens[0:-1]` go in, `tokens[1:]` are predicted, and the last `scored` predictions count."""

    tokens: np.ndarray  # int32 [at most context + 1]
    scored: int


def windows(tokens: Sequence[int], first: int, *, context: int, stride: int) -> Iterator[Window]:
    """Windows of at most `context` input tokens that together score `tokens[first:]`, each of them once.

    The first window scores as much as it can hold; each one after it scores the next `stride` tokens (the last one:
    what remains), so that these see at least `context - stride` tokens before them. Tokens before `first` are
    context only, and cut from the left when there are too many. With `stride == context` this is lm-eval's rule
    (`get_rolling_token_windows` with `context_len=1`), and its left truncation of long prompts.
    """
    if not 1 <= stride <= context:
        raise ValueError(f"stride {stride} is not within 1 and context {context}")
    if first < 1:
        raise ValueError("the first token has nothing to be predicted from; put a prefix token before it")
    array = np.asarray(tokens, np.int32)
    done = first
    end = min(len(array), max(context + 1, first + stride))
    while done < len(array):
        yield Window(array[max(0, end - context - 1) : end], end - done)
        done, end = end, min(len(array), end + stride)
