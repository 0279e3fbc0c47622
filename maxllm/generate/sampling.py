"""Drawing tokens inside the compiled step, each row by its own settings.

Without a sort: the k-th largest logit, and the smallest set of tokens whose mass reaches top_p, are thresholds,
and a threshold on a float32 is found exactly by deciding its 32 bits one after the other. What ties with the
threshold is kept. Every part runs only when some row of the batch asks for it.
"""

from __future__ import annotations

import secrets
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maxllm.generate.request import MAX_LOGPROBS, SamplingParams

# np.ndarray on the host, jax.Array on a device, jax.ShapeDtypeStruct when compiling ahead.
Array = Any


class RowSampling(NamedTuple):
    """`SamplingParams` of each row, as arrays `[rows]`."""

    temperature: Array  # float32, 0 = greedy
    top_k: Array  # int32, 0 = all
    top_p: Array  # float32
    seed: Array  # uint32 [rows, 2], the two halves of the seed: a threefry key
    logprobs: Array  # bool, whether anybody will read this row's logprobs

    @classmethod
    def greedy(cls, rows: int) -> RowSampling:
        return cls(
            np.zeros(rows, np.float32),
            np.zeros(rows, np.int32),
            np.ones(rows, np.float32),
            np.zeros((rows, 2), np.uint32),
            np.zeros(rows, bool),
        )

    @classmethod
    def of(cls, params: SamplingParams, logprobs: bool) -> RowSampling:
        """One row. A request without a seed gets a random one."""
        seed = secrets.randbits(64) if params.seed is None else params.seed % 2**64
        return cls(
            np.array([params.temperature], np.float32),
            np.array([params.top_k], np.int32),
            np.array([params.top_p], np.float32),
            np.array([[seed >> 32, seed & 0xFFFFFFFF]], np.uint32),
            np.array([logprobs]),
        )


def sample(logits: jax.Array, positions: jax.Array, rows: RowSampling) -> jax.Array:
    """The next token of each row, int32 `[rows]`.

    logits: float32 `[rows, vocab]`. positions: int32 `[rows]`, where the drawn token will stand; with the row's
    seed it fixes the draw. Gumbel-max: argmax(logits / temperature + noise) is a draw from the softmax.
    """
    greedy = jnp.argmax(logits, axis=-1).astype(jnp.int32)

    def draw() -> jax.Array:
        scaled = logits / jnp.maximum(rows.temperature, 1e-6)[:, None]
        filtered = (rows.top_k > 0) | (rows.top_p < 1)
        scaled = jax.lax.cond(filtered.any(), lambda: keep_likeliest(scaled, rows.top_k, rows.top_p), lambda: scaled)
        keys = jax.vmap(jax.random.fold_in)(jax.random.wrap_key_data(rows.seed, impl="threefry2x32"), positions)
        noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[-1:], jnp.float32))(keys)
        return jnp.where(rows.temperature > 0, jnp.argmax(scaled + noise, axis=-1).astype(jnp.int32), greedy)

    return jax.lax.cond((rows.temperature > 0).any(), draw, lambda: greedy)


def keep_likeliest(logits: jax.Array, top_k: jax.Array, top_p: jax.Array) -> jax.Array:
    """-inf where a token is neither among the top_k nor, of those, in the smallest set with mass >= top_p.

    The logits are tempered already: nucleus sampling (Holtzman et al. 2020) is defined on the distribution
    that is drawn from.
    """
    order = _ordered_bits(logits)
    vocab = logits.shape[-1]
    k = jnp.where(top_k > 0, jnp.minimum(top_k, vocab), vocab).astype(jnp.float32)
    kept = order >= _threshold(order, jnp.ones_like(logits), k)[:, None]
    mass = jnp.where(kept, jnp.exp(logits - logits.max(axis=-1, keepdims=True)), 0)
    nucleus = order >= _threshold(order, mass, top_p * mass.sum(axis=-1))[:, None]
    return jnp.where(kept & (nucleus | (top_p >= 1)[:, None]), logits, -jnp.inf)


def _ordered_bits(values: jax.Array) -> jax.Array:
    """uint32 that compare as the float32 they come from."""
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
    return jnp.where(bits >> 31, ~bits, bits | jnp.uint32(1 << 31))


def _threshold(order: jax.Array, weights: jax.Array, target: jax.Array) -> jax.Array:
    """The largest uint32 t, per row, with `weights[order >= t].sum() >= target`."""

    def decide(i: jax.Array, found: jax.Array) -> jax.Array:
        tried = found | (jnp.uint32(1) << (jnp.uint32(31) - i.astype(jnp.uint32)))
        reached = jnp.where(order >= tried[:, None], weights, 0).sum(axis=-1) >= target
        return jnp.where(reached, tried, found)

    return jax.lax.fori_loop(0, 32, decide, jnp.zeros(order.shape[:-1], jnp.uint32))


def token_logprobs(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    """Packed int32 `[rows, 1 + 2 * MAX_LOGPROBS]`: logprob of `tokens`, ids of the likeliest, their logprobs.

    Floats are carried as their bits, so that one array goes to the host. From the raw logits, float32.
    """
    normaliser = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    chosen = jnp.take_along_axis(logits, tokens[:, None], axis=-1) - normaliser
    top, ids = jax.lax.top_k(logits, MAX_LOGPROBS)
    bits = jax.lax.bitcast_convert_type(jnp.concatenate([chosen, top - normaliser], axis=-1), jnp.int32)
    return jnp.concatenate([bits[:, :1], ids.astype(jnp.int32), bits[:, 1:]], axis=-1)
