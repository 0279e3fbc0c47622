"""A mixture of experts: what the router says, who is dropped, and the shapes of the published models."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maxllm.config.errors import UserError
from maxllm.config.load import resolve
from maxllm.config.model import ModelConfig
from maxllm.config.parallel import MeshConfig
from maxllm.config.train import TrainConfig
from maxllm.models import count_parameters
from maxllm.models.decoder import Decoder, KVCache
from maxllm.models.moe import MoE, capacity_of
from maxllm.parallel.mesh import make_mesh
from maxllm.parallel.rules import check_layout
from maxllm.train.flops import flops_per_token

EMBED, MLP, EXPERTS, CHOSEN = 8, 12, 4, 2
ROWS, LENGTH = 2, 10


@functools.cache
def layer(capacity_factor=None) -> MoE:
    return MoE(EMBED, MLP, EXPERTS, CHOSEN, capacity_factor=capacity_factor, std=0.5, rngs=nnx.Rngs(0))


def tokens() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(ROWS, LENGTH, EMBED)).astype(np.float32)


def token_by_token(moe: MoE, x: np.ndarray, capacity: int = LENGTH, padding=None) -> np.ndarray:
    """One token after another, in float64, as the papers write it."""
    router, gate, up, down = (np.float64(p[...]) for p in (moe.router.kernel, moe.gate, moe.up, moe.down))
    out = np.zeros(x.shape)
    for row in range(len(x)):
        taken = np.zeros(EXPERTS, int)
        for place, token in enumerate(np.float64(x[row])):
            if padding is not None and padding[row, place]:
                continue
            logits = token @ router
            best = np.argsort(-logits)[:CHOSEN]
            weights = np.exp(logits[best]) / np.exp(logits[best]).sum()
            for expert, weight in zip(best, weights, strict=True):
                taken[expert] += 1
                if taken[expert] <= capacity:
                    wide = token @ gate[expert]
                    out[row, place] += weight * ((wide / (1 + np.exp(-wide)) * (token @ up[expert])) @ down[expert])
    return out


@pytest.mark.parametrize("factor", [None, 0.6])
def test_it_is_the_weighted_sum_of_the_chosen_experts_that_have_room(factor):
    moe, x = layer(factor), tokens()
    segment_ids = np.ones((ROWS, LENGTH), np.int32)
    segment_ids[:, :2] = segment_ids[1, 6:] = 0
    capacity = LENGTH if factor is None else capacity_of(LENGTH, EXPERTS, CHOSEN, factor)
    want = token_by_token(moe, x, capacity, padding=segment_ids == 0)
    np.testing.assert_allclose(jax.jit(moe)(jnp.array(x), segment_ids)[0], want, atol=1e-5)
    if factor:
        # Choices were dropped, and padding, which comes first in these rows, took no places.
        assert np.abs(want - token_by_token(moe, x, padding=segment_ids == 0)).max() > 0.1
        assert np.abs(want - token_by_token(moe, x, capacity)).max() > 0.1
        np.testing.assert_allclose(
            moe(jnp.array(x), segment_ids, dropless=True)[0], layer()(jnp.array(x), segment_ids)[0], atol=1e-6
        )


def test_a_tokens_fate_does_not_hang_on_later_ones():
    moe, x = layer(0.6), tokens()
    changed = x.copy()
    changed[:, 6:] *= -1
    np.testing.assert_array_equal(moe(jnp.array(changed))[0][:, :6], moe(jnp.array(x))[0][:, :6])


def test_an_expert_has_places_for_its_share_and_never_more_than_tokens():
    assert capacity_of(4096, 8, 2, 1.25) == 1280
    assert capacity_of(10, 4, 2, 1.0) == 5
    assert capacity_of(1, 8, 2, 1.0) == 1
    assert capacity_of(10, 4, 2, 100.0) == 10


def config(**changes) -> ModelConfig:
    shape = {"vocab_size": 64, "hidden_size": EMBED, "intermediate_size": MLP, "num_layers": 2, "num_heads": 2}
    return ModelConfig(**shape | {"num_kv_heads": 1, "num_experts": EXPERTS, "init_std": 0.3} | changes)


def test_generation_with_a_cache_is_the_dropless_forward_pass():
    """A prompt padded at its end and then one token at a time, which no capacity may drop."""
    ids = np.random.default_rng(1).integers(0, 64, (2, 9)).astype(np.int32)
    positions = np.tile(np.arange(9, dtype=np.int32), (2, 1))
    want = Decoder(config(), rngs=nnx.Rngs(0)).hidden(ids, positions)
    model = Decoder(config(capacity_factor=0.5), rngs=nnx.Rngs(0))
    cache = KVCache.zeros(config(), 2, 12, jnp.float32)
    extend = nnx.jit(lambda model, *arrays: model.extend(*arrays))
    padded = np.where(np.arange(9) < 6, positions, 12)  # 12: beyond the cache, written nowhere
    hidden, cache = extend(model, ids, padded, cache)
    np.testing.assert_allclose(hidden[:, :6], want[:, :6], atol=1e-5)
    for place in range(6, 9):
        at = slice(place, place + 1)
        hidden, cache = extend(model, ids[:, at], positions[:, at], cache)
        np.testing.assert_allclose(hidden, want[:, at], atol=1e-5)


PUBLISHED = {
    "llama3.1-8b": 8_030_261_248,
    "llama3.1-70b": 70_553_706_496,
    "llama3.1-405b": 405_853_388_800,
    "llama2-70b": 68_976_648_192,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_620_634_112,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_has_the_published_number_of_parameters(name):
    model = resolve(TrainConfig, f"models/{name}", []).config.model
    assert count_parameters(model) == PUBLISHED[name]


def test_only_the_chosen_experts_are_counted_as_work():
    model = resolve(TrainConfig, "models/mixtral-8x7b", []).config.model
    active = 12_879_925_248  # Mixtral's 12.9 billion
    attention = 6 * 32 * 32 * 128 * 4096
    assert flops_per_token(model, 4096) == 6.0 * (active - 32000 * 4096) + attention


def test_settings_and_layouts_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="experts_per_token 2 of only 1"):
        config(num_experts=1)
    with pytest.raises(UserError, match=r"model.num_experts 4 is not divisible by mesh.expert = 8"):
        check_layout(config(num_heads=8, num_kv_heads=8, head_dim=2), MeshConfig(expert=8, fsdp=1))


def test_pipeline_stages_under_vmap_work_at_the_same_time():
    """As a pipeline runs its layers: one copy for each stage, each on its own devices, none waiting for another."""
    structure, _ = nnx.split(layer())
    layers = [
        nnx.split(MoE(EMBED, MLP, EXPERTS, CHOSEN, capacity_factor=None, std=0.5, rngs=nnx.Rngs(i)))[1] for i in (0, 1)
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    x = jnp.stack([tokens(), -tokens()])
    run = lambda layer, x: nnx.merge(structure, layer)(x)[0]  # noqa: E731
    with jax.set_mesh(make_mesh(MeshConfig(stage=2, expert=2, tensor=2, fsdp=1))):
        stages = jax.jit(jax.vmap(run, spmd_axis_name="stage")).lower(stacked, x).compile()
        got = stages(stacked, x)
    np.testing.assert_allclose(got, np.stack([run(*one) for one in zip(layers, x, strict=True)]), atol=1e-5)
    assert f"f32[2,{ROWS * LENGTH * CHOSEN}," not in stages.as_text()  # no device works for both
