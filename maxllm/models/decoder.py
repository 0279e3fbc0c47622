"""The decoder: embed, the same block `num_layers` times, norm, head. Llama's shape (Touvron et al. 2023).

The layers are one block whose parameters have a leading `layers` axis, run by one scan: the compiler sees the block
once, however deep the model. Parameters are float32; activations are of the compute dtype; logits are float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from maxllm.config.model import ModelConfig
from maxllm.models.attention import Attention
from maxllm.models.linear import Embedding, Linear
from maxllm.models.mlp import SwiGLU
from maxllm.models.moe import MoE
from maxllm.models.norm import RMSNorm
from maxllm.models.remat import rematerialised
from maxllm.models.rope import Rotation, rotation
from maxllm.parallel.rules import constrain

CACHE_AXES = ("layers", None, "kv_heads", None, "head_dim")  # logical; rows and positions are split over nothing


class KVCache(NamedTuple):
    """Keys (rotated) and values of every layer: `[layers, batch, kv_heads, max_length, head_dim]`.

    Heads before positions: a head's keys are then one matrix as they lie, and a step of decoding on a CPU takes
    half the time that it takes with positions first.
    """

    keys: jax.Array
    values: jax.Array

    @classmethod
    def zeros(cls, config: ModelConfig, batch: int, max_length: int, dtype: Any) -> KVCache:
        shape = (config.num_layers, batch, config.num_kv_heads, max_length, config.head_size)
        return cls(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


class Block(nnx.Module):
    def __init__(self, config: ModelConfig, *, attention: str, context: str, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.attention = Attention(
            config.hidden_size,
            config.num_heads,
            config.num_kv_heads,
            config.head_size,
            backend=attention,
            context=context,
            std=config.init_std,
            rngs=rngs,
        )
        self.mlp_norm = RMSNorm(config.hidden_size, eps=config.norm_eps)
        options = {"std": config.init_std, "rngs": rngs}
        if config.num_experts:
            experts = (config.num_experts, config.experts_per_token)
            options["capacity_factor"] = config.capacity_factor
            self.mlp = MoE(config.hidden_size, config.intermediate_size, *experts, **options)
        else:
            self.mlp = SwiGLU(config.hidden_size, config.intermediate_size, **options)

    def __call__(self, x: jax.Array, by: Rotation, segment_ids: jax.Array | None) -> jax.Array:
        x = x + self.attention(self.attention_norm(x), by, segment_ids)
        return x + self.feed_forward(self.mlp_norm(x), segment_ids)

    def feed_forward(self, x: jax.Array, segment_ids: jax.Array | None = None, **routing: Any) -> jax.Array:
        return self.mlp(x, segment_ids, **routing) if isinstance(self.mlp, MoE) else self.mlp(x)

    def extend(
        self, x: jax.Array, by: Rotation, positions: jax.Array, cache: KVCache, layer: jax.Array, window: int
    ) -> tuple[jax.Array, KVCache]:
        mixed, keys, values = self.attention.extend(self.attention_norm(x), by, positions, *cache, layer, window)
        x = x + mixed
        return x + self.feed_forward(self.mlp_norm(x), dropless=True), KVCache(keys, values)


class Decoder(nnx.Module):
    """Tokens to logits. `dtype`: of activations; the other settings are ComputeConfig's."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        dtype: Any = jnp.float32,
        remat: str = "none",
        save: Sequence[str] = (),
        offload: Sequence[str] = (),
        attention: str = "auto",
        context: str = "ring",
        rngs: nnx.Rngs,
    ):
        self.config = config
        self.dtype = jnp.dtype(dtype)
        self.remat = (remat, tuple(save), tuple(offload))
        self.embed = Embedding(config.vocab_size, config.hidden_size, std=config.init_std, rngs=rngs)
        block = functools.partial(Block, config, attention=attention, context=context)
        self.layers = _stacked(block, config.num_layers, rngs)
        self.norm = RMSNorm(config.hidden_size, eps=config.norm_eps)
        if not config.tie_embeddings:
            self.head = Linear(
                {"embed": config.hidden_size}, {"vocab": config.vocab_size}, std=config.init_std, rngs=rngs
            )

    def __call__(self, tokens: jax.Array, positions: jax.Array, segment_ids: jax.Array | None = None) -> jax.Array:
        """Float32 logits `[batch, length, vocab]` for int32 `[batch, length]` tokens."""
        return self.logits(self.hidden(tokens, positions, segment_ids))

    def hidden(self, tokens: jax.Array, positions: jax.Array, segment_ids: jax.Array | None = None) -> jax.Array:
        """What the head sees: `[batch, length, embed]`, after the final norm.

        A token attends to the tokens before it in its row that carry its segment id; without `segment_ids` a row is
        one segment. `positions` count from 0 within each segment.
        """
        by = rotation(positions, self.config.head_size, self.config.rope_theta)
        return self.norm(self.through(nnx.state(self.layers), self.begin(tokens), by, segment_ids))

    def begin(self, tokens: jax.Array) -> jax.Array:
        """What the first layer sees: `[batch, length, embed]` of the compute dtype."""
        return constrain(self.embed(tokens, self.dtype), "batch", "sequence", None)

    def through(self, layers: nnx.State, x: jax.Array, by: Rotation, segment_ids: jax.Array | None) -> jax.Array:
        """`x` after the given layers: this model's, or a stretch of them (a pipeline's stage), axis `layers` first."""
        structure, _ = nnx.split(self.layers)

        def layer(x: jax.Array, parameters: nnx.State) -> tuple[jax.Array, None]:
            block = nnx.merge(structure, parameters)
            return constrain(block(x, by, segment_ids), "batch", "sequence", None), None

        return jax.lax.scan(rematerialised(layer, *self.remat, x, layers), x, layers)[0]

    def extend(
        self, tokens: jax.Array, positions: jax.Array, cache: KVCache, window: int | None = None
    ) -> tuple[jax.Array, KVCache]:
        """Like `hidden` for tokens that come after what `cache` holds; returns the cache with them in it.

        `tokens`, `positions`: int32 `[batch, t]`. Keys and values are written at `positions`, and a query attends to
        the entries at its own position and before. Positions at or beyond `max_length` are not written.
        A cache may have more rows than `tokens`: those after the first `batch` are neither read nor written. Nor is
        anything at or beyond `window` read, when given: a promise that all `positions` are below it.
        """
        window = window or cache.keys.shape[3]
        by = rotation(positions, self.config.head_size, self.config.rope_theta)
        structure, parameters = nnx.split(self.layers)

        def layer(carry: tuple[jax.Array, KVCache], at: tuple[nnx.State, jax.Array]):
            parameters, index = at
            return nnx.merge(structure, parameters).extend(carry[0], by, positions, carry[1], index, window), None

        x = self.embed(tokens, self.dtype)
        (x, cache), _ = jax.lax.scan(layer, (x, cache), (parameters, jnp.arange(self.config.num_layers)))
        return self.norm(x), cache

    def head_kernel(self) -> jax.Array:
        """The head as a float32 matrix `[embed, vocab]`: its own, or the embedding's transpose."""
        return self.embed.embedding[...].T if self.config.tie_embeddings else self.head.kernel[...]

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Float32 `[..., vocab]`: a product in the compute dtype, accumulated in float32."""
        return jnp.matmul(hidden, self.head_kernel().astype(hidden.dtype), preferred_element_type=jnp.float32)


def _stacked(block: Callable[..., nnx.Module], count: int, rngs: nnx.Rngs) -> nnx.Module:
    """One module whose parameters are `count` independently initialised ones along a leading `layers` axis."""
    structure, _ = nnx.split(nnx.eval_shape(lambda: block(rngs=nnx.Rngs(0))))
    keys = jax.random.split(rngs.params(), count)
    parameters = jax.vmap(lambda key: nnx.split(block(rngs=nnx.Rngs(params=key)))[1])(keys)
    for _, parameter in nnx.to_flat_state(parameters):
        parameter.set_metadata(axes=("layers", *parameter.get_metadata("axes")))
    return nnx.merge(structure, parameters)
