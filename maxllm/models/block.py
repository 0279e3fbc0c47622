"""A layer: attention and a feed-forward part, each with its norms and its way around."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from maxllm.config.model import ModelConfig
from maxllm.kernels.masking import Masking
from maxllm.models.alibi import AlibiAttention
from maxllm.models.attention import Attention, Places
from maxllm.models.disentangled_attention import DisentangledAttention
from maxllm.models.dual_chunk import DualChunkAttention
from maxllm.models.latent_attention import LatentAttention, score_scale
from maxllm.models.mlp import FeedForward
from maxllm.models.moe import MoE
from maxllm.models.norm import make_norm
from maxllm.models.relative_bias import BiasedAttention

Losses = dict[str, jax.Array]  # scalars of a layer's router, float32; empty where it has none


class Block(nnx.Module):
    """x + f(norm(x)) for f attention, then feed-forward (`pre`: Radford et al. 2019); norm(x + f(x)) (`post`: Vaswani
    et al. 2017); x + norm(f(norm(x))) (`both`: Gemma 2)."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        dense: bool,
        causal: bool | None = None,
        attention: str,
        context: str,
        rngs: nnx.Rngs,
    ):
        """`causal`: unless the model is an encoder, when not said."""
        norm = functools.partial(make_norm, config.norm, config.hidden_size, eps=config.norm_eps)
        self.placement = config.norm_placement
        self.attention_norm, self.mlp_norm = norm(), norm()
        if self.placement == "both":
            self.attention_post_norm, self.mlp_post_norm = norm(), norm()
        self.attention = make_attention(config, causal, backend=attention, context=context, rngs=rngs)
        self.mlp = make_dense(config, rngs) if dense else make_experts(config, rngs)

    def __call__(
        self, x: jax.Array, places: Places, segment_ids: jax.Array | None = None, *, local: bool = False
    ) -> tuple[jax.Array, Losses]:
        x, _ = self._around("attention", lambda x: (self.attention(x, places, segment_ids, local=local), ()), x)
        return self._around("mlp", lambda x: self.feed_forward(x, segment_ids), x)

    def asked(
        self, queries: jax.Array, x: jax.Array, places: Places, segment_ids: jax.Array | None = None
    ) -> jax.Array:
        """The layer for `queries` that look at `x`, where the attention knows the difference (DeBERTa)."""
        mixed, _ = self._around("attention", lambda q: (self.attention(x, places, segment_ids, queries=q), ()), queries)
        return self._around("mlp", self.feed_forward, mixed)[0]

    def feed_forward(self, x: jax.Array, segment_ids: jax.Array | None = None) -> tuple[jax.Array, Losses]:
        return self.mlp(x, segment_ids) if isinstance(self.mlp, MoE) else (self.mlp(x), {})

    def extend(
        self,
        x: jax.Array,
        places: Places,
        keys: jax.Array,
        values: jax.Array,
        layer: jax.Array,
        window: int,
        *,
        local: bool = False,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """As `Attention.extend`, and the rest of the layer."""

        def attend(x: jax.Array) -> tuple[jax.Array, Any]:
            mixed, *cache = self.attention.extend(x, places, keys, values, layer, window, local=local)
            return mixed, cache

        def feed(x: jax.Array) -> tuple[jax.Array, Any]:
            return (self.mlp(x, dropless=True)[0] if isinstance(self.mlp, MoE) else self.mlp(x)), ()

        x, cache = self._around("attention", attend, x)
        return self._around("mlp", feed, x)[0], *cache

    def _around(self, name: str, part: Callable[[jax.Array], Any], x: jax.Array) -> tuple[jax.Array, Any]:
        norm = getattr(self, f"{name}_norm")
        if self.placement == "post":
            y, more = part(x)
            return norm(x + y), more
        y, more = part(norm(x))
        return x + (getattr(self, f"{name}_post_norm")(y) if self.placement == "both" else y), more


def make_attention(
    config: ModelConfig, causal: bool | None = None, *, backend: str, context: str, rngs: nnx.Rngs
) -> nnx.Module:
    if config.positions == "disentangled":
        return DisentangledAttention(
            config.hidden_size, config.num_heads, config.head_size, config.encoder, std=config.init_std, rngs=rngs
        )
    if latent := config.latent_attention:
        scale = config.attention_scale or score_scale(latent, config.rope_scaling)
        options = {"backend": backend, "context": context, "scale": scale, "std": config.init_std}
        return LatentAttention(config.hidden_size, config.num_heads, latent, **options, rngs=rngs)
    masking = Masking(
        causal=config.architecture != "encoder" if causal is None else causal,
        window=config.window,
        softcap=config.attention_softcap,
        scale=config.attention_scale,
    )
    kind: Callable[..., Attention] = Attention
    if config.positions == "alibi":
        kind = AlibiAttention
    if config.positions == "relative":
        kind = BiasedAttention
    if config.dual_chunk:
        kind = functools.partial(DualChunkAttention, chunk=config.dual_chunk.chunk)
    return kind(
        config.hidden_size,
        config.num_heads,
        config.num_kv_heads,
        config.head_size,
        backend=backend,
        context=context,
        masking=masking,
        biases=config.biases,
        norm=config.norm if config.query_key_norm else None,
        norm_eps=config.norm_eps,
        std=config.init_std,
        rngs=rngs,
    )


def make_dense(config: ModelConfig, rngs: nnx.Rngs) -> nnx.Module:
    return FeedForward(
        config.hidden_size,
        config.intermediate_size,
        activation=config.activation,
        gated=config.gated,
        bias="mlp" in config.biases,
        std=config.init_std,
        rngs=rngs,
    )


def make_experts(config: ModelConfig, rngs: nnx.Rngs) -> nnx.Module:
    return MoE(
        config.hidden_size,
        config.routing.expert_size or config.intermediate_size,
        config.num_experts,
        config.experts_per_token,
        capacity_factor=config.capacity_factor,
        routing=config.routing,
        std=config.init_std,
        rngs=rngs,
    )
