from __future__ import annotations

import random

import numpy as np
import pytest

from maxllm.data.mixture import FINEST, Mixture, permute, shuffled, whole_weights

WEIGHTS = [[1.0], [0.7, 0.3], [1, 1, 1], [0.5, 0.25, 0.2, 0.05], [1000, 1, 1], [3.3, 1.7, 0.9, 2.2, 0.1]]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_every_prefix_has_every_share_to_within_one(weights):
    counts = np.array(whole_weights(weights))
    length = 3 * counts.sum() + 5
    sources, _ = Mixture(weights).locate(np.arange(length))
    seen = np.cumsum(sources[:, None] == np.arange(len(weights)), axis=0)
    wanted = np.arange(1, length + 1)[:, None] * (counts / counts.sum())
    assert np.abs(seen - wanted).max() < 1


def test_shares_hold_for_any_weights():
    draw = random.Random(0)
    for _ in range(15):
        weights = [draw.choice((0.01, 0.1, 0.5, 1, 2, 7)) * draw.randint(1, 9) for _ in range(draw.randint(2, 9))]
        test_every_prefix_has_every_share_to_within_one(weights)


def test_locate_counts_as_one_would_by_hand():
    mixture = Mixture([0.5, 0.25, 0.2, 0.05])
    positions = np.arange(500)
    sources, elements = mixture.locate(positions)
    seen = [0, 0, 0, 0]
    for source, element in zip(sources.tolist(), elements.tolist(), strict=True):
        assert element == seen[source]
        seen[source] += 1
    again = np.random.default_rng(0).permutation(positions)
    for found, whole in zip(mixture.locate(again), (sources, elements), strict=True):
        np.testing.assert_array_equal(found, whole[again])


def test_weights_are_taken_as_written_and_none_is_lost():
    assert whole_weights([0.7, 0.3]) == [7, 3]
    assert whole_weights([2, 2]) == [1, 1]
    rounded = whole_weights([1 / 3, 2 / 3, 1e-9])
    assert sum(rounded) <= FINEST + 3 and rounded[2] == 1
    assert rounded[0] / rounded[1] == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 100, 1000, 4097])
def test_a_permutation_visits_everything_once(size):
    for key in range(3):
        assert sorted(permute(np.arange(size), size, key).tolist()) == list(range(size))


def test_a_permutation_looks_random():
    size = 10_000
    order = permute(np.arange(size), size, 7)
    assert abs(np.corrcoef(order, np.arange(size))[0, 1]) < 0.05
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05
    assert (order == permute(np.arange(size), size, 8)).mean() < 0.01


def test_every_epoch_is_whole_and_in_its_own_order():
    size = 37
    rows = shuffled(np.arange(4 * size), size, (0, "train", "code")).reshape(4, size)
    assert all(sorted(epoch) == list(range(size)) for epoch in rows.tolist())
    assert len({tuple(epoch) for epoch in rows.tolist()}) == 4
    other = shuffled(np.arange(size), size, (1, "train", "code"))
    assert tuple(other) != tuple(rows[0])


def test_huge_data_sets_are_addressed_without_lists():
    size = 10**12
    rows = permute(np.arange(1000), size, 1)
    assert len(set(rows.tolist())) == 1000 and rows.max() > size // 2
