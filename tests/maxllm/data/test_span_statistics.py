"""Spans, denoisers and their mixtures: the papers' rates and lengths, and nothing lost or cut."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxllm.data.denoisers import UL2, infill_and_permute, infilled, mix_denoisers, permuted, ul2_lengths
from maxllm.data.segments import runs
from maxllm.data.spans import SHORTEST, corrupt_spans, lengths, noise_counts, noise_mask
from tests.maxllm.data.corrupted import IDS, draws, near, packed

END = IDS.end
SENTINELS = set(IDS.sentinels.tolist())


def segments_of(batch, row: int) -> dict[int, np.ndarray]:
    return {int(batch.segment_ids[row, at.start]): batch.tokens[row, at] for at in runs(batch.segment_ids[row])}


def put_back(inputs: list[int], targets: list[int]) -> list[int]:
    """The text again: each sentinel among the inputs stands for what follows it among the targets."""
    assert inputs.pop() == END and (not targets or targets.pop() == END)
    spans: dict[int, list[int]] = {}
    for token in targets:
        if token in SENTINELS:
            latest = spans.setdefault(token, [])
        else:
            latest.append(token)
    assert list(spans) == [t for t in inputs if t in SENTINELS] == IDS.sentinels[: len(spans)].tolist()
    return [t for token in inputs for t in spans.get(token, [token])]


def slow_mask(random: np.random.Generator, length: int, rate: float, span: float) -> list[bool]:
    """T5's `random_spans_noise_mask`, by shuffling where segments begin, as its authors do."""
    noise = min(max(round(length * rate), 1), length - 1)
    spans = max(round(noise / span), 1)

    def cut(total: int) -> list[int]:
        begins = np.arange(total - 1) < spans - 1
        random.shuffle(begins)
        return np.bincount(np.cumsum(np.append(False, begins))).tolist()

    pairs = zip(cut(length - noise), cut(noise), strict=True)
    return [value for kept, hidden in pairs for value in [False] * kept + [True] * hidden]


def test_masks_are_as_likely_as_t5s():
    """Length 12, 5 of noise in 2 spans: 4 x 6 masks, all alike likely, and no others."""
    random = np.random.default_rng(0)
    ours = Counter(noise_mask(random, 12, 0.4, 2.5).tobytes() for _ in range(6_000))
    theirs = {np.array(slow_mask(random, 12, 0.4, 2.5)).tobytes() for _ in range(1_000)}
    assert set(ours) == theirs and len(theirs) == 4 * 6
    assert all(near(count / 6_000, 1 / 24, 6_000) for count in ours.values())


def test_t5_hides_15_percent_in_spans_of_3_and_the_text_can_be_put_back():
    sizes = [[568], [300, 200], [64, 64, 440], [500]] * 60
    batch = packed(sizes, 568)
    pairs = corrupt_spans(batch, draws(len(sizes)), ids=IDS)
    hidden = spans = total = 0
    for row in range(len(sizes)):
        reads, says = segments_of(pairs.encoder, row), segments_of(pairs.decoder, row)
        for segment, at in enumerate(runs(batch.segment_ids[row]), 1):
            targets = pairs.decoder.targets[row, pairs.decoder.segment_ids[row] == segment].tolist()
            assert says[segment].tolist() == [IDS.start, *targets[:-1]]  # read one place later
            spans += sum(token in SENTINELS for token in targets)
            hidden += sum(token not in SENTINELS for token in targets) - 1
            total += at.stop - at.start
            assert put_back(reads[segment].tolist(), targets) == batch.tokens[row, at].tolist()
    assert total > 1e5 and near(hidden / total, 0.15, total)
    assert hidden / spans == pytest.approx(3, abs=0.03)
    assert np.array_equal(pairs.decoder.weights, (pairs.decoder.segment_ids > 0).astype(np.float32))
    # T5's own numbers: 568 raw tokens become 512 and 114.
    assert noise_counts(568, 0.15, 3) == (85, 28) and 568 - 85 + 28 + 1 == 512 and 85 + 28 + 1 == 114


@pytest.mark.parametrize("corrupt", [corrupt_spans, mix_denoisers, infill_and_permute])
@settings(max_examples=60, deadline=None)
@given(cuts=st.lists(st.integers(1, 383), max_size=60, unique=True), seed=st.integers(0, 10**6))
def test_nothing_is_cut_however_a_row_is_segmented(corrupt, cuts, seed):
    """And every token is in what the encoder reads or in what the decoder says."""
    ends = [0, *sorted(cuts), 384]
    batch = packed([[b - a for a, b in itertools.pairwise(ends)]], 384)
    pairs = corrupt(batch, draws(1, seed), ids=IDS)  # raises where something does not fit
    reads, says = segments_of(pairs.encoder, 0), segments_of(pairs.decoder, 0)
    if corrupt is infill_and_permute:
        return
    found: list[int] = []
    for segment in reads:
        targets = pairs.decoder.targets[0, pairs.decoder.segment_ids[0] == segment].tolist()
        inputs = reads[segment].tolist()
        found += put_back(inputs[1:] if corrupt is mix_denoisers else inputs, targets)
    assert found == batch.tokens[0].tolist() and says.keys() <= reads.keys()
    short = [size for size in np.diff(ends) if size < SHORTEST]
    assert len(reads) == len(ends) - 1 or short  # only the short ones are joined


@pytest.mark.parametrize("length", [64, 200, 384, 512])
def test_lengths_are_the_worst_rows(length):
    """No row needs more, and some row nearly needs as much: against all partitions into a few kinds of parts."""
    encoder, decoder = lengths(length, ((0.15, 3.0),))
    needs = {
        n: (n - noise + spans + 1, noise + spans + 1)
        for n in range(1, length + 1)
        for noise, spans in [noise_counts(n, 0.15, 3.0)]
    }
    worst = [0, 0]
    for count in range(1, max(1, length // SHORTEST) + 1):
        for extra in range(0, length - SHORTEST * count + 1) if length >= SHORTEST * count else [0]:
            parts = [SHORTEST] * (count - 1) + [min(SHORTEST + extra, length)]
            if sum(parts) <= length:
                worst = [max(w, sum(needs[part][side] for part in parts)) for side, w in enumerate(worst)]
    assert worst[0] <= encoder and worst[1] <= decoder
    assert encoder < worst[0] + 16 and decoder < worst[1] + 16


def test_bart_hides_30_percent_in_poisson_spans():
    random, gone, sizes, total = np.random.default_rng(0), 0, [], 0
    for _ in range(300):
        tokens = np.arange(10_000, 10_500)
        found = infilled(random, tokens, 0.3, 3.0, 3)
        assert len(found) <= len(tokens)
        kept = found[found != 3]
        assert (np.diff(kept) > 0).all()
        gone, total = gone + 500 - len(kept), total + 500
        marks = np.flatnonzero(found == 3)
        assert (np.diff(marks) > 1).all()  # no two spans touch
        ends = np.concatenate([[9_999], found, [10_500]])
        sizes += [int(ends[m + 2] - ends[m] - 1) for m in marks]
    assert gone / total == 0.3
    sizes = np.array(sizes)
    assert near((sizes == 0).mean(), np.exp(-3), len(sizes), 6)  # each text's last span is cut short
    assert sizes.mean() == pytest.approx(3, abs=0.1) and sizes.var() == pytest.approx(3, abs=0.25)


def test_bart_permutes_sentences_and_the_decoder_says_the_text():
    random = np.random.default_rng(0)
    tokens = np.array([100, 101, 10, 200, 11, 300, 301, 302, 12, 400])  # 10 to 12 end sentences
    orders = Counter(tuple(permuted(random, tokens, IDS).tolist()) for _ in range(6_000))
    sentences = [(100, 101, 10), (200, 11), (300, 301, 302, 12), (400,)]
    assert set(orders) == {tuple(itertools.chain(*order)) for order in itertools.permutations(sentences)}
    assert all(near(count / 6_000, 1 / 24, 6_000) for count in orders.values())

    batch = packed([[60, 100, 2, 30]], 200)
    pairs = infill_and_permute(batch, draws(1), ids=IDS, rate=0.3)
    for at in runs(batch.segment_ids[0])[:2]:
        segment = batch.segment_ids[0, at.start]
        whole = batch.tokens[0, at].tolist()
        whole[-1] = END
        mine = pairs.decoder.segment_ids[0] == segment
        assert pairs.decoder.targets[0, mine].tolist() == whole
        assert pairs.decoder.tokens[0, mine].tolist() == [IDS.start, *whole[:-1]]
        reads = segments_of(pairs.encoder, 0)[int(segment)].tolist()
        assert reads[0] == IDS.begin and reads[-1] == END
        assert Counter(reads) - Counter(whole) == Counter({IDS.mask: reads.count(IDS.mask)})


def test_ul2_mixes_seven_denoisers_alike():
    """Table 1, told apart by mode, share of noise and number of spans."""
    batch = packed([[512]] * 1400, 512)
    pairs = mix_denoisers(batch, draws(1400), ids=IDS)
    kinds = {}
    for mode, rate, span in UL2:
        noise, spans = (128, 1) if span is None else noise_counts(512, rate, span)
        kinds[int(IDS.modes[mode]), noise, spans] = (mode, rate, span)
    assert len(kinds) == 7
    found: Counter = Counter()
    for row in range(1400):
        targets = pairs.decoder.targets[row, pairs.decoder.segment_ids[row] > 0].tolist()
        spans = sum(token in SENTINELS for token in targets)
        kind = int(pairs.encoder.tokens[row, 0]), len(targets) - spans - 1, spans
        found[kinds[kind]] += 1
        if kinds[kind][2] is None:  # S: what is said is the text's end
            assert targets[1:-1] == batch.tokens[row, 384:].tolist()
    assert all(near(count / 1400, 1 / 7, 1400) for count in found.values()) and len(found) == 7
    assert (pairs.encoder.tokens.shape[1], pairs.decoder.tokens.shape[1]) == ul2_lengths(512)
