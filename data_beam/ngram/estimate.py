"""Interpolated probabilities from adjusted counts (Chen and Goodman 1998, page 20; Heafield et al. 2013, section 3).

    p(w | c) = (a(c w) - D(a(c w))) / sum_x a(c x)  +  gamma(c) p(w | c without its first word)
    gamma(c) = (sum_k D_k N_k(c) + what pruning took) / sum_x a(c x)

Single words are interpolated with 1 / vocabulary, <unk> counted and <s> not. Pruned n-grams stay in the denominator and
their mass goes to gamma, as in lmplz.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_beam.ngram.block import Block, common_vocabulary, concatenate, find, groups, joined
from data_beam.ngram.counts import Statistics
from data_beam.ngram.discounts import Discounts
from data_beam.ngram.prepare import BOS, SPECIAL


def kept_ngrams(block: Block, prune: int) -> np.ndarray:
    """bool [ngrams]: those that occur more often than the threshold, and the special words."""
    kept = block.columns[1] > prune
    if block.order == 1:
        kept |= np.isin(block.ids[:, 0], [place for place, word in enumerate(block.words) if word in SPECIAL])
    return kept


def weigh(blocks: list[Block], discounts: Discounts, prune: int) -> tuple[Block, Block]:
    """All n-grams (two words or more) of some contexts, with adjusted counts and how often they occur.

    The n-grams left after pruning, with their own part of the probability and the weight of the shorter context's; and
    the contexts, with that weight, which is their back-off.
    """
    block = concatenate(blocks)
    count = block.columns[0]
    kept = kept_ngrams(block, prune)
    *_, (first, context) = groups(list(block.ids.T[:-1]), len(block.words))
    contexts = len(first)
    total = np.bincount(context, count)
    mass = np.bincount(context, count * ~kept)
    for k in (1, 2, 3):
        these = kept & (np.minimum(count, 3) == k)
        mass += discounts[k] * np.bincount(context[these], minlength=contexts)
    weight = mass / total
    own = (count - np.asarray(discounts)[np.minimum(count, 3)]) / total[context]
    ngrams = Block(block.words, block.ids, (own, weight[context])).take(kept)
    return ngrams, Block(block.words, block.ids[first, :-1], (weight,))


@dataclass(frozen=True, slots=True)
class Unigrams:
    """What the probability of a single word takes beside its own adjusted count."""

    discounts: Discounts
    total: int  # of adjusted counts
    weight: float  # gamma of the empty context
    vocabulary: int  # words left after pruning with <unk>, without <s>

    @classmethod
    def of(cls, found: Statistics, discounts: Discounts) -> Unigrams:
        mass = discounts[1] * found.kept1 + discounts[2] * found.kept2 + discounts[3] * found.kept3 + found.pruned_mass
        return cls(discounts, found.mass, mass / found.mass, found.kept - 1)

    def probabilities(self, block: Block) -> np.ndarray:
        """float64 [words]; that of <s> is 1, which never counts: nothing predicts it."""
        count = block.columns[0]
        own = (count - np.asarray(self.discounts)[np.minimum(count, 3)]) / self.total
        bos = block.words.index(BOS) if BOS in block.words else -1
        return np.where(block.ids[:, 0] == bos, 1.0, own + self.weight / self.vocabulary)


def interpolate(ngrams: Sequence[Block], contexts: Sequence[Block], unigrams: Sequence[Block]) -> list[Block]:
    """The n-grams of a home by order, from 2 on: columns probability and back-off (1 where it is no context).

    `ngrams` and `contexts` as `weigh` gives them, `unigrams` with the probability of every word that an n-gram here
    ends in.
    """
    words, numbered = common_vocabulary([*ngrams, *contexts, *unigrams])
    vocabulary = len(words)
    ngrams = numbered[: len(ngrams)]
    contexts = numbered[len(ngrams) : len(ngrams) + len(contexts)]
    lower = np.full(vocabulary, np.nan)
    for block in numbered[len(ngrams) + len(contexts) :]:
        lower[block.ids[:, 0]] = block.columns[0]
    keys: dict[int, np.ndarray] = {}
    result = []
    for order in sorted({block.order for block in ngrams}):
        block = joined([block for block in ngrams if block.order == order])
        suffix, found = find(keys, block.ids[:, 1:], vocabulary)
        if not found.all():
            raise RuntimeError(f"a {order}-gram's suffix is missing; this is a bug")
        key = suffix * vocabulary + block.ids[:, 0]
        in_order = np.argsort(key, kind="stable")
        block, suffix, keys[order] = block.take(in_order), suffix[in_order], key[in_order]
        own, weight = block.columns
        probability = own + weight * lower[suffix]
        backoff = np.ones(len(block))
        for context in contexts:
            if context.order == order:
                place, found = find(keys, context.ids, vocabulary)
                backoff[place[found]] = context.columns[0][found]
        result.append(Block(words, block.ids, (probability, backoff)))
        lower = probability
    return result
