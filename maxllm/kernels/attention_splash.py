"""Splash attention, JAX's Pallas kernel for TPUs: blocks that causality or the window hide are not even fetched."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from maxllm.kernels.masking import Masking, segment_starts

LANES = 128  # of a vector register: what blocks of keys have to be a multiple of
# The block that MaxText, torchtitan's JAX port and others default to. Larger ones pay on some chips: not measured here.
BLOCK = 512


def splash(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array | None,
    masking: Masking,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Any length and head_dim: what the kernel needs more of is filled up with tokens that nothing sees.

    `interpret`: run by JAX's interpreter, on any device, slowly.
    """
    batch, length, heads, head_dim = query.shape
    block = min(BLOCK, _up(length, LANES))
    short = _up(length, block) - length
    kernel = _kernel(heads, length + short, block, masking, interpret)

    def laid_out(x: jax.Array) -> jax.Array:  # [batch, heads, length, head_dim]
        return jnp.pad(x, ((0, 0), (0, short), (0, 0), (0, 0))).swapaxes(1, 2)

    scaled = (query.astype(jnp.float32) * masking.scale_for(head_dim)).astype(query.dtype)
    arrays = [laid_out(x) for x in (scaled, key, value)]
    if segment_ids is None and (masking.causal or not short):
        mixed = jax.vmap(kernel)(*arrays)  # what fills up comes last: causality hides it
    else:
        ids = segment_starts(segment_ids, query.shape)  # one number per run, which ids need not be
        ids = jnp.pad(ids, ((0, 0), (0, short)), constant_values=-1)
        mixed = jax.vmap(lambda q, k, v, i: kernel(q, k, v, _segment_ids(i)))(*arrays, ids)
    return mixed.swapaxes(1, 2)[:, :length]


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _segment_ids(ids: jax.Array):
    from jax.experimental.pallas.ops.tpu.splash_attention import SegmentIds

    return SegmentIds(q=ids, kv=ids)


def _kernel(heads: int, length: int, block: int, masking: Masking, interpret: bool):
    # Imported here: Pallas' TPU parts take a second, and most runs are elsewhere.
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    shape = (length, length)
    reach = None if masking.window is None else masking.window - 1
    if masking.window is not None:
        mask = splash.LocalMask(shape, (reach, 0 if masking.causal else reach), offset=0)
    else:
        mask = splash.CausalMask(shape) if masking.causal else splash.FullMask(shape)
    return splash.make_splash_mha(
        splash.MultiHeadMask([mask] * heads),
        block_sizes=splash.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=masking.softcap,
        residual_checkpoint_name="attention",
        interpret=interpret,
    )
