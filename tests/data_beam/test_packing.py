from __future__ import annotations

import numpy as np
import pytest

from data_beam.packing import best_fit, plan
from data_beam.token_format import (
    PART_TOKENS,
    Record,
    document_records,
    join_parts,
    pack_record,
    split_of,
    unpack_record,
)


def slow_best_fit(sizes: list[int], capacity: int) -> list[int]:
    """Best-fit decreasing, one item at a time; what is left in each bin."""
    room: list[int] = []
    for size in sizes:
        fitting = [i for i, left in enumerate(room) if left >= size]
        if fitting:
            room[min(fitting, key=lambda i: room[i])] -= size
        else:
            room.append(capacity - size)
    return room


def test_best_fit_is_the_slow_best_fit():
    draw = np.random.default_rng(0)
    for _ in range(200):
        capacity = int(draw.integers(1, 40))
        sizes = np.sort(draw.integers(1, capacity + 1, int(draw.integers(1, 120))))[::-1]
        bins = best_fit(sizes, capacity)
        left = capacity - np.bincount(bins, weights=sizes).astype(int)
        assert sorted(left) == sorted(slow_best_fit(sizes.tolist(), capacity))


@pytest.mark.parametrize("length", [1, 7, 64])
def test_a_plan_covers_every_pair_once_and_overfills_no_row(length):
    draw = np.random.default_rng(length)
    counts = draw.integers(0, 300, 500)
    pieces, rows = plan(counts, length)
    seen = [np.zeros(max(count - 1, 0), int) for count in counts]
    for record, start, size in pieces.tolist():
        seen[record][start : start + size] += 1
    assert all((covered == 1).all() for covered in seen)
    assert rows[0] == 0 and rows[-1] == len(pieces) and (np.diff(rows.astype(int)) > 0).all()
    held = np.add.reduceat(pieces["length"].astype(int), rows[:-1].astype(int))
    assert held.max() <= length
    short = counts - 1 <= length
    assert (np.bincount(pieces["record"], minlength=500)[short] <= 1).all()  # what fits a row is never cut


def test_padding_is_below_a_thousandth_on_ten_thousand_documents():
    counts = np.random.default_rng(0).lognormal(6, 1.2, 10_000).astype(int) + 2
    pieces, rows = plan(counts, 512)
    assert 1 - pieces["length"].sum() / ((len(rows) - 1) * 512) < 1e-3


def test_no_documents_no_rows():
    for counts in ([], [0, 1]):
        pieces, rows = plan(np.array(counts, int), 8)
        assert len(pieces) == 0 and rows.tolist() == [0]


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@pytest.mark.parametrize("size", [0, 1, 2, PART_TOKENS, PART_TOKENS + 1, PART_TOKENS + 2, 3 * PART_TOKENS + 5])
def test_records_give_the_document_back(dtype, size):
    tokens = np.random.default_rng(size).integers(0, 60_000, size).astype(dtype)
    packed = [pack_record(record) for record in document_records("é-1", tokens, 123, 2**64 - 1)]
    assert len(packed) == max(1, -(-(size - 1) // PART_TOKENS))
    (found,) = join_parts(map(unpack_record, packed))
    assert found[:4] == Record("é-1", 0, 123, 2**64 - 1, tokens)[:4]
    assert np.array_equal(found.tokens, tokens) and found.tokens.dtype == dtype


def test_held_out_is_about_the_fraction_and_moves_with_the_seed():
    def held_out(fraction: float, seed: int) -> set[int]:
        return {i for i in range(4000) if split_of(f"group{i}", fraction, seed) == "held_out"}

    assert not held_out(0.0, 0)
    assert 140 < len(held_out(0.05, 0)) < 260
    assert held_out(0.05, 0) <= held_out(0.1, 0)
    assert held_out(0.05, 0) != held_out(0.05, 1)
