"""Latent attention is attention with the keys and values that its paper writes, in training and from its cache."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maxllm.config.compute import ComputeConfig
from maxllm.config.model import ModelConfig
from maxllm.config.model_parts import LatentAttentionConfig, RopeScalingConfig
from maxllm.models import create
from maxllm.models.attention import Places
from maxllm.models.decoder import KVCache
from maxllm.models.latent_attention import LatentAttention, score_scale
from maxllm.models.rope import rotation
from maxllm.parallel.mesh import single_device_mesh

HIDDEN, HEADS, LENGTH = 16, 3, 9
SHAPES = {
    "values narrower": LatentAttentionConfig(query_rank=6, rank=5, nope_dim=6, rope_dim=4, value_dim=7),
    "values wider, queries straight": LatentAttentionConfig(
        query_rank=None, rank=5, nope_dim=4, rope_dim=2, value_dim=10
    ),
}


def rms(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def as_written(layer: LatentAttention, x: np.ndarray, positions: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Equations 1 to 11 of DeepSeek-V3's paper, one query and one head at a time, in float64."""
    latent = layer.latent
    weight = {".".join(path): np.float64(leaf[...]) for path, leaf in nnx.to_flat_state(nnx.state(layer))}

    def turned(v: np.ndarray, position: int) -> np.ndarray:
        half = latent.rope_dim // 2
        angles = position * 10000.0 ** (-np.arange(half) * 2 / latent.rope_dim)
        a, b = v[:half], v[half:]
        return np.concatenate([a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)])

    out = np.zeros(x.shape)
    for row in range(len(x)):
        h, place = np.float64(x[row]), positions[row]
        c = rms(h @ weight["down.kernel"])
        q_in = rms(h @ weight["query_down.kernel"]) if latent.query_rank else h
        for i in range(LENGTH):
            seen = [j for j in range(i + 1) if segments[row, j] == segments[row, i]]
            for head in range(HEADS):
                q = q_in[i] @ weight["query.kernel"][:, head]
                q = np.concatenate([q[: latent.nope_dim], turned(q[latent.nope_dim :], place[i])])
                scores = []
                for j in seen:
                    k_rope = turned(h[j] @ weight["key_rope.kernel"], place[j])
                    scores.append(q @ np.concatenate([c[j] @ weight["key_up.kernel"][:, head], k_rope]) / len(q) ** 0.5)
                p = np.exp(scores - np.max(scores))
                value = (p / p.sum()) @ (c[seen] @ weight["value_up.kernel"][:, head])
                out[row, i] += value @ weight["output.kernel"][head]
    return out


@pytest.mark.parametrize("name", SHAPES)
def test_packed_rows_give_the_papers_equations(name):
    layer = nnx.jit(lambda: LatentAttention(HIDDEN, HEADS, SHAPES[name], std=0.4, rngs=nnx.Rngs(0)))()
    x = np.random.default_rng(0).normal(size=(2, LENGTH, HIDDEN)).astype(np.float32)
    segments = np.array([[1] * 5 + [2] * 4, [1] * 9], np.int32)
    positions = np.array([[*range(5), *range(4)], range(9)], np.int32)
    places = Places(positions, rotation(jnp.array(positions), SHAPES[name].rope_dim, 10000.0))
    got = jax.jit(layer)(jnp.array(x), places, jnp.array(segments))
    np.testing.assert_allclose(got, as_written(layer, x, positions, segments), atol=2e-5)


def config() -> ModelConfig:
    shape = {"vocab_size": 40, "hidden_size": HIDDEN, "intermediate_size": 24, "num_layers": 2, "num_heads": HEADS}
    return ModelConfig(
        **shape,
        num_kv_heads=HEADS,
        init_std=0.3,
        latent_attention=SHAPES["values narrower"],
        rope_scaling={"kind": "yarn", "factor": 4.0, "original_positions": 4, "mscale": 1.0, "mscale_all_dim": 0.5},
    )


def test_generation_from_the_cache_of_latents_is_the_forward_pass():
    """A few tokens at a time; the cache holds rank + rope_dim numbers of a token and layer."""
    ids = np.random.default_rng(1).integers(0, 40, (2, LENGTH)).astype(np.int32)
    positions = np.tile(np.arange(LENGTH, dtype=np.int32), (2, 1))
    model = create(config(), ComputeConfig(dtype="float32"), single_device_mesh(), seed=0)
    want = nnx.jit(lambda model, *a: model.hidden(*a))(model, ids, positions)
    cache = KVCache.zeros(config(), 2, LENGTH + 1, jnp.float32)
    assert [part.shape[2::2] for part in cache] == [(1, 5), (1, 4)]
    extend = nnx.jit(lambda model, *arrays: model.extend(*arrays))
    for begin in range(0, LENGTH, 3):
        at = slice(begin, begin + 3)
        hidden, cache = extend(model, ids[:, at], positions[:, at], cache)
        np.testing.assert_allclose(hidden, want[:, at], atol=2e-5)


def test_yarn_scales_the_scores_as_deepseek_does():
    """transformers' yarn_apply_mscale: (qk_head_dim ** -0.5) * (0.1 * mscale_all_dim * ln(factor) + 1) ** 2."""
    scaling = RopeScalingConfig(kind="yarn", factor=40.0, mscale=1.0, mscale_all_dim=1.0)
    assert score_scale(LatentAttentionConfig(), scaling) == pytest.approx(192**-0.5 * (0.1 * math.log(40) + 1) ** 2)
    assert score_scale(LatentAttentionConfig(), None) == pytest.approx(192**-0.5)


def test_what_latent_attention_does_not_compute_is_refused():
    with pytest.raises(ValueError, match="query_key_norm does not go with latent_attention"):
        ModelConfig(latent_attention=SHAPES["values narrower"], query_key_norm=True)
