"""Cross-entropy of the next token."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def cross_entropy(hidden, head, targets, weights, *, chunk: int = 0) -> jax.Array:
    return (token_cross_entropy(hidden, head, targets) * weights).sum()


def token_cross_entropy(hidden: jax.Array, head: jax.Array, targets: jax.Array) -> jax.Array:
    """-log softmax(hidden · head)[target], float32, for `hidden` `[..., embed]`, `head` `[embed, vocab]`."""
    logits = jnp.matmul(hidden, head.astype(hidden.dtype), preferred_element_type=jnp.float32)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen
