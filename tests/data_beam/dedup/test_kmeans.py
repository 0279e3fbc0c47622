"""k-means on Beam: the centres of a slow twin in whole numbers, bit for bit, on any number of workers."""

import json
import math
import random

import apache_beam as beam
import numpy as np
import pytest
import xxhash
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from hypothesis import given
from hypothesis import strategies as st

from data_beam.dedup.kmeans import KMeans, clusters_for, draw, moved, nearest
from data_beam.embed.fixed import SCALE, fixed, pack, products


def number(name: str, seed: int) -> int:
    return xxhash.xxh3_64_intdigest(name.encode(), seed=seed) >> 1


def slow_centres(vectors: dict[str, list[int]], clusters: int, rounds: int, seed: int) -> list[list[int]]:
    """Lists of whole numbers only, one document after the other. All documents are in the sample."""
    slots: dict[int, tuple[int, str]] = {}
    for name in vectors:
        slot, drawn = number(name, seed + 1) % clusters, (number(name, seed), name)
        slots[slot] = min(slots.get(slot, drawn), drawn)
    centres = [vectors[slots[slot][1]] for slot in sorted(slots)]
    for _ in range(rounds):
        sums: dict[int, list[int]] = {}
        for vector in vectors.values():
            best = nearest_slowly(vector, centres)
            sums[best] = [a + b for a, b in zip(sums.get(best, [0] * len(vector)), vector, strict=True)]
        for best, total in sums.items():
            length = math.sqrt(sum(value * value for value in total))
            if length:
                centres[best] = [round(value * (SCALE / length)) for value in total]
    return centres


def nearest_slowly(vector: list[int], centres: list[list[int]]) -> int:
    scores = [sum(a * b for a, b in zip(vector, centre, strict=True)) for centre in centres]
    return scores.index(max(scores))


def vectors_of(count: int, dimension: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {f"n{i:04d}": row for i, row in enumerate(fixed(rng.normal(size=(count, dimension))))}


def on_beam(folder, vectors: dict[str, np.ndarray], clusters, rounds: int, *options: str) -> list:
    folder.mkdir(exist_ok=True)
    pipeline = beam.Pipeline(runner=FnApiRunner(), options=PipelineOptions(list(options)))
    (
        pipeline
        | beam.Create([(name, pack(vector)) for name, vector in vectors.items()], reshuffle=False)
        | KMeans(clusters, rounds, seed=3)
        | beam.Map(lambda centres: json.dumps(centres.tolist()))
        | beam.io.WriteToText(str(folder / "out"))
    )
    pipeline.run().wait_until_finish()
    (line,) = [line for path in folder.glob("out*") for line in path.read_text().splitlines()]
    return json.loads(line)


@pytest.mark.parametrize("rounds", [0, 1, 4])
def test_centres_are_those_of_the_slow_twin(tmp_path, rounds):
    vectors = vectors_of(90)
    expected = slow_centres({name: row.tolist() for name, row in vectors.items()}, 7, rounds, 3)
    assert on_beam(tmp_path, vectors, 7, rounds) == expected


def test_centres_are_the_same_in_any_order_and_on_any_number_of_workers(tmp_path):
    vectors = vectors_of(3000)
    names = random.Random(4).sample(list(vectors), len(vectors))
    shuffled = {name: vectors[name] for name in names}
    workers = ("--direct_num_workers=2", "--direct_running_mode=multi_threading")
    one = on_beam(tmp_path / "one", vectors, 54, 2)
    assert len(one) == 54
    assert on_beam(tmp_path / "two", shuffled, 54, 2, *workers) == one


def test_clusters_are_the_square_root_but_not_smaller_than_is_quickly_compared():
    counts = {0: 1, 3999: 1, 4000: 2, 1_000_000: 500, 100_000_000: 10_000}
    assert {documents: clusters_for(documents, None) for documents in counts} == counts
    assert clusters_for(10, 7) == 7


def test_training_uses_about_256_documents_a_cluster(tmp_path, monkeypatch):
    from data_beam.dedup import kmeans

    names = [f"n{i}" for i in range(20_000)]
    sampled = [vector for name in names for vector in kmeans._sampled((name, b""), 20_000, 10, 1)]
    assert 2300 < len(sampled) < 2820  # 2,560 ± 5 standard deviations
    assert all(len(list(kmeans._sampled((name, b""), 2560, 10, 1))) == 1 for name in names[:2560])


def test_of_no_vectors_there_are_no_centres(tmp_path):
    assert on_beam(tmp_path, {}, None, 1) == []


def test_a_centre_that_nothing_came_to_stays():
    centres = np.array([[1, 2], [3, 4], [5, 6]], np.int16)
    fresh = ([0, 2], np.array([[7, 8], [0, 0]], np.int16))
    assert moved(fresh, centres).tolist() == [[7, 8], [3, 4], [5, 6]]
    assert centres[0].tolist() == [1, 2]


def test_a_draw_does_not_depend_on_where_in_a_run_a_document_lies():
    assert draw("2000\x1fabc@0000001.000000002", 1) == draw("2000\x1fabc", 1) != draw("2000\x1fabc", 2)


def test_nearest_takes_the_first_of_equals():
    centres = np.array([[0, 4000], [4000, 0], [4000, 0]], np.int16)
    numbers, scores = nearest(np.array([[3000, 2646], [0, -4000]], np.int16), centres)
    assert numbers.tolist() == [1, 1] and scores.tolist() == [12_000_000, 0]


@given(st.integers(1, 3000), st.integers(0, 2**32 - 1))
def test_products_are_exact_whatever_adds_them_up(dimension, seed):
    rng = np.random.default_rng(seed)
    vectors = fixed(np.vstack([rng.normal(size=(3, dimension)), np.ones((1, dimension)), -np.ones((1, dimension))]))
    wide = vectors.astype(np.int64)
    assert products(vectors, vectors).astype(np.int64).tolist() == (wide @ wide.T).tolist()


def test_cosines_are_kept_to_a_few_ten_thousandths():
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(200, 384))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    rounded = fixed(vectors).astype(float)
    rounded /= np.linalg.norm(rounded, axis=1, keepdims=True)
    error = rounded @ rounded.T - unit @ unit.T
    assert np.abs(error).max() < 6e-4 and error.std() < 1.2e-4
    assert fixed(np.zeros((1, 4))).tolist() == [[0, 0, 0, 0]]
