"""What is handed to cuDNN, checked against a slow reading of what cuDNN's packed layout means.

There is no GPU here. The two operations that JAX turns into cuDNN calls are given a second implementation, for CPUs:
an attention that finds each segment at the offsets it is given, as elements of the flat arrays, and leaves NaN
wherever no segment is, as cuDNN leaves whatever was in memory.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as library
from jax._src.interpreters import mlir

from maxllm.kernels.attention_cudnn import cudnn
from maxllm.kernels.attention_reference import reference
from maxllm.kernels.masking import Masking

CAUSAL = (library.MaskType.CAUSAL, library.MaskType.PADDING_CAUSAL)


def segment(query, key, value, cotangent, scale, causal, window):
    """One segment of one batch: output, log-sum-exp `[heads, length]`, gradients; float64."""
    group = query.shape[1] // key.shape[1]
    keys, values = (np.repeat(x, group, axis=1).astype(np.float64) for x in (key, value))
    scores = np.einsum("qhd,khd->hqk", query.astype(np.float64), keys) * scale
    distance = np.arange(len(query))[:, None] - np.arange(len(query))
    hidden = (distance < 0) & causal | (distance >= (window or len(query)))
    scores = np.where(hidden, -np.inf, scores)
    top = scores.max(-1, keepdims=True)
    denominator = top + np.log(np.exp(scores - top).sum(-1, keepdims=True))
    weights = np.exp(scores - denominator)
    output = np.einsum("hqk,khd->qhd", weights, values)
    cotangent = np.zeros_like(output) if cotangent is None else cotangent.astype(np.float64)
    d_weights = np.einsum("qhd,khd->hqk", cotangent, values)
    d_scores = weights * (d_weights - (d_weights * weights).sum(-1, keepdims=True)) * scale
    d_query = np.einsum("hqk,khd->qhd", d_scores, keys)
    d_key = np.einsum("hqk,qhd->khd", d_scores, query).reshape(len(key), -1, group, key.shape[2]).sum(2)
    d_value = np.einsum("hqk,qhd->khd", weights, cotangent).reshape(len(key), -1, group, key.shape[2]).sum(2)
    return output, denominator[..., 0], (d_query, d_key, d_value)


def ragged(query, key, value, lengths, q_offsets, kv_offsets, cotangent, statistics, *, scale, causal, window):
    """cuDNN's packed layout: segment s is `lengths[s]` tokens from element `offsets[s]` on."""
    flat = [None if x is None else x.reshape(-1) for x in (query, key, value, cotangent)]
    shapes = [x.shape[2:] for x in (query, key, value)] + [query.shape[2:]]
    outputs = [np.full(x.size, np.nan, np.float32) for x in (query, query, key, value)]
    denominators = np.full((lengths.size, query.shape[2], query.shape[1]), np.nan, np.float32)
    for s, length in enumerate(lengths.reshape(-1)):
        if length == 0:
            continue
        at = [q_offsets.reshape(-1)[s], *(kv_offsets.reshape(-1)[s],) * 2, q_offsets.reshape(-1)[s]]
        spans = [slice(a, a + length * np.prod(shape)) for a, shape in zip(at, shapes, strict=True)]
        parts = [
            None if x is None else x[span].reshape(length, *shape)
            for x, span, shape in zip(flat, spans, shapes, strict=True)
        ]
        output, denominator, gradients = segment(*parts, scale, causal, window)
        denominators[s, :, :length] = denominator
        if statistics is not None:  # what the forward pass kept has to come back as it was
            np.testing.assert_allclose(statistics[s, :, :length], denominator, rtol=1e-4, atol=1e-4)
        for into, span, x in zip(outputs, (spans[0], *spans[:3]), (output, *gradients), strict=True):
            into[span] = x.reshape(-1)
    mixed, d_query, d_key, d_value = (
        x.reshape(like.shape) for x, like in zip(outputs, (query, query, key, value), strict=True)
    )
    return mixed, denominators, (d_query, d_key, d_value)


def call(arrays, shapes, *, backward, scale, mask_type, window):
    query, key, value, _, lengths, kv_lengths, q_offsets, kv_offsets, *rest = (np.asarray(x) for x in arrays)
    batch, length, heads, head_dim = query.shape
    np.testing.assert_array_equal(lengths, kv_lengths)
    packed = mask_type in (library.MaskType.PADDING, library.MaskType.PADDING_CAUSAL)
    if not packed:
        lengths = np.full(batch, length)
        q_offsets, kv_offsets = (np.arange(batch) * x[0].size for x in (query, key))
    _, _, statistics, _, cotangent = rest if backward else (None,) * 5
    options = {"scale": scale, "causal": mask_type in CAUSAL, "window": window}
    result = ragged(query, key, value, lengths, q_offsets, kv_offsets, cotangent, statistics, **options)
    results = result[2] if backward else result[:2]
    return [x.astype(shape.dtype).reshape(shape.shape) for x, shape in zip(results, shapes, strict=True)]


def on_cpu(*arrays, backward, shapes, scale, mask_type, sliding_window_length, **_):
    run = functools.partial(
        call, shapes=shapes, backward=backward, scale=scale, mask_type=mask_type, window=sliding_window_length
    )
    return jax.pure_callback(lambda *x: run(x), shapes, *arrays)


@pytest.fixture(scope="module", autouse=True)
def slow_cudnn():
    for primitive, backward in (
        (library._dot_product_attention_fwd_p, False),
        (library._dot_product_attention_bwd_p, True),
    ):

        def lowered(*arrays, backward=backward, **options):
            if backward:
                shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays[:3]]
            else:
                query, offsets = arrays[0], arrays[6]
                segments = offsets.size - len(query) if offsets.ndim == 2 else len(query)
                statistics = jax.ShapeDtypeStruct((segments, query.shape[2], query.shape[1]), jnp.float32)
                shapes = [jax.ShapeDtypeStruct(query.shape, query.dtype), statistics]
            return on_cpu(*arrays, backward=backward, shapes=shapes, **options)

        mlir.register_lowering(primitive, mlir.lower_fun(lowered, multiple_results=True), platform="cpu")


def values(run, arrays, segment_ids, masking):
    output, pull = jax.vjp(lambda *x: run(*x, segment_ids, masking), *arrays[:3])
    return output, *pull(arrays[3])


@pytest.mark.parametrize(
    "kv_heads, masking, segments",
    [
        (4, Masking(), None),
        (2, Masking(), "few"),
        (1, Masking(window=5), "many"),  # more than there is room for: several passes
        (2, Masking(causal=False), "many"),
    ],
)
def test_packed_rows_are_handed_to_cudnn_so_that_each_segment_is_alone(kv_heads, masking, segments):
    batch, length = 2, 40
    random = np.random.default_rng(0)
    arrays = [jnp.asarray(random.normal(size=(batch, length, n, 8)), jnp.float32) for n in (4, kv_heads, kv_heads, 4)]
    ids = {
        None: None,
        "few": jnp.asarray(np.sort(random.integers(0, 2, (batch, length)))),
        "many": jnp.asarray([np.repeat(np.arange(20), 2), np.minimum(np.arange(length), 30)]),
    }[segments]
    got = jax.jit(lambda *x: values(cudnn, x, ids, masking))(*arrays)
    want = values(reference, arrays, ids, masking)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_stages_of_a_pipeline_are_more_rows(packed):
    """`jax.vmap` of it, as the pipeline maps stages: cuDNN's operations have no rule for that."""
    stages, batch, length = 3, 2, 24
    random = np.random.default_rng(1)
    shapes = [(stages, batch, length, n, 8) for n in (4, 2, 2, 4)]
    arrays = [jnp.asarray(random.normal(size=shape), jnp.float32) for shape in shapes]
    ids = jnp.asarray(np.sort(random.integers(0, 4, (stages, batch, length)))) if packed else None
    axes = (0, 0 if packed else None)
    got = jax.jit(jax.vmap(lambda x, ids: values(cudnn, x, ids, Masking()), in_axes=axes))(arrays, ids)
    want = jax.vmap(lambda x, ids: values(reference, x, ids, Masking()), in_axes=axes)(arrays, ids)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
