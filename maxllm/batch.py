"""The batch contract: what a loader yields and an objective consumes.

A `NamedTuple`, so JAX sees a pytree and NumPy code needs no JAX.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

# np.ndarray on the host, jax.Array on a device, jax.ShapeDtypeStruct when compiling ahead of time.
Array = Any


class Batch(NamedTuple):
    """One step's packed sequences, every field `[batch, length]` unless it says otherwise.

    Segment 0 is padding: its weight is 0 and nothing attends to it. Real segments count from 1 within a
    row, and positions restart at 0 with each segment, so that packed and unpacked give the same numbers.
    """

    tokens: Array  # int32
    targets: Array  # int32, the token that follows; 0 where weights are 0
    segment_ids: Array  # int32, 0 = padding
    positions: Array  # int32, from 0 within the segment
    weights: Array  # float32, 0 where the target does not count
    domains: Array | None = None  # int32 `[batch, 1]`: which source a row is from, in the order of their names
    types: Array | None = None  # int32: BERT's token types
    labels: Array | None = None  # int32 `[batch, length]`: a class for each token, or for each segment at its first one
    prefix: Array | None = None  # int32 `[batch, length]`: 1 in a segment's beginning that all of the segment sees
    noise: Array | None = None  # int32 `[batch, 1]`: a seed of each row, for objectives that draw on the device


class EncoderDecoderBatch(NamedTuple):
    """One step's pairs. Segment k of a decoder's row attends to segment k of the same row of the encoder's."""

    encoder: Batch  # its targets and weights are not used
    decoder: Batch


def empty_batch(batch: int, length: int) -> Batch:
    """An all-padding NumPy batch of `[batch, length]`."""
    shape = (batch, length)
    tokens, targets, segment_ids, positions = (np.zeros(shape, np.int32) for _ in range(4))
    return Batch(tokens, targets, segment_ids, positions, np.zeros(shape, np.float32))


def texts_per_row(length: int) -> int:
    """How many texts, in pairs, a row of pairs holds at most: what is compared has to have a shape."""
    return 2 * max(1, length // 64)
