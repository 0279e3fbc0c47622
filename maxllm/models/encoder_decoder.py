"""The encoder-decoder: a stack of layers that reads a text in both directions, and one that writes another, looking at
what was read (Vaswani et al. 2017; T5, Raffel et al. 2019; BART, Lewis et al. 2019).

Both stacks are the decoder's blocks, stacked and scanned; the word table and, where tied, the head are shared.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from maxllm.batch import EncoderDecoderBatch
from maxllm.config.model import ModelConfig
from maxllm.kernels.masking import Masking
from maxllm.models.attention import Places
from maxllm.models.block import Block, Losses
from maxllm.models.cross_attention import CrossAttention
from maxllm.models.decoder import KVCache, stacked
from maxllm.models.linear import Embedding, Linear
from maxllm.models.norm import make_norm
from maxllm.models.positions import sinusoidal
from maxllm.models.relative_bias import BiasedPlaces, RelativeBias
from maxllm.models.remat import rematerialised
from maxllm.parallel.rules import constrain


class PairCache(NamedTuple):
    """What a decoder keeps of texts being written, and of those that were read for them."""

    own: KVCache  # its own keys and values, as any decoder's
    memory: KVCache  # those of the encoder's states: [layers, rows, kv_heads, source, head_dim]
    lengths: jax.Array  # int32 [1, rows]: how many of a row's places in `memory` hold something; rows second, as above

    @classmethod
    def zeros(cls, config: ModelConfig, batch: int, max_length: int, source: int, dtype: Any) -> PairCache:
        own, memory = (KVCache.zeros(config, batch, length, dtype) for length in (max_length, source))
        return cls(own, memory, jnp.zeros((1, batch), jnp.int32))


class DecoderLayer(Block):
    """Between its attention to itself and its feed-forward part, attention to what the encoder has read."""

    def __init__(self, config: ModelConfig, *, attention: str, context: str, rngs: nnx.Rngs):
        super().__init__(config, dense=True, attention=attention, context=context, rngs=rngs)
        self.cross_norm = _norm(config)
        if self.placement == "both":
            self.cross_post_norm = _norm(config)
        self.cross = CrossAttention(
            config.hidden_size,
            config.num_heads,
            config.num_kv_heads,
            config.head_size,
            masking=Masking(causal=False, softcap=config.attention_softcap, scale=config.attention_scale),
            biases=config.biases,
            std=config.init_std,
            rngs=rngs,
        )

    def __call__(
        self, x: jax.Array, places: Any, segment_ids: jax.Array | None, encoded: jax.Array, encoder_segment_ids: Any
    ) -> tuple[jax.Array, Losses]:
        x, _ = self._around("attention", lambda x: (self.attention(x, places, segment_ids), ()), x)
        x, _ = self._around("cross", lambda x: (self.cross(x, encoded, segment_ids, encoder_segment_ids), ()), x)
        return self._around("mlp", self.feed_forward, x)

    def extend(
        self, x: jax.Array, places: Any, cache: PairCache, layer: jax.Array, windows: tuple[int, int]
    ) -> tuple[jax.Array, KVCache]:
        """As `Block.extend`, reading as many places of the own part and of the memory as `windows` say; the own part
        comes back with this layer's new keys and values."""

        def attend(x: jax.Array) -> tuple[jax.Array, Any]:
            mixed, *own = self.attention.extend(x, places, *cache.own, layer, windows[0])
            return mixed, own

        def look(x: jax.Array) -> tuple[jax.Array, Any]:
            return self.cross.remember(x, *cache.memory, cache.lengths[0, : x.shape[0]], layer, windows[1]), ()

        x, own = self._around("attention", attend, x)
        x, _ = self._around("cross", look, x)
        return self._around("mlp", self.feed_forward, x)[0], KVCache(*own)


class Stack(nnx.Module):
    """The layers of one side, with what stands before and after them."""

    def __init__(
        self,
        config: ModelConfig,
        layer: Callable[..., nnx.Module],
        count: int,
        *,
        bidirectional: bool,
        remat: tuple[Any, ...],
        rngs: nnx.Rngs,
    ):
        self.config = config
        self.remat = remat
        sizes = config.encoder_decoder
        if config.positions == "learned":
            rows = config.max_positions + sizes.position_offset
            self.position = Embedding(rows, config.hidden_size, axis="norm", std=config.init_std, rngs=rngs)
        elif config.positions == "relative":
            self.bias = RelativeBias(
                sizes.relative_buckets,
                config.num_heads,
                max_distance=sizes.relative_distance,
                bidirectional=bidirectional,
                std=config.init_std,
                rngs=rngs,
            )
        if config.embedding_norm:
            self.embedding_norm = _norm(config)
        self.layers = stacked(layer, count, rngs)
        if config.norm_placement != "post":
            self.norm = _norm(config)

    def begin(self, x: jax.Array, positions: jax.Array) -> jax.Array:
        """What the first layer sees of embedded words."""
        if self.config.positions == "learned":
            x = x + self.position(positions + self.config.encoder_decoder.position_offset, x.dtype)
        elif self.config.positions == "sinusoidal":
            x = x + sinusoidal(positions, x.shape[-1]).astype(x.dtype)
        return constrain(self.embedding_norm(x) if self.config.embedding_norm else x, "batch", "sequence", None)

    def places(self, positions: jax.Array) -> Places | BiasedPlaces:
        if self.config.positions != "relative":
            return Places(positions)
        return BiasedPlaces(positions, self.bias.by_distance(positions.shape[1]))

    def places_before(self, positions: jax.Array, window: int) -> Places | BiasedPlaces:
        """Of queries that look at a cache's first `window` entries."""
        if self.config.positions != "relative":
            return Places(positions)
        return BiasedPlaces(positions, self.bias.at(positions, window))

    def through(self, x: jax.Array, *told: Any) -> jax.Array:
        """`x` after all layers, each of them told the same."""
        structure, layers = nnx.split(self.layers)

        def layer(x: jax.Array, parameters: nnx.State) -> tuple[jax.Array, tuple[()]]:
            return constrain(nnx.merge(structure, parameters)(x, *told)[0], "batch", "sequence", None), ()

        x = jax.lax.scan(rematerialised(layer, *self.remat, x, layers), x, layers)[0]
        return self.final_norm(x)

    def final_norm(self, x: jax.Array) -> jax.Array:
        return x if self.config.norm_placement == "post" else self.norm(x)


class EncoderDecoder(nnx.Module):
    """Pairs of texts to logits. `dtype`: of activations; the other settings are ComputeConfig's."""

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
        std, kept = config.init_std, (remat, tuple(save), tuple(offload))
        self.embed = Embedding(config.vocab_size, config.hidden_size, std=std, rngs=rngs)
        how = {"attention": attention, "context": context}
        reads = functools.partial(Block, config, dense=True, causal=False, **how)
        writes = functools.partial(DecoderLayer, config, **how)
        count = config.encoder_decoder.num_encoder_layers
        self.encoder = Stack(config, reads, count, bidirectional=True, remat=kept, rngs=rngs)
        self.decoder = Stack(config, writes, config.num_layers, bidirectional=False, remat=kept, rngs=rngs)
        if not config.tie_embeddings:
            self.head = Linear({"embed": config.hidden_size}, {"vocab": config.vocab_size}, std=std, rngs=rngs)

    def __call__(self, batch: EncoderDecoderBatch) -> jax.Array:
        """Float32 logits `[batch, length, vocab]` at every place of the decoder's rows."""
        return self.logits(self.hidden(batch))

    def hidden(self, batch: EncoderDecoderBatch) -> jax.Array:
        """What the head sees of the decoder's rows: `[batch, length, embed]`.

        Segment k of a decoder's row sees itself, causally, and all of segment k of the encoder's row, whatever the two
        rows' lengths are.
        """
        read, written = batch
        encoded = self.encode(read.tokens, read.positions, read.segment_ids)
        x = self.decoder.begin(self.embedded(written.tokens), written.positions)
        places = self.decoder.places(written.positions)
        return self.decoder.through(x, places, written.segment_ids, encoded, read.segment_ids)

    def encode(self, tokens: jax.Array, positions: jax.Array, segment_ids: jax.Array | None = None) -> jax.Array:
        """The encoder's states `[batch, source, embed]`; every token sees all of its segment."""
        x = self.encoder.begin(self.embedded(tokens), positions)
        return self.encoder.through(x, self.encoder.places(positions), segment_ids)

    def embedded(self, tokens: jax.Array) -> jax.Array:
        x = self.embed(tokens, self.dtype)
        scale = self.config.embedding_scale
        return x if scale is None else x * jnp.asarray(scale, self.dtype)

    def remember(self, encoded: jax.Array, lengths: jax.Array, max_length: int) -> PairCache:
        """An empty cache for texts of `max_length` that look at `encoded` `[batch, source, embed]`, whose rows hold
        `lengths` `[batch]` tokens."""

        def each(parameters: nnx.State) -> tuple[jax.Array, jax.Array]:
            return nnx.merge(structure, parameters).memory(encoded)

        structure, cross = nnx.split(self.decoder.layers.cross)
        memory = (part.swapaxes(2, 3) for part in jax.lax.map(each, cross))  # heads before places
        own = KVCache.zeros(self.config, encoded.shape[0], max_length, encoded.dtype)
        return PairCache(own, KVCache(*memory), lengths[None].astype(jnp.int32))

    def extend(
        self, tokens: jax.Array, positions: jax.Array, cache: PairCache, window: int | None = None
    ) -> tuple[jax.Array, PairCache]:
        """Like `hidden` for tokens that come after those the cache holds; as `Decoder.extend`. `window`: also a
        promise that no row of the first `batch` remembers more than so many tokens of its encoder."""
        lengths = (part.keys.shape[3] for part in (cache.own, cache.memory))
        windows = tuple(min(window or length, length) for length in lengths)
        places = self.decoder.places_before(positions, windows[0])
        structure, layers = nnx.split(self.decoder.layers)

        def layer(carry: tuple[jax.Array, KVCache], one: tuple[nnx.State, jax.Array]) -> tuple[Any, tuple[()]]:
            (x, own), (parameters, index) = carry, one
            return nnx.merge(structure, parameters).extend(x, places, cache._replace(own=own), index, windows), ()

        x = self.decoder.begin(self.embedded(tokens), positions)
        (x, own), _ = jax.lax.scan(layer, (x, cache.own), (layers, jnp.arange(self.config.num_layers)))
        return self.decoder.final_norm(x), cache._replace(own=own)

    def scored(self, hidden: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Two factors of the logits: `[..., embed]` and float32 `[embed, vocab]`."""
        scale = self.config.encoder_decoder.head_scale
        return hidden if scale is None else hidden * jnp.asarray(scale, hidden.dtype), self.head_kernel()

    def head_kernel(self) -> jax.Array:
        return self.embed.embedding[...].T if self.config.tie_embeddings else self.head.kernel[...]

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Float32 `[..., vocab]`: a product in the compute dtype, accumulated in float32."""
        inputs, kernel = self.scored(hidden)
        return jnp.matmul(inputs, kernel.astype(inputs.dtype), preferred_element_type=jnp.float32)


def _norm(config: ModelConfig) -> nnx.Module:
    return make_norm(config.norm, config.hidden_size, eps=config.norm_eps)
