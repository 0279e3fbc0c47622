"""cuDNN's fused attention, packed documents included.

JAX's public function has no argument for segments. The private one beneath it has (cuDNN's packed layout: where each
segment starts and how long it is), but multiplies the keys' offsets by the number of query heads, so that with
grouped-query attention it reads other tokens' keys and says nothing (fixed upstream in jax-ml/jax#39521, after the
versions that we run on). So the offsets are computed here and handed to the operation itself.

The number of segments has to be known when the program is compiled. There is room for `_segments` of them; a batch
that has more takes the blockwise kernel, inside the same program.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from maxllm.kernels import attention_blocks
from maxllm.kernels.attention_heads import named
from maxllm.kernels.masking import Masking, segment_starts

# Room for segments of this mean length, and for no more of them in a row: the softmax's denominators take
# float32 [rows · segments, heads, length] while cuDNN runs.
_MEAN_LENGTH, _MOST = 128, 64


def _segments(length: int) -> int:
    """Per row of the batch; rows lend each other what they do not need. At least 2: 1 means "not packed" to JAX."""
    return max(2, min(length // _MEAN_LENGTH, _MOST))


def cudnn(
    query: jax.Array, key: jax.Array, value: jax.Array, segment_ids: jax.Array | None, masking: Masking
) -> jax.Array:
    if segment_ids is None:
        return _fused(masking, query, key, value, None)
    starts = segment_starts(segment_ids, query.shape)
    begins = (starts == jnp.arange(query.shape[1])).reshape(-1)
    room = query.shape[0] * _segments(query.shape[1])
    offsets = jnp.nonzero(begins, size=room + 1, fill_value=begins.size)[0].astype(jnp.int32)

    def packed() -> jax.Array:
        return _fused(masking, query, key, value, offsets)

    def otherwise() -> jax.Array:
        return attention_blocks.blockwise(query, key, value, segment_ids, masking)

    return jax.lax.cond(begins.sum() <= room, packed, otherwise)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(
    masking: Masking, query: jax.Array, key: jax.Array, value: jax.Array, offsets: jax.Array | None
) -> jax.Array:
    """`offsets` int32 `[room + 1]`: where each segment starts among the batch's tokens, then the number of tokens."""
    return _forward(masking, query, key, value, offsets)[0]


def _forward(masking: Masking, query: jax.Array, key: jax.Array, value: jax.Array, offsets: jax.Array | None):
    from jax._src.cudnn import fused_attention_stablehlo as library

    arguments = _arguments(query, key, offsets)
    mixed, denominator = library._dot_product_attention_fwd_p.bind(
        query, key, value, *arguments, *_pages(query), **_options(masking, query, offsets), is_training=True
    )
    mixed, denominator = named(mixed, _compact(denominator, query.shape, offsets))
    return mixed, (query, key, value, offsets, mixed, denominator)


def _backward(masking: Masking, saved: tuple[jax.Array, ...], gradient: jax.Array):
    from jax._src.cudnn import fused_attention_stablehlo as library

    query, key, value, offsets, mixed, denominator = saved
    gradients = library._dot_product_attention_bwd_p.bind(
        query,
        key,
        value,
        *_arguments(query, key, offsets),
        *_pages(query),
        _spread(denominator, query.shape, offsets),
        mixed,
        gradient,
        **_options(masking, query, offsets),
    )
    return *gradients, None


_fused.defvjp(_forward, _backward)


def _arguments(query: jax.Array, key: jax.Array, offsets: jax.Array | None) -> tuple[jax.Array, ...]:
    """bias, then lengths and offsets of segments for queries and for keys: offsets count elements, not tokens."""
    absent = jnp.zeros(0, query.dtype)
    if offsets is None:
        return (absent,) * 5
    batch, length, heads, head_dim = query.shape
    rooms = (offsets.size - 1) // batch
    lengths = jnp.diff(offsets).reshape(batch, rooms)
    # One offset more than segments is read; the arrays' shapes leave room for one per row.
    padded = jnp.pad(offsets, (0, batch - 1), constant_values=batch * length).reshape(batch, rooms + 1)
    return absent, lengths, lengths, padded * (heads * head_dim), padded * (key.shape[2] * head_dim)


def _pages(query: jax.Array) -> tuple[jax.Array, jax.Array]:
    return (jnp.zeros(0, query.dtype),) * 2


def _options(masking: Masking, query: jax.Array, offsets: jax.Array | None) -> dict:
    from jax._src.cudnn import fused_attention_stablehlo as library

    masks = {
        (True, False): library.MaskType.CAUSAL,
        (True, True): library.MaskType.PADDING_CAUSAL,
        (False, False): library.MaskType.NO_MASK,
        (False, True): library.MaskType.PADDING,
    }
    return {
        "scale": masking.scale_for(query.shape[-1]),
        "seed": 0,
        "dropout_rate": 0.0,
        "variadic_args": (False, False),  # no bias, no gradient of one
        "mask_type": masks[masking.causal, offsets is not None],
        "layout": library.AttentionLayout.BTNH.value,
        "sliding_window_length": masking.window,
    }


def _compact(denominator: jax.Array, shape: tuple[int, ...], offsets: jax.Array | None) -> jax.Array:
    """cuDNN's `[segments, heads, length]`, mostly empty, as `[tokens, heads]`: what is kept until the backward."""
    return denominator if offsets is None else denominator[_places(shape, offsets)]


def _spread(denominator: jax.Array, shape: tuple[int, ...], offsets: jax.Array | None) -> jax.Array:
    if offsets is None:
        return denominator
    _, length, heads, _ = shape
    empty = jnp.zeros((offsets.size - 1, heads, length), jnp.float32)
    return empty.at[_places(shape, offsets)].set(denominator)


def _places(shape: tuple[int, ...], offsets: jax.Array) -> tuple[jax.Array, slice, jax.Array]:
    """Of each token of the batch: its segment, (all heads,) and its place in it."""
    token = jnp.arange(shape[0] * shape[1])
    segment = jnp.searchsorted(offsets[:-1], token, side="right", method="sort") - 1
    # Unused segments start after the last token.
    return segment, slice(None), token - offsets[segment]
