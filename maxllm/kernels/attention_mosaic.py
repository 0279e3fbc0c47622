"""Tokamax's Pallas kernel for Hopper: each query's range of keys is an argument, so packing and windows are exact."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from maxllm.kernels.attention_heads import named
from maxllm.kernels.masking import Masking, visible_range


def mosaic(
    query: jax.Array, key: jax.Array, value: jax.Array, segment_ids: jax.Array | None, masking: Masking
) -> jax.Array:
    first, last = visible_range(masking, segment_ids, query.shape)
    return _fused(masking, query, key, value, first[:, None], last[:, None])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(masking: Masking, *arrays: jax.Array) -> jax.Array:
    return _forward(masking, *arrays)[0]


def _forward(masking: Masking, *arrays: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    with _hopper() as kernel:
        asked = _asked(kernel, masking, *arrays)
        mixed, (top, total) = kernel(*asked.args, **asked.kwargs | {"return_residuals": True})
    mixed, top = named(mixed, top)
    return mixed, (*arrays, mixed, top, named(mixed, total)[1])


def _backward(masking: Masking, saved: tuple[jax.Array, ...], gradient: jax.Array) -> tuple[jax.Array | None, ...]:
    *arrays, mixed, top, total = saved
    with _hopper() as kernel:
        asked = _asked(kernel, masking, *arrays)
        gradients = kernel.vjp((top, total), mixed, gradient, *asked.args, **asked.kwargs)
    return gradients["q"], gradients["k"], gradients["v"], None, None


_fused.defvjp(_forward, _backward)


def _asked(kernel, masking: Masking, query: jax.Array, key: jax.Array, value: jax.Array, first, last):
    """The kernel's arguments, complete. `first`, `last` `[batch, 1, length]`."""
    from tokamax._src.ops.attention.base import Mask

    # Said to be causal rather than by each row's last key: blocks after the diagonal are then known when compiling.
    mask = (
        Mask(k_start=first, is_causal=True)
        if masking.causal and not masking.prefix
        else Mask(k_start=first, k_end=last + 1)
    )
    return kernel.bind(
        query,
        key,
        value,
        mask=mask,
        logits_scale=masking.scale_for(query.shape[-1]),
        logits_soft_cap=masking.softcap,
        logits_dtype=jnp.float32,
    )


@contextlib.contextmanager
def _hopper() -> Iterator:
    """The kernel, while tokamax is told what the program is compiled for: it would ask this machine's devices, and
    read the command line for flags of its own."""
    from absl import flags
    from tokamax import config
    from tokamax._src import gpu_utils
    from tokamax._src.ops.attention.pallas_mosaic_gpu import PallasMosaicGpuFlashAttention

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    ask = gpu_utils._compute_capability
    gpu_utils._compute_capability = lambda device=None: 9.0
    # It warns, in 2,000 characters, of each shape that it has not been tuned for.
    chatter = logging.getLogger("absl")
    level = chatter.level
    chatter.setLevel(logging.ERROR)
    try:
        with config.cross_compile(True):
            yield PallasMosaicGpuFlashAttention()
    finally:
        gpu_utils._compute_capability = ask
        chatter.setLevel(level)
