"""Encoder-decoders: T5's distances, pairs packed together, what is refused. Equality with transformers: ../families."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from pydantic import ValidationError

from maxllm.batch import Batch, EncoderDecoderBatch, empty_batch
from maxllm.config.errors import UserError
from maxllm.config.model import ModelConfig
from maxllm.config.parallel import MeshConfig
from maxllm.models import count_parameters
from maxllm.models.encoder_decoder import EncoderDecoder
from maxllm.models.relative_bias import RelativeBias, buckets
from maxllm.parallel.rules import check_layout

SHAPE = {
    "architecture": "encoder_decoder",
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 4,
    "max_positions": 32,
    "tie_embeddings": True,
    "init_std": 0.3,
}
T5 = SHAPE | {
    "head_dim": 6,
    "positions": "relative",
    "attention_scale": 1.0,
    "activation": "gelu_tanh",
    "encoder_decoder": {"num_encoder_layers": 3, "relative_buckets": 8, "relative_distance": 12, "head_scale": 0.25},
}
BART = SHAPE | {
    "positions": "learned",
    "norm": "layer",
    "norm_placement": "post",
    "embedding_norm": True,
    "embedding_scale": 4.0,
    "gated": False,
    "activation": "gelu",
    "biases": ("query_key_value", "output", "mlp"),
    "encoder_decoder": {"num_encoder_layers": 1, "position_offset": 2, "start_id": 2},
}
MODELS = {"t5": T5, "bart": BART}
LENGTHS = [(5, 3), (4, 6), (7, 2)]  # of pairs: read, written


def side(texts: list[np.ndarray], length: int, rows: list[list[int]]) -> Batch:
    """`texts` packed: row i holds those of `rows[i]`, as segments 1, 2, ..."""
    batch = empty_batch(len(rows), length)
    for row, numbers in enumerate(rows):
        begin = 0
        for segment, number in enumerate(numbers, start=1):
            at = slice(begin, begin := begin + len(texts[number]))
            batch.tokens[row, at] = texts[number]
            batch.targets[row, at] = (7 * texts[number] + 3) % 40
            batch.segment_ids[row, at] = segment
            batch.positions[row, at] = np.arange(len(texts[number]))
            batch.weights[row, at] = 0.5 + number
    return batch


def pairs(rows: list[list[int]], read: int, written: int) -> EncoderDecoderBatch:
    generator = np.random.default_rng(0)
    texts = [[generator.integers(0, 40, length) for length in lengths] for lengths in zip(*LENGTHS, strict=True)]
    return EncoderDecoderBatch(side(texts[0], read, rows), side(texts[1], written, rows))


@pytest.mark.parametrize("name", ["t5", pytest.param("bart", marks=pytest.mark.slow)])
def test_packed_equals_unpacked_forward_and_gradients(name):
    structure, parameters = nnx.split(EncoderDecoder(ModelConfig(**MODELS[name]), rngs=nnx.Rngs(0)))

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def gradients_and_logits(parameters, batch):
        logits = nnx.merge(structure, parameters)(batch)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.decoder.targets)
        return (losses * batch.decoder.weights).sum(), logits

    alone, together = pairs([[0], [1], [2]], 18, 12), pairs([[0, 1, 2], [], []], 18, 12)
    gradients, logits = gradients_and_logits(parameters, alone)
    packed_gradients, packed_logits = gradients_and_logits(parameters, together)
    unpacked = np.concatenate([logits[number, :written] for number, (_, written) in enumerate(LENGTHS)])
    np.testing.assert_allclose(packed_logits[0, : len(unpacked)], unpacked, atol=2e-5)
    # A bias of keys moves all of a query's scores alike: its gradient is zero, and rounding.
    rounding = 1e-7 * max(np.linalg.norm(leaf) for leaf in jax.tree.leaves(gradients))
    for path, leaf in nnx.to_flat_state(gradients):
        want, got = leaf[...], dict(nnx.to_flat_state(packed_gradients))[path][...]
        assert np.linalg.norm(want) > 0, path
        assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want) + rounding, path


def test_a_decoder_sees_all_that_was_read_and_nothing_that_it_has_yet_to_write():
    model = EncoderDecoder(ModelConfig(**T5), rngs=nnx.Rngs(1))
    structure, parameters = nnx.split(model)
    run = jax.jit(lambda batch: nnx.merge(structure, parameters)(batch))
    before = pairs([[1]], 4, 6)
    logits = run(before)
    last_read = before.encoder.tokens.copy()
    last_read[0, -1] += 1
    assert not np.allclose(run(before._replace(encoder=before.encoder._replace(tokens=last_read)))[0, 0], logits[0, 0])
    last_written = before.decoder.tokens.copy()
    last_written[0, -1] += 1
    changed = run(before._replace(decoder=before.decoder._replace(tokens=last_written)))
    np.testing.assert_array_equal(changed[0, :-1], logits[0, :-1])
    assert not np.allclose(changed[0, -1], logits[0, -1])


def test_distances_fall_into_t5s_buckets():
    """Where each bucket begins for 32 buckets up to distance 128, as transformers 5.23 has it."""
    far = np.arange(1, 3000)
    begins = [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]
    expected = np.searchsorted(begins, far, side="right")
    options = {"count": 32, "max_distance": 128}
    np.testing.assert_array_equal(buckets(-far, bidirectional=True, **options), expected)
    np.testing.assert_array_equal(buckets(far, bidirectional=True, **options), expected + 16)
    begins = [*range(1, 17), 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113]
    expected = np.searchsorted(begins, far, side="right")
    np.testing.assert_array_equal(buckets(-far, bidirectional=False, **options), expected)
    assert not buckets(np.arange(5), bidirectional=False, **options).any()


def test_a_bias_before_a_cache_is_the_bias_by_distance():
    bias = RelativeBias(8, 3, max_distance=12, bidirectional=False, std=1.0, rngs=nnx.Rngs(0))
    positions = jnp.array([[4, 5], [0, 8]])
    got = bias.at(positions, 9)
    for row, at in np.ndindex(2, 2):
        distances = np.arange(9) - int(positions[row, at])
        bucket = buckets(distances, bidirectional=False, count=8, max_distance=12)
        np.testing.assert_array_equal(got[row, :, at], bias.table[...][bucket].T)


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"positions": "rope"}, "positions rope"),
        ({"window": 4}, "window: encoder-decoders have none"),
        ({"encoder_decoder": {"relative_buckets": 30}}, "buckets come in fours"),
        ({"encoder_decoder": {"forced_id": 40}}, "token 40 to begin with"),
    ],
)
def test_what_is_not_computed_is_refused(changes, why):
    with pytest.raises(ValidationError, match=why):
        ModelConfig(**T5 | changes)


def test_two_stacks_are_not_spread_over_stages():
    with pytest.raises(UserError, match="mesh.stage = 2"):
        check_layout(ModelConfig(**T5), MeshConfig(stage=2))


def test_parameters_are_as_many_as_published():
    """T5 small and 11B, BART large, of transformers' `num_parameters()`."""
    t5 = T5 | {"vocab_size": 32128, "gated": False, "activation": "relu", "encoder_decoder": {}}
    bart = BART | {"vocab_size": 50265, "hidden_size": 1024, "intermediate_size": 4096, "max_positions": 1024}

    def count(config, layers: int, **sizes: int) -> int:
        pair = config["encoder_decoder"] | {"num_encoder_layers": layers}
        return count_parameters(ModelConfig(**config | sizes | {"num_layers": layers, "encoder_decoder": pair}))

    t5["encoder_decoder"] = {"relative_buckets": 32}
    small = {"hidden_size": 512, "intermediate_size": 2048, "num_heads": 8, "num_kv_heads": 8, "head_dim": 64}
    largest = {"hidden_size": 1024, "intermediate_size": 65536, "num_heads": 128, "num_kv_heads": 128, "head_dim": 128}
    assert count(t5, 6, **small) == 60_506_624
    assert count(t5, 24, **largest) == 11_307_321_344
    assert count(bart, 12, num_heads=16, num_kv_heads=16) == 406_291_456
