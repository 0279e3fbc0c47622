from __future__ import annotations

import math

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from data_beam.quantiles import Quantiles, sortable, unsorted

FRACTIONS = [0.0, 0.05, 1 / 3, 0.5, 0.95, 1.0]


def obvious(scores: list[float], fraction: float) -> float:
    ranked = sorted(np.float32(scores).tolist())
    return ranked[min(int(fraction * len(ranked)), len(ranked) - 1)]


def test_bits_sort_as_floats_do():
    scores = [-math.inf, -3.5, -1e-30, -0.0, 0.0, 1e-30, 0.1, 1.0, 1.0000001, 5e4, math.inf, math.nan]
    bits = [sortable(score) for score in scores]
    assert bits == sorted(bits) and sortable(-0.0) == sortable(0.0)
    assert [unsorted(sortable(score)) for score in scores[:-1]] == np.float32(scores[:-1]).tolist()
    assert math.isnan(unsorted(sortable(math.nan)))


@pytest.mark.parametrize("seed", range(3))
def test_quantiles_are_items_of_a_sorted_list(seed):
    draw = np.random.default_rng(seed)
    groups = {
        "spread": draw.lognormal(5, 2, 501).tolist(),
        "crowded": (1 - draw.random(400) * 1e-4).tolist(),
        "tied": draw.integers(0, 3, 90).astype(float).tolist(),
        "negative": draw.normal(0, 1, 64).tolist(),
        "single": [0.25],
    }
    expected = [(key, [obvious(scores, each) for each in FRACTIONS]) for key, scores in groups.items()]
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        items = [(key, score) for key, scores in groups.items() for score in scores]
        assert_that(pipeline | beam.Create(items) | Quantiles(FRACTIONS), equal_to(expected))
