"""A prefix is seen by all of its segment; behind it nobody looks ahead."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxllm.config.errors import UserError
from maxllm.kernels import attention_blocks, attention_choice, attention_mapped
from maxllm.kernels.attention import attention
from maxllm.kernels.masking import CAUSAL, Masking

IDS = np.array([[1] * 9 + [2] * 1 + [3] * 13 + [0] * 4, [1] * 27])
PREFIX = np.array([[1] * 4 + [0] * 5 + [1] + [1] * 13 + [0] * 4, [1] + [0] * 26])


def inputs(heads: int = 4, kv_heads: int = 2, head_dim: int = 8):
    random = np.random.default_rng(0)
    return [
        jnp.asarray(random.normal(size=(*IDS.shape, n, head_dim)), jnp.float32)
        for n in (heads, kv_heads, kv_heads, heads)
    ]


def seen(row: int, query: int, window: int | None) -> list[int]:
    ids, marks = IDS[row], PREFIX[row]
    near = range(len(ids)) if window is None else range(query - window + 1, query + window)
    return [k for k in near if 0 <= k < len(ids) and ids[k] == ids[query] and (k <= query or marks[query] and marks[k])]


@pytest.mark.parametrize("backend, window", [("reference", None), ("mapped", 3), ("blockwise", None)])
def test_the_prefix_is_seen_both_ways(backend, window, monkeypatch):
    """Against the definition, one query at a time, in float64; and the gradients are those of the definition."""
    monkeypatch.setattr(attention_blocks, "BLOCK", 6)
    monkeypatch.setattr(attention_mapped, "BLOCK", 6)
    query, key, value, cotangent = inputs()
    allowed = np.zeros((*IDS.shape, IDS.shape[1]), bool)
    for row, q in np.ndindex(*IDS.shape):
        allowed[row, q, seen(row, q, window)] = True

    def plain(query, key, value):
        key, value = (jnp.repeat(x, 2, axis=2) for x in (key, value))
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(8)
        weights = jax.nn.softmax(jnp.where(allowed[:, None], scores, -jnp.inf), axis=-1)
        return jnp.einsum("bhqk,bkhd->bqhd", weights, value)

    def ours(query, key, value):
        masking = Masking(window=window)
        return attention(
            query,
            key,
            value,
            segment_ids=jnp.asarray(IDS),
            prefix=jnp.asarray(PREFIX),
            masking=masking,
            backend=backend,
        )

    def values(run):
        output, pull = jax.vjp(run, query, key, value)
        return output, *pull(cotangent)

    for got, want in zip(jax.jit(lambda: values(ours))(), values(plain), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("platform, kind", [("tpu", "TPU v5e"), ("gpu", "NVIDIA H200")])
def test_kernels_without_prefixes_are_passed_over(platform, kind):
    asked = attention_choice.Asked(platform, kind, 512, 2, 128, "bfloat16", True, CAUSAL._replace(prefix=True))
    for name in ("splash", "cudnn"):
        with pytest.raises(UserError, match="prefix|kernel for"):
            attention_choice.choose(name, asked)
    plain = asked._replace(masking=CAUSAL)
    assert attention_choice._chosen("auto", asked) != attention_choice._chosen("auto", plain)
