"""Whole texts and their damaged copies: BART's (Lewis et al. 2020) and UL2's mixture (Tay et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maxllm.batch import Batch, EncoderDecoderBatch
from maxllm.data.draws import Draw
from maxllm.data.segments import Pairs, framed, grouped, runs
from maxllm.data.spans import SHORTEST, denoising, lengths, noise_mask
from maxllm.data.special_ids import Ids

# Table 1 of the paper: (mode, rate, mean span); all alike likely. S: one span, the last quarter.
R, S, X = range(3)
UL2 = ((R, 0.15, 3), (R, 0.15, 8), (S, 0.25, None), (X, 0.5, 3), (X, 0.5, 8), (X, 0.15, 64), (X, 0.5, 64))
ONE_SPAN = 1e9  # a mean that leaves one span


def infill_and_permute(
    batch: Batch, draws: Sequence[Draw], *, ids: Ids, rate: float = 0.3, span: float = 3.0
) -> EncoderDecoderBatch:
    """BART's final recipe (section 3.1 and 4): each segment's sentences in another order, and spans of a
    Poisson(`span`) length, `rate` of the tokens in all, as one mask token each. The decoder says the original."""
    length = batch.tokens.shape[1]
    pairs, tokens = Pairs(len(batch.tokens), (length, length)), framed(batch, ids.begin, ids.end)
    for row, draw in enumerate(draws):
        for at in runs(batch.segment_ids[row]):
            whole = tokens[row, at]
            kept = [int(whole[0] == ids.begin and len(whole) > 1), int(whole[-1] == ids.end)]  # marks that stay
            body = whole[kept[0] : len(whole) - kept[1]]
            damaged = infilled(draw.random, permuted(draw.random, body, ids), rate, span, ids.mask)
            inputs = np.concatenate([whole[: kept[0]], damaged, whole[len(whole) - kept[1] :]])
            pairs.add(row, inputs, whole, ids.start)
    return pairs.batch


def permuted(random: np.random.Generator, tokens: np.ndarray, ids: Ids) -> np.ndarray:
    """Sentences, which end with a full stop, in a random order; the last one may lack its stop."""
    ends = np.flatnonzero(ids.sentence_end[np.minimum(tokens, len(ids.sentence_end) - 1)]) + 1
    sentences = [part for part in np.split(tokens, ends) if len(part)]
    return np.concatenate([sentences[i] for i in random.permutation(len(sentences))]) if sentences else tokens


def infilled(random: np.random.Generator, tokens: np.ndarray, rate: float, span: float, mask: int) -> np.ndarray:
    """`tokens` in which round(`rate` n) are gone, in spans of Poisson lengths; a mask stands for each, also for those
    of length 0. No two spans touch. Never longer than `tokens`."""
    count = round(rate * len(tokens))
    if not count:
        return tokens
    drawn = random.poisson(span, count)
    drawn[-1] = max(drawn[-1], count - drawn[:-1].sum())
    sizes = drawn[: int(np.searchsorted(np.cumsum(drawn), count)) + 1]
    sizes[-1] -= sizes.sum() - count
    kept = len(tokens) - count
    if len(sizes) > kept + 1:  # there are not more places between the tokens that stay
        sizes = np.append(sizes[:kept], sizes[kept:].sum())
    gaps = np.sort(random.choice(kept + 1, len(sizes), replace=False))  # how many kept tokens come before each span
    begins = gaps + np.cumsum(sizes) - sizes
    pieces, at = [], 0
    for begin, size in zip(begins.tolist(), sizes.tolist(), strict=True):
        pieces += [tokens[at:begin], [mask]]
        at = begin + size
    return np.concatenate([*pieces, tokens[at:]]).astype(tokens.dtype)


def mix_denoisers(batch: Batch, draws: Sequence[Draw], *, ids: Ids) -> EncoderDecoderBatch:
    """Each segment by one of UL2's seven denoisers, after the token of its mode."""
    pairs = Pairs(len(batch.tokens), ul2_lengths(batch.tokens.shape[1]))
    for row, draw in enumerate(draws):
        for at in grouped(runs(batch.segment_ids[row]), SHORTEST):
            tokens = batch.tokens[row, at]
            mode, rate, span = UL2[int(draw.random.integers(len(UL2)))]
            if span is None:  # kept, then noise, in one cut: the paper's prefix language modelling
                mask = np.arange(len(tokens)) >= len(tokens) - max(round(rate * len(tokens)), 1)
                mask[0] = False
            else:
                mask = noise_mask(draw.random, len(tokens), rate, span)
            inputs, targets = denoising(tokens, mask, ids)
            pairs.add(row, np.append(ids.modes[mode], inputs), targets, ids.start)
    return pairs.batch


def ul2_settings() -> tuple[tuple[float, float], ...]:
    return tuple((rate, ONE_SPAN if span is None else span) for _, rate, span in UL2)


def ul2_lengths(length: int) -> tuple[int, int]:
    return lengths(length, ul2_settings(), extra=1)
