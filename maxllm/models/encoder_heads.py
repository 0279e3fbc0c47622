"""What comes after an encoder's layers: words scored with the embedding, or a few classes of texts and tokens."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from maxllm.config.model_parts import LabelsConfig
from maxllm.kernels.attention import attention
from maxllm.kernels.masking import Masking, segment_ends
from maxllm.models.linear import Linear
from maxllm.models.mlp import ACTIVATIONS
from maxllm.models.norm import make_norm

_MULTIPLE = 8  # of a product's inner dimension: what tensor cores want


class WordsHead(nnx.Module):
    """scores = norm(activation(dense(x))) · embeddingᵀ + bias (Devlin et al. 2018)."""

    def __init__(
        self,
        hidden_size: int,
        embedding_size: int,
        vocab_size: int,
        *,
        activation: str,
        norm: str,
        norm_eps: float,
        std: float,
        rngs: nnx.Rngs,
    ):
        self.dense = Linear({"embed": hidden_size}, {"norm": embedding_size}, bias=True, std=std, rngs=rngs)
        self.norm = make_norm(norm, embedding_size, eps=norm_eps)
        self.bias = nnx.Param(jnp.zeros(vocab_size), axes=("vocab",))
        self.activation = activation

    def __call__(self, hidden: jax.Array, table: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`hidden` `[..., hidden_size]` and the embedding's `table` `[vocab, width]` as the factors of the scores:
        `[..., width + 8]` and float32 `[width + 8, vocab]`. The bias is the row that a column of ones meets.
        """
        x = self.norm(ACTIVATIONS[self.activation](self.dense(hidden)))
        more = _MULTIPLE + -x.shape[-1] % _MULTIPLE
        one = jnp.zeros((*x.shape[:-1], more), x.dtype).at[..., 0].set(1)
        bias = jnp.pad(self.bias[...][None], ((0, more - 1), (0, 0)))
        return jnp.concatenate([x, one], axis=-1), jnp.concatenate([table.T, bias])


class LabelHead(nnx.Module):
    """Classes (or one score, or a vector) of each text, or of each token: maybe a layer with an activation, then a
    matrix. BERT's and RoBERTa's have tanh in between, ELECTRA's and DeBERTa's gelu."""

    def __init__(self, hidden_size: int, config: LabelsConfig, *, bias: bool = True, std: float, rngs: nnx.Rngs):
        if config.hidden != "none":
            self.dense = Linear({"embed": hidden_size}, {"norm": hidden_size}, bias=True, std=std, rngs=rngs)
        if config.kind != "embedding":
            count = 1 if config.kind == "rerank" else config.count
            self.classes = Linear({"embed": hidden_size}, {"norm": count}, bias=bias, std=std, rngs=rngs)
        self.config = config

    def __call__(self, hidden: jax.Array, segment_ids: jax.Array | None = None) -> jax.Array:
        """Float32 `[batch, length, count]`: of each token; or of each text, at its first token (elsewhere nothing of
        use). For `embedding`, `[batch, length, embed]`, of length 1."""
        x = hidden if self.config.kind == "token" else pooled(hidden, segment_ids, self.config.pooling)
        if self.config.hidden != "none":
            x = self.dense(x)
            x = jnp.tanh(x) if self.config.hidden == "tanh" else ACTIVATIONS["gelu"](x)
        if self.config.kind == "embedding":
            x = x.astype(jnp.float32)
            return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(axis=-1, keepdims=True), 1e-24))
        return self.classes(x).astype(jnp.float32)


def pooled(hidden: jax.Array, segment_ids: jax.Array | None, pooling: str) -> jax.Array:
    """`[batch, length, embed]`, of which a segment's first token has that segment's first, mean or last state."""
    if pooling == "last":  # places in the row: not with mesh.context > 1
        ends = segment_ends(segment_ids, hidden.shape)
        return jnp.take_along_axis(hidden, ends[..., None], axis=1)
    if pooling == "mean":  # attention to which every key is alike
        values = hidden.reshape(*hidden.shape[:2], -1, _head_dim(hidden.shape[-1]))
        alike = jnp.zeros_like(values)
        mixed = attention(alike, alike, values, segment_ids=segment_ids, masking=Masking(causal=False))
        return mixed.reshape(hidden.shape)
    return hidden


def _head_dim(size: int) -> int:
    """The largest one of those that every kernel takes, among the divisors of `size`."""
    return next(width for width in (64, 32, 16, 8, 4, 2, 1) if size % width == 0)
