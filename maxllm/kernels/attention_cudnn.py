"""cuDNN's fused attention, packed documents included.

JAX's public function has no argument for segments. The private one beneath it has (cuDNN's packed layout: where each
segment starts and how long it is), but multiplies the keys' offsets by the number of query heads, so that with
grouped-query attention it reads other tokens' keys and says nothing (fixed upstream in jax-ml/jax#39521, after the
versions that we run on). So the offsets are computed here and handed to the operation itself.

How many segments there is room for has to be known when the program is compiled. A batch that has more is computed in
several passes, each with the next so many: any number of them is exact, and one pass is what nearly every batch takes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from maxllm.config.errors import UserError
from maxllm.kernels.attention_heads import named
from maxllm.kernels.masking import Masking, segment_starts

# Room for segments of this mean length, and for no more of them in a row: the softmax's denominators take
# float32 [rows · segments, heads, length] while cuDNN runs.
_MEAN_LENGTH, _MOST = 128, 64


def cudnn(
    query: jax.Array, key: jax.Array, value: jax.Array, segment_ids: jax.Array | None, masking: Masking
) -> jax.Array:
    if segment_ids is None:
        return _fused(masking, query, key, value, None)
    if query.size >= 2**31:
        raise UserError("compute.attention=cudnn: offsets into a packed batch this large overflow; use blockwise")
    starts = segment_starts(segment_ids, query.shape)
    return _fused(masking, query, key, value, (starts == jnp.arange(query.shape[1])).reshape(-1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(masking: Masking, query: jax.Array, key: jax.Array, value: jax.Array, begins: jax.Array | None):
    """`begins` bool `[batch · length]`: whether a segment begins at a token."""
    return _forward(masking, query, key, value, begins)[0]


def _forward(masking: Masking, *arrays: Any):
    mixed, denominator = named(*_mapped_rows(_rows_forward, masking)(*arrays))
    return mixed, (*arrays, mixed, denominator)


def _backward(masking: Masking, saved: tuple[jax.Array, ...], gradient: jax.Array):
    return *_mapped_rows(_rows_backward, masking)(*saved, gradient), None


_fused.defvjp(_forward, _backward)


def _mapped_rows(function: Callable[..., Any], masking: Masking) -> Callable[..., Any]:
    """`function(masking, *arrays)`, whose arrays begin with an axis of rows: `jax.vmap` of it (over the stages of a
    pipeline) is more rows. cuDNN's operations have no batching rule of their own."""
    rows = jax.custom_batching.custom_vmap(functools.partial(function, masking))

    @rows.def_vmap
    def more_rows(size: int, mapped: Any, *arrays: Any) -> tuple[Any, Any]:
        def merge(x: jax.Array, is_mapped: bool) -> jax.Array:
            x = x if is_mapped else jnp.broadcast_to(x, (size, *x.shape))
            return x.reshape(-1, *x.shape[2:])

        found = rows(*jax.tree.map(merge, arrays, tuple(mapped)))
        return jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), found), jax.tree.map(lambda _: True, found)

    return rows


def _rows_forward(
    masking: Masking, query: jax.Array, key: jax.Array, value: jax.Array, begins: jax.Array | None
) -> tuple[jax.Array, ...]:
    if begins is None:
        return tuple(_call_forward(masking, query, key, value, None))
    batch, length, heads, _ = query.shape

    def one(offsets: jax.Array, places: Any) -> tuple[jax.Array, ...]:
        mixed, denominators = _call_forward(masking, query, key, value, offsets)
        return mixed, denominators[places].reshape(batch, length, heads)

    return _passes(one, begins, (jnp.zeros_like(query), jnp.zeros(query.shape[:3], jnp.float32)))


def _rows_backward(
    masking: Masking,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    begins: jax.Array | None,
    mixed: jax.Array,
    denominator: jax.Array,
    gradient: jax.Array,
) -> tuple[jax.Array, ...]:
    if begins is None:
        return tuple(_call_backward(masking, query, key, value, None, denominator, mixed, gradient))
    _, length, heads, _ = query.shape

    def one(offsets: jax.Array, places: Any) -> tuple[jax.Array, ...]:
        # As cuDNN wants them, mostly empty: `[segments, heads, length]`.
        empty = jnp.zeros((offsets.size - 1, heads, length), jnp.float32)
        spread = empty.at[places].set(denominator.reshape(-1, heads), mode="drop")
        return tuple(_call_backward(masking, query, key, value, offsets, spread, mixed, gradient))

    return _passes(one, begins, tuple(jnp.zeros_like(x) for x in (query, key, value)))


def _passes(
    one: Callable[[jax.Array, Any], tuple[jax.Array, ...]], begins: jax.Array, nothing: tuple[jax.Array, ...]
) -> tuple[jax.Array, ...]:
    """What `one(offsets, places)` returns, arrays like `nothing`, `[batch, length, ...]`; each token's values from
    its segment's pass.

    `offsets` int32 `[room + 1]`: where each of a pass's segments starts among the batch's tokens, then where the last
    one ends, again and again: segments of no length. `places`: of each token in an array `[room, heads, length]`, its
    segment, all heads, and its place in the segment; beyond the array for tokens of other passes.
    """
    batch, length = nothing[0].shape[:2]
    # Rows lend each other room. At least 2 per row: to JAX, 1 means "not packed".
    room = batch * max(2, min(length // _MEAN_LENGTH, _MOST))
    starts = jnp.nonzero(begins, size=begins.size, fill_value=begins.size)[0].astype(jnp.int32)
    starts = jnp.pad(starts, (0, room + 1), constant_values=begins.size)
    segment = jnp.cumsum(begins, dtype=jnp.int32) - 1
    place = jnp.arange(begins.size, dtype=jnp.int32) - starts[segment]

    def step(carry: tuple[jax.Array, tuple[jax.Array, ...]]):
        done, sofar = carry
        mine = (done <= segment) & (segment < done + room)
        places = jnp.where(mine, segment - done, room), slice(None), place
        new = one(jax.lax.dynamic_slice_in_dim(starts, done, room + 1), places)
        # cuDNN writes nothing at other passes' tokens: whatever was in that memory is left.
        return done + room, tuple(_where(mine.reshape(batch, length), a, b) for a, b in zip(new, sofar, strict=True))

    return jax.lax.while_loop(lambda carry: carry[0] <= segment[-1], step, (jnp.int32(0), nothing))[1]


def _where(mine: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(mine.reshape(*mine.shape, *(1,) * (new.ndim - 2)), new, old)


def _call_forward(masking: Masking, query: jax.Array, key: jax.Array, value: jax.Array, offsets: jax.Array | None):
    """The output, and log Σ exp(scores) `[batch or segments, heads, length]`."""
    from jax._src.cudnn import fused_attention_stablehlo as library

    arrays = (query, key, value, *_arguments(query, key, offsets))
    return library._dot_product_attention_fwd_p.bind(*arrays, **_options(masking, query, offsets), is_training=True)


def _call_backward(
    masking: Masking,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    offsets: jax.Array | None,
    denominator: jax.Array,
    mixed: jax.Array,
    gradient: jax.Array,
):
    from jax._src.cudnn import fused_attention_stablehlo as library

    arrays = (query, key, value, *_arguments(query, key, offsets), denominator, mixed, gradient)
    return library._dot_product_attention_bwd_p.bind(*arrays, **_options(masking, query, offsets))


def _arguments(query: jax.Array, key: jax.Array, offsets: jax.Array | None) -> tuple[jax.Array, ...]:
    """Bias; lengths of segments for queries and keys, offsets for both, counted in elements; tables of pages."""
    absent = jnp.zeros(0, query.dtype)
    if offsets is None:
        return (absent,) * 7
    batch, length, heads, head_dim = query.shape
    lengths = jnp.diff(offsets).reshape(batch, -1)
    # One offset more than there are segments is read; the arrays' shapes want one more per row.
    offsets = jnp.pad(offsets, (0, batch - 1), constant_values=batch * length).reshape(batch, -1)
    by_head = offsets * (heads * head_dim), offsets * (key.shape[2] * head_dim)
    return absent, lengths, lengths, *by_head, absent, absent


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
