"""Masks, pairs, middles and prefixes have the papers' rates, over more than 10^5 tokens."""

from __future__ import annotations

import numpy as np
import pytest

from maxllm.data.fim import cut_prefixes, fill_in_the_middle
from maxllm.data.masked import NO_LABEL, mask_tokens
from maxllm.data.segments import runs
from tests.maxllm.data.corrupted import IDS, VOCABULARY, draws, near, packed

SIZES = [[100, 300, 7, 5, 88], [512], [1, 2, 3, 400], [250, 250]] * 75
LENGTH = 512


@pytest.fixture(scope="module")
def batch():
    return packed(SIZES, LENGTH)


def unframed(batch) -> np.ndarray:
    """Tokens with their ends marked, one segment at a time."""
    tokens = batch.tokens.copy()
    for row in range(len(tokens)):
        for at in runs(batch.segment_ids[row]):
            if at.stop - at.start >= 3:
                tokens[row, at.start], tokens[row, at.stop - 1] = IDS.begin, IDS.end
    return tokens


def test_bert_hides_15_percent_80_10_10_and_no_mark_or_padding(batch):
    masked = mask_tokens(batch, draws(len(SIZES)), ids=IDS)
    whole = unframed(batch)
    text = (batch.segment_ids > 0) & VOCABULARY[whole]
    chosen = masked.weights > 0
    assert text.sum() > 1e5 and not (chosen & ~text).any()
    assert near(chosen.sum() / text.sum(), 0.15, text.sum())
    hidden, same = masked.tokens[chosen] == IDS.mask, masked.tokens[chosen] == whole[chosen]
    count, words = chosen.sum(), VOCABULARY.sum()
    assert near(hidden.mean(), 0.8, count)
    assert near(same.mean(), 0.1 + 0.1 / words, count)
    assert near((~hidden & ~same).mean(), 0.1 - 0.1 / words, count)
    others = masked.tokens[chosen][~hidden & ~same]
    assert VOCABULARY[others].all() and abs(others.mean() - 454.5) < 4.5 * 257 / np.sqrt(len(others))  # any word alike
    assert np.array_equal(masked.targets[chosen], whole[chosen])
    assert np.array_equal(masked.tokens[~chosen], whole[~chosen]) and not masked.targets[~chosen].any()
    assert np.array_equal(masked.segment_ids, batch.segment_ids)
    assert len(np.unique(masked.noise)) == len(SIZES)


def test_masking_is_dynamic(batch):
    """RoBERTa: what was hidden before says nothing about what is hidden now."""
    one, other = (mask_tokens(batch, draws(len(SIZES), key), ids=IDS).weights > 0 for key in (1, 2))
    text = (batch.segment_ids > 0) & VOCABULARY[unframed(batch)]
    assert near((one & other).sum() / text.sum(), 0.15**2, text.sum())


def test_a_row_is_corrupted_alike_whatever_stands_beside_it(batch):
    part = type(batch)(*(None if x is None else x[2:4] for x in batch))
    whole, alone = (mask_tokens(b, d, ids=IDS) for b, d in ((batch, draws(len(SIZES))), (part, draws(4)[2:])))
    assert np.array_equal(whole.tokens[2:4], alone.tokens)


def test_half_of_the_second_sentences_are_others():
    sizes = [[200, 12, 100, 3]] * 700
    batch = packed(sizes, 320)
    masked = mask_tokens(batch, draws(len(sizes)), ids=IDS, next_sentence=True, rate=1e-9)
    labels = masked.labels[masked.labels != NO_LABEL]
    assert len(labels) == 3 * 700 and near(labels.mean(), 0.5, len(labels))  # those of 3 tokens cannot be cut
    other = draws(1)[0].other(None).tokens[0]
    for row in range(len(sizes)):
        for at in runs(batch.segment_ids[row])[:3]:
            tokens, types = masked.tokens[row, at], masked.types[row, at]
            real = masked.segment_ids[row, at] > 0
            tokens, types = tokens[real], types[real]
            middle = int(np.argmax(types)) - 1
            assert tokens[0] == IDS.begin and tokens[middle] == tokens[-1] == IDS.end and types[middle:].sum() > 0
            assert np.array_equal(types, np.arange(len(types)) > middle)
            first, second = tokens[1:middle], tokens[middle + 1 : -1]
            assert np.array_equal(first, batch.tokens[row, at][1:middle])
            if masked.labels[row, at.start] == 0:
                assert np.array_equal(second, batch.tokens[row, at][middle + 1 : -1])
            else:
                places = np.flatnonzero(other == second[0])
                assert any(np.array_equal(other[i : i + len(second)], second) for i in places)
    assert (masked.labels[:, 0] >= 0).all()


def test_half_of_the_segments_have_their_middle_last_half_of_them_each_way():
    sizes = [[120, 60, 30, 20, 5]] * 1000
    batch = packed(sizes, 240)
    moved = fill_in_the_middle(batch, draws(len(sizes)), ids=IDS)
    assert all(np.array_equal(a, b) for a, b in zip(moved[2:5], batch[2:5], strict=True))
    prefix, suffix, hole = IDS.holes
    count = spm = 0
    shares = []
    for row in range(len(sizes)):
        for at in runs(batch.segment_ids[row]):
            before = np.append(batch.tokens[row, at], batch.targets[row, at.stop - 1])
            after = np.append(moved.tokens[row, at], moved.targets[row, at.stop - 1])
            assert np.array_equal(moved.targets[row, at][:-1], moved.tokens[row, at][1:])
            if prefix not in after:
                assert np.array_equal(before, after)
                continue
            assert at.stop - at.start > 5  # too short to be cut
            count += 1
            head, *parts = np.split(after, np.flatnonzero(np.isin(after, IDS.holes)))
            marks, texts = [int(part[0]) for part in parts], [part[1:] for part in parts]
            assert marks == [prefix, suffix, hole] and after[-1] == IDS.end and after[0] == head[0] == IDS.begin
            texts[2] = texts[2][:-1]
            text = before[1:-4]  # three marks stand where the last three words did
            # SPM has its prefix before its middle, after the hole.
            assert np.array_equal(np.concatenate([texts[0], texts[2], texts[1]]), text)
            spm += len(texts[0]) == 0
            shares.append(len(texts[1]) / len(text))
    assert near(count / 4000, 0.5, 4000)
    assert abs(spm / count - 0.5) < 0.06  # a prefix of PSM is empty now and then
    assert abs(np.mean(shares) - 1 / 3) < 0.02  # two cuts anywhere: a third each


def test_prefixes_are_cut_anywhere_and_only_what_follows_counts():
    sizes = [[10, 4, 1, 30]] * 1000
    batch = packed(sizes, 48)
    cut = cut_prefixes(batch, draws(len(sizes)))
    lengths = []
    for row in range(len(sizes)):
        for at in runs(batch.segment_ids[row]):
            size = int(cut.prefix[row, at].sum())
            assert np.array_equal(cut.prefix[row, at], np.arange(at.stop - at.start) < size) and size >= 1
            counted = np.arange(at.stop - at.start) >= size - 1
            assert np.array_equal(cut.weights[row, at], counted)
            assert np.array_equal(cut.targets[row, at], np.where(counted, batch.targets[row, at], 0))
            lengths.append((at.stop - at.start, size))
    of_ten = np.array([size for length, size in lengths if length == 10])
    assert all(near((of_ten == size).mean(), 0.1, len(of_ten)) for size in range(1, 11))
    assert not cut.prefix[batch.segment_ids == 0].any()
