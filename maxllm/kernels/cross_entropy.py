"""Cross-entropy of the next token, without all the logits at once.

With 128k words, the float32 logits of 8192 tokens are 4 GiB. Here a chunk of tokens has its logits, its loss and its
part of the gradients computed, and is forgotten.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from maxllm.parallel import target
from maxllm.parallel.rules import cast, layout, mesh_axes

# Logits that exist at once when nothing else is asked for: on a CPU 8 MiB, which its last cache holds although each
# pass over them reads one array and writes another; 1 GiB elsewhere.
_CPU_LOGITS = 2**21
_LOGITS = 2**28

Parts = tuple[jax.Array, jax.Array, jax.Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def cross_entropy(
    hidden: jax.Array,
    head: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    chunk: int = 0,
    softcap: float | None = None,
) -> jax.Array:
    """Σ weights · -log softmax(hidden · head)[targets], in nats, float32.

    `hidden` `[batch, length, embed]`, `head` `[embed, vocab]` of any dtype, `targets` int32 and `weights` float32
    `[batch, length]`. The product is in `hidden`'s dtype, accumulated in float32. `chunk`: tokens whose logits exist at
    once on a device; 0 = by the vocabulary's size. `softcap` c: logits become c · tanh(logit / c) first (Gemma 2). No
    gradient flows to `weights`.

    The gradients are computed with the loss, while a chunk's logits are there (as Liger Kernel does, Hsu et al. 2024),
    so that the backward pass only scales them: nothing is computed twice.
    """
    return _on_the_mesh(hidden, head, targets, weights, chunk, softcap, gradients=False)[0]


def _forward(
    hidden: jax.Array, head: jax.Array, targets: jax.Array, weights: jax.Array, chunk: int, softcap: float | None
):
    total, d_hidden, d_head = _on_the_mesh(hidden, head, targets, weights, chunk, softcap, gradients=True)
    return total, (d_hidden, d_head.astype(head.dtype))


def _backward(chunk: int, softcap: float | None, saved: tuple[jax.Array, jax.Array], scale: jax.Array):
    d_hidden, d_head = saved
    return (d_hidden * scale).astype(d_hidden.dtype), d_head * scale, None, None


cross_entropy.defvjp(_forward, _backward)


def _on_the_mesh(
    hidden: jax.Array,
    head: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    chunk: int,
    softcap: float | None,
    *,
    gradients: bool,
) -> Parts:
    """Each device takes its own tokens and its own columns of the head. The schedule is written out, because the
    compiler would otherwise add up the head's gradient over all devices after every chunk rather than once.

    The head is gathered, and its gradient added up, in the compute dtype: as every other parameter's.
    """
    mesh = jax.sharding.get_abstract_mesh()
    local = functools.partial(_local, chunk=chunk, softcap=softcap, gradients=gradients)
    head = cast(head, hidden.dtype, "embed", "vocab")
    if mesh.empty or mesh.size == 1:
        return local(hidden, head, targets, weights, token_axes=(), vocab_axes=(), embed_axes=())
    tokens = layout(mesh, targets.shape, ("batch", "length"))
    rows, columns = layout(mesh, head.shape, ("embed", "vocab"))
    token_axes = mesh_axes(*tokens)
    embed_axes = tuple(axis for axis in mesh_axes(rows) if axis in token_axes)
    local = functools.partial(local, token_axes=token_axes, vocab_axes=mesh_axes(columns), embed_axes=embed_axes)
    hidden_spec, head_spec = PartitionSpec(*tokens, None), PartitionSpec(None, columns)
    d_head_spec = PartitionSpec(embed_axes if gradients else None, columns)
    parts = jax.shard_map(
        local,
        in_specs=(hidden_spec, head_spec, tokens, tokens),
        out_specs=(PartitionSpec(), hidden_spec, d_head_spec),
        check_vma=False,
    )
    return parts(hidden, head, targets, weights)


def _local(
    hidden: jax.Array,
    head: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    *,
    chunk: int,
    softcap: float | None,
    gradients: bool,
    token_axes: tuple[str, ...],
    vocab_axes: tuple[str, ...],
    embed_axes: tuple[str, ...],
) -> Parts:
    """The sum, d hidden and d head (zeros unless `gradients`), a chunk of this device's tokens after another.

    Of d head each device gets the rows that `embed_axes`, some of `token_axes`, leave it.
    """
    if gradients and embed_axes and not chunk and _by_columns_pays():
        axes = {"token_axes": token_axes, "vocab_axes": vocab_axes, "embed_axes": embed_axes}
        return _by_columns(hidden, head, targets, weights, softcap=softcap, **axes)
    columns = jnp.arange(head.shape[1]) + (jax.lax.axis_index(vocab_axes) * head.shape[1] if vocab_axes else 0)

    def one(total_and_d_head: tuple[jax.Array, jax.Array], tokens: Parts):
        total, d_head = total_and_d_head
        rows, targets, weights = tokens
        logits = _capped(jnp.matmul(rows, head, preferred_element_type=jnp.float32), softcap)
        top = _maximum(logits.max(axis=-1), vocab_axes)
        exponentials = jnp.exp(logits - top[:, None])
        denominator = _sum(exponentials.sum(axis=-1), vocab_axes)
        is_target = targets[:, None] == columns
        if target.platform() == "cpu" and not vocab_axes:
            chosen = jnp.take_along_axis(logits, targets[:, None], axis=-1, mode="clip")[:, 0]  # no pass over them all
        else:
            chosen = _sum(jnp.where(is_target, logits, 0.0).sum(axis=-1), vocab_axes)
        total += ((top + jnp.log(denominator) - chosen) * weights).sum()
        if not gradients:
            return (total, d_head), None
        d_logits = exponentials * (weights / denominator)[:, None] - jnp.where(is_target, weights[:, None], 0.0)
        d_logits = _uncapped(d_logits, logits, softcap).astype(rows.dtype)
        d_head += jnp.matmul(rows.T, d_logits, preferred_element_type=jnp.float32)
        return (total, d_head), _sum(jnp.matmul(d_logits, head.T, preferred_element_type=jnp.float32), vocab_axes)

    tokens = (hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1), weights.reshape(-1))
    empty = (jnp.float32(0), jnp.zeros(head.shape if gradients else (), jnp.float32))
    (total, d_head), d_hidden = jax.lax.scan(one, empty, _chunks(tokens, chunk or _chunk_size(head.shape[1])))
    if not gradients:
        return _sum(total, token_axes), jnp.zeros_like(hidden), jnp.zeros_like(head)
    d_hidden = d_hidden.reshape(-1, hidden.shape[-1])[: tokens[1].size].reshape(hidden.shape)
    d_head = d_head.astype(hidden.dtype)
    if embed_axes:
        d_head = jax.lax.psum_scatter(d_head, embed_axes, scatter_dimension=0, tiled=True)
    copies = tuple(axis for axis in token_axes if axis not in embed_axes)
    return _sum(total, token_axes), d_hidden.astype(hidden.dtype), _sum(d_head, copies)


def _by_columns_pays() -> bool:
    """Not on a CPU, where a chunk of tokens keeps its logits in the cache and memory is not what is short."""
    return target.platform() != "cpu"


def _by_columns(
    hidden: jax.Array,
    head: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    *,
    softcap: float | None,
    token_axes: tuple[str, ...],
    vocab_axes: tuple[str, ...],
    embed_axes: tuple[str, ...],
) -> Parts:
    """`_local`'s, some columns of the head after others: where its gradient is kept in parts, it never is whole.

    Twice over the columns: for each token's denominator, then, with the logits computed again, for the gradients. That
    is a third more work in the head, and no float32 matrix of its size is read and written for every chunk of tokens:
    of Llama 3's 8B on 256 TPU v5e, 2 % more FLOPs for 4 of 7 GB.
    """
    rows, targets, weights = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1), weights.reshape(-1)
    size = _column_block(rows.shape[0], head.shape[1])
    first = jax.lax.axis_index(vocab_axes) * head.shape[1] if vocab_axes else 0
    blocks = jnp.arange(head.shape[1] // size)

    def logits_of(block: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        kernel = jax.lax.dynamic_slice_in_dim(head, block * size, size, axis=1)
        is_target = targets[:, None] == first + block * size + jnp.arange(size)
        logits = _capped(jnp.matmul(rows, kernel, preferred_element_type=jnp.float32), softcap)
        return kernel, logits, is_target

    def measure(sums: Parts, block: jax.Array) -> tuple[Parts, None]:
        top, denominator, chosen = sums
        _, logits, is_target = logits_of(block)
        higher = jnp.maximum(top, logits.max(axis=-1))
        denominator = denominator * jnp.exp(top - higher) + jnp.exp(logits - higher[:, None]).sum(axis=-1)
        return (higher, denominator, chosen + jnp.where(is_target, logits, 0.0).sum(axis=-1)), None

    nothing = jnp.zeros(rows.shape[0], jnp.float32)
    own, denominator, chosen = jax.lax.scan(measure, (nothing - jnp.inf, nothing, nothing), blocks)[0]
    top = _maximum(own, vocab_axes)
    denominator = _sum(denominator * jnp.exp(own - top), vocab_axes)
    total = ((top + jnp.log(denominator) - _sum(chosen, vocab_axes)) * weights).sum()

    def differentiate(d_rows: jax.Array, block: jax.Array) -> tuple[jax.Array, jax.Array]:
        kernel, logits, is_target = logits_of(block)
        d_logits = jnp.exp(logits - top[:, None]) * (weights / denominator)[:, None]
        d_logits = d_logits - jnp.where(is_target, weights[:, None], 0.0)
        d_logits = _uncapped(d_logits, logits, softcap).astype(rows.dtype)
        d_kernel = jnp.matmul(rows.T, d_logits, preferred_element_type=jnp.float32).astype(rows.dtype)
        d_kernel = jax.lax.psum_scatter(d_kernel, embed_axes, scatter_dimension=0, tiled=True)
        return d_rows + jnp.matmul(d_logits, kernel.T, preferred_element_type=jnp.float32), d_kernel

    d_rows, d_head = jax.lax.scan(differentiate, jnp.zeros(rows.shape, jnp.float32), blocks)
    d_head = d_head.swapaxes(0, 1).reshape(d_head.shape[1], -1)
    copies = tuple(axis for axis in token_axes if axis not in embed_axes)
    d_hidden = _sum(d_rows, vocab_axes).astype(hidden.dtype).reshape(hidden.shape)
    return _sum(total, token_axes), d_hidden, _sum(d_head, copies)


def _capped(logits: jax.Array, softcap: float | None) -> jax.Array:
    return logits if softcap is None else softcap * jnp.tanh(logits / softcap)


def _uncapped(d_logits: jax.Array, logits: jax.Array, softcap: float | None) -> jax.Array:
    """The gradient of what `_capped` was given, from that of `logits`, which it returned: 1 - tanh²."""
    return d_logits if softcap is None else d_logits * (1 - (logits / softcap) ** 2)


def _column_block(tokens: int, columns: int) -> int:
    """The most columns whose logits may exist at once, among the divisors; if it can be, whole tiles of 128."""
    divisors = [size for size in range(1, columns + 1) if columns % size == 0 and size * tokens <= _LOGITS]
    tiles = [size for size in divisors if size % 128 == 0]
    return max(tiles or divisors or [columns])


def _chunks(tokens: Parts, size: int) -> Parts:
    """`[count, size, ...]`, filled up with tokens of weight 0 where `size` does not divide them."""
    count = -(-tokens[1].size // size)
    size = -(-tokens[1].size // count)
    short = count * size - tokens[1].size
    return jax.tree.map(
        lambda x: jnp.pad(x, ((0, short), *((0, 0),) * (x.ndim - 1))).reshape(count, size, *x.shape[1:]), tokens
    )


def _chunk_size(vocab_size: int) -> int:
    logits = _CPU_LOGITS if target.platform() == "cpu" else _LOGITS
    return max(logits // vocab_size, 128)


def _sum(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    return jax.lax.psum(x, axes) if axes else x


def _maximum(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    return jax.lax.pmax(x, axes) if axes else x


def token_cross_entropy(
    hidden: jax.Array, head: jax.Array, targets: jax.Array, softcap: float | None = None
) -> jax.Array:
    """-log softmax(hidden · head)[targets] for each token: float32 `[batch, length]`. All the logits at once."""
    logits = _capped(jnp.matmul(hidden, head.astype(hidden.dtype), preferred_element_type=jnp.float32), softcap)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen
