"""The decoder's promises: packed equals unpacked, depth is free to compile, remat changes nothing, names are stable."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maxllm.config.compute import ComputeConfig
from maxllm.config.model import ModelConfig
from maxllm.config.parallel import MeshConfig
from maxllm.models import KVCache, abstract, count_parameters, create
from maxllm.models.remat import REMAT
from maxllm.parallel.mesh import make_mesh, single_device_mesh
from maxllm.parallel.rules import RULES

SMALL = ModelConfig(
    vocab_size=48, hidden_size=32, intermediate_size=40, num_layers=2, num_heads=4, num_kv_heads=2, max_positions=64
)
FLOAT32 = ComputeConfig(dtype="float32")


def small(seed: int = 0, **compute):
    return create(SMALL, FLOAT32.model_copy(update=compute), single_device_mesh(), seed)


def test_llama_3_1_8b_has_its_published_number_of_parameters():
    config = ModelConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_layers=32,
        num_heads=32,
        num_kv_heads=8,
        max_positions=131072,
        rope_theta=500000.0,
    )
    assert count_parameters(config) == 8_030_261_248


def test_a_tied_head_is_the_embedding_transposed():
    tied = SMALL.model_copy(update={"tie_embeddings": True})
    assert count_parameters(SMALL) - count_parameters(tied) == 48 * 32
    model = create(tied, FLOAT32, single_device_mesh(), seed=0)
    hidden = jnp.ones((1, 32))
    np.testing.assert_array_equal(model.logits(hidden), hidden @ model.embed.embedding[...].T)


def test_parameter_names_are_the_ones_converters_know():
    names = {".".join(path): leaf.shape for path, leaf in nnx.to_flat_state(abstract(SMALL)[1])}
    assert names == {
        "embed.embedding": (48, 32),
        "head.kernel": (32, 48),
        "layers.attention.key.kernel": (2, 32, 2, 8),
        "layers.attention.output.kernel": (2, 4, 8, 32),
        "layers.attention.query.kernel": (2, 32, 4, 8),
        "layers.attention.value.kernel": (2, 32, 2, 8),
        "layers.attention_norm.weight": (2, 32),
        "layers.mlp.down.kernel": (2, 40, 32),
        "layers.mlp.gate.kernel": (2, 32, 40),
        "layers.mlp.up.kernel": (2, 32, 40),
        "layers.mlp_norm.weight": (2, 32),
        "norm.weight": (32,),
    }


def test_every_dimension_of_every_parameter_has_a_logical_axis_in_the_table():
    for path, parameter in nnx.to_flat_state(abstract(SMALL)[1]):
        axes = parameter.get_metadata("axes")
        assert len(axes) == len(parameter.shape), path
        assert set(axes) <= set(RULES), path


def test_the_numbers_depend_on_the_seed_and_not_on_the_mesh():
    one = nnx.state(small())
    spread = nnx.state(create(SMALL, FLOAT32, make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)), seed=0))
    jax.tree.map(np.testing.assert_array_equal, one, spread)
    assert not np.array_equal(small(seed=1).embed.embedding[...], one.embed.embedding[...])


def test_packed_documents_give_the_logits_they_give_alone():
    model, lengths = small(), [5, 1, 7]
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 48, (1, 16)), jnp.int32)
    positions = jnp.asarray([[*range(5), *range(1), *range(7), *range(3)]])
    segment_ids = jnp.asarray([[1] * 5 + [2] + [3] * 7 + [0] * 3])
    packed = model(tokens, positions, segment_ids)
    assert packed.dtype == jnp.float32
    begin = 0
    for length in lengths:
        alone = model(tokens[:, begin : begin + length], jnp.arange(length)[None])
        np.testing.assert_allclose(packed[:, begin : begin + length], alone, atol=2e-6)
        begin += length


def test_no_token_sees_the_ones_after_it():
    model = small()
    tokens = jnp.arange(8)[None]
    changed = tokens.at[0, 5].set(40)
    a, b = (model(x, jnp.arange(8)[None]) for x in (tokens, changed))
    np.testing.assert_array_equal(a[:, :5], b[:, :5])
    assert not np.allclose(a[:, 5:], b[:, 5:])


def test_the_cache_gives_what_the_whole_sequence_gives():
    model = small()
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 48, (2, 12)), jnp.int32)
    positions = jnp.tile(jnp.arange(12), (2, 1))
    want = model.hidden(tokens, positions)
    cache = KVCache.zeros(SMALL, 2, 16, jnp.float32)
    parts = []
    for at in (slice(0, 7), slice(7, 8), slice(8, 12)):
        hidden, cache = model.extend(tokens[:, at], positions[:, at], cache)
        parts.append(hidden)
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), want, atol=2e-6)


def test_the_program_does_not_grow_with_depth():
    def equations(layers):
        structure, parameters = abstract(SMALL.model_copy(update={"num_layers": layers}), FLOAT32)
        tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)

        def loss(parameters, tokens):
            return nnx.merge(structure, parameters).hidden(tokens, tokens).sum()

        return str(jax.make_jaxpr(jax.grad(loss))(parameters, tokens)).count(" = ")

    assert equations(2) == equations(40)


@pytest.fixture(scope="module")
def exact():
    return _loss_and_gradients("none")


def _loss_and_gradients(remat):
    model = small(remat=remat)
    structure, parameters = nnx.split(model)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 48, (2, 8)), jnp.int32)

    def loss(parameters):
        return (nnx.merge(structure, parameters)(tokens, jnp.tile(jnp.arange(8), (2, 1))) ** 2).mean()

    return str(jax.make_jaxpr(jax.grad(loss))(parameters)), jax.jit(jax.value_and_grad(loss))(parameters)


@pytest.mark.parametrize("remat", REMAT)
def test_remat_changes_what_is_saved_and_not_what_is_computed(remat, exact):
    program, got = _loss_and_gradients(remat)
    assert "remat" in program and "remat" not in exact[0]
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(exact[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-9)


def test_every_name_a_remat_policy_saves_is_a_name_in_the_model(exact):
    assert all(f"name={name}" in exact[0] for name in REMAT["dots"])


def test_bfloat16_keeps_float32_parameters_and_logits():
    model = small(dtype="bfloat16")
    tokens = jnp.arange(8)[None]
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype("float32")}
    assert model.hidden(tokens, tokens).dtype == jnp.bfloat16
    logits = model(tokens, tokens)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, small()(tokens, tokens), atol=0.02)
