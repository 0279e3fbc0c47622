"""The decoder: embed, the same block `num_layers` times, norm, head.

The layers are one block whose parameters have a leading `layers` axis, run by one scan: the compiler sees the block
once, however deep the model. Where layers take turns (with a window and without), it sees as many as take a turn.
Parameters are float32; activations are of the compute dtype; logits are float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from maxllm.config.model import ModelConfig
from maxllm.models.attention import Places
from maxllm.models.block import Block, Losses
from maxllm.models.dual_chunk import chunk_rotation
from maxllm.models.encoder_heads import LabelHead
from maxllm.models.linear import Embedding, Linear
from maxllm.models.norm import make_norm
from maxllm.models.positions import sinusoidal
from maxllm.models.prediction import PredictionLayer
from maxllm.models.remat import rematerialised
from maxllm.models.rope import rotation
from maxllm.models.turns import scan_in_turns
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
        shapes = [(config.num_layers, batch, heads, max_length, width) for heads, width in config.cache_shape]
        return cls(*(jnp.zeros(shape, dtype) for shape in shapes))


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
        std = config.init_std
        self.embed = Embedding(config.vocab_size, config.hidden_size, std=std, rngs=rngs)
        if config.positions == "learned":
            self.position = Embedding(config.max_positions, config.hidden_size, axis="norm", std=std, rngs=rngs)
        block = functools.partial(Block, config, attention=attention, context=context)
        if config.leading_layers:
            self.leading = stacked(functools.partial(block, dense=True), config.leading_layers, rngs)
        dense = config.num_experts == 0
        self.layers = stacked(functools.partial(block, dense=dense), config.num_layers - config.leading_layers, rngs)
        if config.prediction_layers:
            layer = functools.partial(PredictionLayer, config, attention=attention, context=context)
            self.prediction = stacked(layer, config.prediction_layers, rngs)
        if config.norm_placement != "post":
            self.norm = make_norm(config.norm, config.hidden_size, eps=config.norm_eps)
        if config.labels:  # instead of words
            self.label_head = LabelHead(config.hidden_size, config.labels, bias=False, std=std, rngs=rngs)
        elif not config.tie_embeddings:
            self.head = Linear({"embed": config.hidden_size}, {"vocab": config.vocab_size}, std=std, rngs=rngs)

    def __call__(self, tokens: jax.Array, positions: jax.Array, segment_ids: jax.Array | None = None) -> jax.Array:
        """Float32 logits `[batch, length, vocab]` for int32 `[batch, length]` tokens."""
        return self.logits(self.hidden(tokens, positions, segment_ids))

    def hidden(self, tokens: jax.Array, positions: jax.Array, segment_ids: jax.Array | None = None) -> jax.Array:
        """What the head sees: `[batch, length, embed]`, after the final norm.

        A token attends to the tokens before it in its row that carry its segment id; without `segment_ids` a row is
        one segment. `positions` count from 0 within each segment.
        """
        return self.hidden_and_losses(tokens, positions, segment_ids)[0]

    def hidden_and_losses(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        segment_ids: jax.Array | None = None,
        prefix: jax.Array | None = None,
    ) -> tuple[jax.Array, Losses]:
        """`hidden`, and each of the routers' losses, added up over the layers.

        `prefix` int32 `[batch, length]`: not 0 in a beginning of each segment that all of the segment sees.
        """
        x = self.begin(tokens, positions, segment_ids, prefix)
        x, losses = self._run(nnx.state(self.layers), x, self.places(positions, prefix), segment_ids)
        return self.final_norm(x), losses

    def places(self, positions: jax.Array, prefix: jax.Array | None = None) -> Places:
        config = self.config
        if config.positions != "rope":
            return Places(positions, prefix=prefix)
        if config.dual_chunk:
            return Places(positions, chunk_rotation(positions, config), prefix=prefix)
        turned = functools.partial(rotation, positions, config.rotary_size, max_positions=config.max_positions)
        whole = turned(config.rope_theta, config.rope_scaling)
        local = whole if config.rope_local_theta is None else turned(config.rope_local_theta, None)
        return Places(positions, whole, local, prefix=prefix)

    def begin(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        segment_ids: jax.Array | None = None,
        prefix: jax.Array | None = None,
    ) -> jax.Array:
        """What the first of the repeated layers sees: `[batch, length, embed]` of the compute dtype."""
        x = constrain(self.embedded(tokens, positions), "batch", "sequence", None)
        if self.config.leading_layers:
            x, _ = self._run(nnx.state(self.leading), x, self.places(positions, prefix), segment_ids)
        return x

    def embedded(self, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        x = self.embed(tokens, self.dtype)
        if self.config.embedding_scale is not None:
            x = x * jnp.asarray(self.config.embedding_scale, self.dtype)
        if self.config.positions == "learned":
            x = x + self.position(positions, self.dtype)
        if self.config.positions == "sinusoidal":
            x = x + sinusoidal(positions, self.config.hidden_size).astype(self.dtype)
        return x

    def final_norm(self, x: jax.Array) -> jax.Array:
        return x if self.config.norm_placement == "post" else self.norm(x)

    def through(self, layers: nnx.State, x: jax.Array, places: Places, segment_ids: jax.Array | None) -> jax.Array:
        """`x` after the given layers: this model's, or a stretch of them (a pipeline's stage), axis `layers` first."""
        return self._run(layers, x, places, segment_ids)[0]

    def _run(
        self, layers: nnx.State, x: jax.Array, places: Places, segment_ids: jax.Array | None
    ) -> tuple[jax.Array, Losses]:
        structure = self._structure(layers)

        def turn(local: bool) -> Callable[..., tuple[jax.Array, Losses]]:
            def layer(x: jax.Array, parameters: nnx.State) -> tuple[jax.Array, Losses]:
                x, losses = nnx.merge(structure, parameters)(x, places, segment_ids, local=local)
                return constrain(x, "batch", "sequence", None), losses

            return rematerialised(layer, *self.remat, x, layers)

        x, losses = scan_in_turns([turn(local) for local in self.config.windows], layers, x)
        return x, jax.tree.map(lambda of_layers: of_layers.sum(), losses)

    def _structure(self, layers: nnx.State) -> nnx.GraphDef:
        """Of the block that `layers` belong to: the repeated ones, or the leading ones, which have no router."""
        leading = self.config.leading_layers and "router" not in layers["mlp"]
        return nnx.split(self.leading if leading else self.layers)[0]

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
        places = self.places(positions)

        def run(layers: nnx.State, indices: jax.Array, carry: tuple[jax.Array, KVCache]) -> tuple[jax.Array, KVCache]:
            structure = self._structure(layers)

            def turn(local: bool) -> Callable[..., Any]:
                def layer(carry: tuple[jax.Array, KVCache], own: tuple[nnx.State, jax.Array]) -> tuple[Any, tuple[()]]:
                    (x, cache), (parameters, index) = carry, own
                    block = nnx.merge(structure, parameters)
                    x, keys, values = block.extend(x, places, *cache, index, window, local=local)
                    return (x, KVCache(keys, values)), ()

                return layer

            return scan_in_turns([turn(local) for local in self.config.windows], (layers, indices), carry)[0]

        carry = (self.embedded(tokens, positions), cache)
        leading = self.config.leading_layers
        if leading:
            carry = run(nnx.state(self.leading), jnp.arange(leading), carry)
        x, cache = run(nnx.state(self.layers), jnp.arange(leading, self.config.num_layers), carry)
        return self.final_norm(x), cache

    def head_kernel(self) -> jax.Array:
        """The head as a float32 matrix `[embed, vocab]`: its own, or the embedding's transpose."""
        return self.embed.embedding[...].T if self.config.tie_embeddings else self.head.kernel[...]

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Float32 `[..., vocab]`: a product in the compute dtype, accumulated in float32."""
        logits = jnp.matmul(hidden, self.head_kernel().astype(hidden.dtype), preferred_element_type=jnp.float32)
        cap = self.config.logits_softcap
        return logits if cap is None else cap * jnp.tanh(logits / cap)


def stacked(block: Callable[..., nnx.Module], count: int, rngs: nnx.Rngs) -> nnx.Module:
    """One module whose parameters are `count` independently initialised ones along a leading `layers` axis."""
    structure, _ = nnx.split(nnx.eval_shape(lambda: block(rngs=nnx.Rngs(0))))
    keys = jax.random.split(rngs.params(), count)
    parameters = jax.vmap(lambda key: nnx.split(block(rngs=nnx.Rngs(params=key)))[1])(keys)
    for _, parameter in nnx.to_flat_state(parameters):
        parameter.set_metadata(axes=("layers", *parameter.get_metadata("axes")))
    return nnx.merge(structure, parameters)
