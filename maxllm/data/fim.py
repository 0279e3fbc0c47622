"""Fill in the middle (Bavarian et al. 2022), on tokens; and prefixes that are seen both ways (Raffel et al. 2020).

Middles are cut between tokens, on the host, where a document's tokens are what there is. The paper prefers cuts
between characters, which split tokens; a model trained so completes best where a cut falls between tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maxllm.batch import Batch
from maxllm.data.draws import Draw
from maxllm.data.segments import raw, runs
from maxllm.data.special_ids import Ids

RATE = 0.5
SHORTEST = 8


def fill_in_the_middle(batch: Batch, draws: Sequence[Draw], *, ids: Ids, rate: float = RATE) -> Batch:
    """A share `rate` of the segments moves a middle to its end, half of them each way (section 3):

        PSM: <prefix> prefix <suffix> suffix <middle> middle end
        SPM: <prefix> <suffix> suffix <middle> prefix middle end

    A segment keeps its length: what the marks need is taken from its end, at most four tokens (the paper's FIM on
    contexts, section 4.4, trims too). Every token is learned from, as in the paper.
    """
    tokens, targets = batch.tokens.copy(), batch.targets.copy()
    for row, draw in enumerate(draws):
        for at in runs(batch.segment_ids[row]):
            if at.stop - at.start >= SHORTEST and draw.random.random() < rate:
                moved = rearranged(draw.random, raw(batch, row, at), ids)
                tokens[row, at], targets[row, at] = moved[:-1], moved[1:]
    return batch._replace(tokens=tokens, targets=targets)


def rearranged(random: np.random.Generator, text: np.ndarray, ids: Ids) -> np.ndarray:
    """`text` `[n]` with its middle last, `[n]`."""
    head = int(ids.begin is not None and text[0] == ids.begin)
    body = text[head : len(text) - 1 if text[-1] == ids.end else len(text)]
    body = body[: len(text) - head - 4]
    low, high = np.sort(random.integers(len(body) + 1, size=2)).tolist()
    prefix, middle, suffix = body[:low], body[low:high], body[high:]
    before, after, hole = ([mark] for mark in ids.holes.tolist())
    if random.random() < 0.5:
        parts = (before, prefix, after, suffix, hole, middle)
    else:
        parts = (before, after, suffix, hole, prefix, middle)
    return np.concatenate([text[:head], *parts, [ids.end]]).astype(text.dtype)


def cut_prefixes(batch: Batch, draws: Sequence[Draw]) -> Batch:
    """`prefix` is 1 in a first part of each segment, cut anywhere in it: all of the segment sees it, and only what
    follows is learned from (section 3.2.1, "prefix LM")."""
    prefix = np.zeros_like(batch.tokens)
    for row, draw in enumerate(draws):
        for at in runs(batch.segment_ids[row]):
            prefix[row, at.start : at.start + int(draw.random.integers(1, at.stop - at.start + 1))] = 1
    # The prefix's last token is the first that predicts.
    hidden = np.zeros_like(prefix, bool)
    hidden[:, :-1] = (
        (prefix[:, :-1] > 0) & (prefix[:, 1:] > 0) & (batch.segment_ids[:, :-1] == batch.segment_ids[:, 1:])
    )
    weights = np.where(hidden, np.float32(0), batch.weights)
    return batch._replace(targets=np.where(hidden, 0, batch.targets), weights=weights, prefix=prefix)
