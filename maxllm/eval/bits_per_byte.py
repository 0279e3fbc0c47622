"""Held-out bits per byte, beside what gzip and a unigram model need for the same documents.

bits per byte = total nats / ln 2 / total bytes of text (UTF-8), over whole documents. Counted are all tokens of the
text and the end token after it: a code for a document has to say where it ends, as gzip's does. The beginning token
is given, not counted. Unlike loss per token, the figure can be compared across tokenizers.

A document longer than the context is scored in windows that advance by half a context: every token is counted once,
and after the first window has at least half a context before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from maxllm.eval.baselines import Unigram, gzip_bits, gzip_bits_concatenated
from maxllm.eval.scorer import Scorer
from maxllm.tokenizer import Tokenizer


class Measured(NamedTuple):
    """Totals over some documents. `tokens` counts the end tokens too; gzip figures are in bits."""

    documents: int
    text_bytes: int
    tokens: int
    nats: float
    unigram_nats: float
    gzip: int
    gzip_concatenated: int

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.text_bytes

    def row(self) -> dict[str, float]:
        """The figures of a report; bits per byte throughout, `loss` in nats per token."""
        return {
            "documents": self.documents,
            "text_bytes": self.text_bytes,
            "tokens": self.tokens,
            "bytes_per_token": self.text_bytes / self.tokens,
            "loss": self.nats / self.tokens,
            "bits_per_byte": self.bits_per_byte,
            "gzip_bits_per_byte": self.gzip / self.text_bytes,
            "gzip_concatenated_bits_per_byte": self.gzip_concatenated / self.text_bytes,
            "unigram_bits_per_byte": self.unigram_nats / math.log(2) / self.text_bytes,
        }


def measure(
    scorer: Scorer,
    tokenizer: Tokenizer,
    documents: Sequence[Sequence[int]],
    unigram: Unigram,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Measured:
    """Totals over `documents`, each the token ids of a text, with or without its beginning and end tokens."""
    bodies = [text_tokens(ids, tokenizer) for ids in documents]
    texts = [tokenizer.decode(body).encode() for body in bodies]
    end = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    prefix = prefix_token(tokenizer)
    scores = scorer.score(
        [([prefix, *body, *end], 1) for body in bodies], stride=max(1, scorer.context // 2), progress=progress
    )
    return Measured(
        documents=len(bodies),
        text_bytes=sum(map(len, texts)),
        tokens=sum(score.tokens for score in scores),
        nats=math.fsum(score.nats for score in scores),
        unigram_nats=math.fsum(unigram.nats(np.array([*body, *end])) for body in bodies),
        gzip=gzip_bits(texts),
        gzip_concatenated=gzip_bits_concatenated(texts),
    )


def total(parts: Iterable[Measured]) -> Measured:
    """The totals of all parts together; their concatenated gzip streams stay one per part."""
    return Measured(*map(sum, zip(*parts, strict=True)))


def text_tokens(ids: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """`ids` without the beginning token before and the end token after, where they are there."""
    ids = list(ids)
    if ids and ids[0] == tokenizer.bos_id:
        ids = ids[1:]
    if ids and ids[-1] == tokenizer.eos_id:
        ids = ids[:-1]
    return ids


def prefix_token(tokenizer: Tokenizer) -> int:
    """What the first token of a text is predicted from: the beginning token, or the end of the text before."""
    for token in (tokenizer.bos_id, tokenizer.eos_id):
        if token is not None:
            return token
    raise ValueError("the tokenizer has neither a beginning nor an end token; a text's first token cannot be scored")
