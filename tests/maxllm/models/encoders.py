"""Tiny encoders, and packed rows for them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from maxllm.batch import Batch
from maxllm.config.compute import ComputeConfig
from maxllm.config.model import ModelConfig
from maxllm.models import abstract
from maxllm.parallel.mesh import single_device_mesh
from maxllm.parallel.rules import shardings

WORDS, LENGTHS = 48, ((5, 8), (7, 3, 4))  # segments of two rows of 16, the rest padding
BERT = ModelConfig(
    architecture="encoder",
    family="bert",
    vocab_size=WORDS,
    hidden_size=32,
    intermediate_size=40,
    num_layers=2,
    num_heads=4,
    num_kv_heads=4,
    max_positions=32,
    positions="learned",
    norm="layer",
    norm_placement="post",
    activation="gelu",
    gated=False,
    biases=("query_key_value", "output", "mlp"),
    embedding_norm=True,
    tie_embeddings=True,
    init_std=0.2,
    encoder={"head": "next_sentence", "type_vocab_size": 2},
)


def changed(**settings: Any) -> ModelConfig:
    return ModelConfig(**BERT.model_dump() | settings)


DEBERTA_V1 = changed(positions="disentangled", encoder={"relative_positions": 4, "key_bias": False})
DEBERTA_V3 = changed(
    positions="disentangled",
    encoder={
        "relative_positions": 16,
        "position_buckets": 4,
        "share_attention": True,
        "relative_norm": True,
        "mask_decoder_layers": 2,
    },
)
ELECTRA = changed(
    encoder={"head": "replaced", "type_vocab_size": 2, "embedding_size": 16, "generator_factor": 0.5},
)


def model(config: ModelConfig = BERT, mesh: Any = None) -> nnx.Module:
    """With every parameter random, biases and norms too, made by NumPy: compiling `create` takes longer than a test."""
    structure, parameters = abstract(config, ComputeConfig(dtype="float32"))
    random, found = np.random.default_rng(0), []
    for path, leaf in nnx.to_flat_state(parameters):
        noise = 0.2 * random.normal(size=leaf.shape).astype(np.float32)
        found.append((path, leaf.replace(1 + noise if path[-1] == "weight" else noise)))
    state = nnx.from_flat_state(found)
    return nnx.merge(structure, jax.device_put(state, shardings(parameters, mesh or single_device_mesh())))


def packed(rows: int = 2, seed: int = 0) -> Batch:
    """Rows of `LENGTHS`, again and again; a third of the words masked, labels 0 or 1 at each text's beginning."""
    random, shape = np.random.default_rng(seed), (rows, 16)
    segments, positions = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for row in range(rows):
        begin = 0
        for number, length in enumerate(LENGTHS[row % 2], start=1):
            segments[row, begin : begin + length] = number
            positions[row, begin : begin + length] = np.arange(length)
            begin += length
    begins = (segments > 0) & (positions == 0)
    weights = (random.random(shape) < 0.3) & (segments > 0)
    batch = Batch(
        tokens=random.integers(1, WORDS, shape),
        targets=random.integers(1, WORDS, shape) * weights,
        segment_ids=segments,
        positions=positions,
        weights=weights.astype(np.float32),
        types=(positions > 3).astype(np.int32),
        labels=np.where(begins, random.integers(0, 2, shape), -1),
        noise=random.integers(0, 2**31, (rows, 1)),
    )
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32 if x.dtype == np.float32 else jnp.int32), batch)


def alone(batch: Batch) -> Batch:
    """Each segment of `batch` at the beginning of a row of its own, in the order of `texts`."""

    def one(x: jax.Array, at: np.ndarray, row: int) -> jax.Array:
        return x[row] if x.shape[1] == 1 else jnp.pad(x[row, at], (0, x.shape[1] - len(at)))

    rows = [(at, row) for row, at in texts(batch)]
    found = jax.tree.map(lambda x: jnp.stack([one(x, *row) for row in rows]), batch)
    return found._replace(segment_ids=(found.segment_ids > 0).astype(jnp.int32))


def texts(batch: Batch) -> list[tuple[int, np.ndarray]]:
    """(row, places in it) of each segment."""
    ids = np.asarray(batch.segment_ids)
    return [(row, np.flatnonzero(ids[row] == n)) for row in range(len(ids)) for n in range(1, ids[row].max() + 1)]


def empty(rows: int) -> Batch:
    """Padding."""
    return jax.tree.map(lambda x: jnp.zeros_like(x[:rows]), packed())
