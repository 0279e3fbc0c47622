"""The encoder: embed words, places and kinds of tokens; layers that see the whole segment; a head.

BERT (Devlin et al. 2018), RoBERTa (Liu et al. 2019), ELECTRA (Clark et al. 2020) and DeBERTa (He et al. 2020, 2021) are
settings of it. Layers are stacked and scanned as the decoder's.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from maxllm.config.model import ModelConfig
from maxllm.config.model_parts import LabelsConfig
from maxllm.models.attention import Places
from maxllm.models.block import Block, Losses
from maxllm.models.decoder import stacked
from maxllm.models.disentangled_attention import span
from maxllm.models.encoder_heads import LabelHead, WordsHead
from maxllm.models.linear import Embedding, Linear
from maxllm.models.norm import make_norm
from maxllm.models.remat import rematerialised
from maxllm.parallel.rules import constrain

NEXT_SENTENCE = LabelsConfig(kind="sequence", count=2, hidden="tanh")  # class 0: it follows, as in BERT
REPLACED = LabelsConfig(kind="token", count=1, hidden="gelu")


class Encoder(nnx.Module):
    """Tokens to hidden states, and to scores. `dtype`: of activations; the other settings are ComputeConfig's."""

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
        own, hidden, std = config.encoder, config.hidden_size, config.init_std
        width = own.embedding_size or hidden
        norm = functools.partial(make_norm, config.norm, eps=config.norm_eps)
        table = functools.partial(Embedding, axis="norm", std=std, rngs=rngs)
        self.embed = Embedding(config.vocab_size, width, std=std, rngs=rngs)
        if own.type_vocab_size:
            self.type = table(own.type_vocab_size, width)
        self.decodes = own.mask_decoder_layers > 0 and config.labels is None and own.head == "words"
        if config.positions == "learned" or self.decodes:
            self.position = table(config.max_positions + own.position_offset, width)
        if config.embedding_norm:
            self.embedding_norm = norm(width)
        if width != hidden:
            self.embedding_projection = Linear({"norm": width}, {"embed": hidden}, bias=True, std=std, rngs=rngs)
        if config.positions == "disentangled":
            self.relative = table(2 * span(own), hidden)
            if own.relative_norm:
                self.relative_norm = norm(hidden)
        block = functools.partial(Block, config, dense=True, attention=attention, context=context)
        self.layers = stacked(block, config.num_layers, rngs)
        if config.norm_placement != "post":
            self.norm = norm(hidden)
        if config.labels:
            self.label_head = LabelHead(hidden, config.labels, std=std, rngs=rngs)
        elif own.head == "replaced":
            self.label_head = LabelHead(hidden, REPLACED, std=std, rngs=rngs)
        else:
            self.words = WordsHead(
                hidden,
                width,
                config.vocab_size,
                activation=config.activation,
                norm=config.norm,
                norm_eps=config.norm_eps,
                std=std,
                rngs=rngs,
            )
            if own.head == "next_sentence":
                self.label_head = LabelHead(hidden, NEXT_SENTENCE, std=std, rngs=rngs)

    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        segment_ids: jax.Array | None = None,
        types: jax.Array | None = None,
    ) -> jax.Array:
        """Float32 scores of words `[batch, length, vocab]` for int32 `[batch, length]` tokens."""
        return self.logits(self.hidden(tokens, positions, segment_ids, types))

    def hidden(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        segment_ids: jax.Array | None = None,
        types: jax.Array | None = None,
    ) -> jax.Array:
        """What the head sees: `[batch, length, embed]`.

        A token attends to all tokens of its row that carry its segment id; without `segment_ids` a row is one segment.
        `positions` count from 0 within each segment; `types` are 0 when absent.
        """
        x = self.begin(tokens, positions, segment_ids, types)
        places = self.places(positions)
        layers = nnx.state(self.layers)
        if self.decodes:
            before = jax.tree.map(lambda leaf: leaf[:-1], layers)
            return self._mask_decoded(self.through(before, x, places, segment_ids), layers, places, segment_ids)
        return self.final_norm(self.through(layers, x, places, segment_ids))

    def begin(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        segment_ids: jax.Array | None = None,
        types: jax.Array | None = None,
    ) -> jax.Array:
        """What the first layer sees: `[batch, length, embed]` of the compute dtype."""
        x = self.embed(tokens, self.dtype)
        if self.config.encoder.type_vocab_size:
            x = x + self.type(jnp.zeros_like(tokens) if types is None else types, self.dtype)
        if self.config.positions == "learned":
            x = x + self._absolute(positions)
        if self.config.embedding_norm:
            x = self.embedding_norm(x)
        if hasattr(self, "embedding_projection"):
            x = self.embedding_projection(x)
        return constrain(x, "batch", "sequence", None)

    def places(self, positions: jax.Array) -> Places:
        if self.config.positions != "disentangled":
            return Places(positions)
        table = self.relative.embedding[...].astype(self.dtype)
        return Places(positions, relative=self.relative_norm(table) if self.config.encoder.relative_norm else table)

    def through(self, layers: nnx.State, x: jax.Array, places: Places, segment_ids: jax.Array | None) -> jax.Array:
        """`x` after the given layers, axis `layers` first."""
        structure = nnx.split(self.layers)[0]

        def layer(x: jax.Array, parameters: nnx.State) -> tuple[jax.Array, Losses]:
            x, losses = nnx.merge(structure, parameters)(x, places, segment_ids)
            return constrain(x, "batch", "sequence", None), losses

        return jax.lax.scan(rematerialised(layer, *self.remat, x, layers), x, layers)[0]

    def final_norm(self, x: jax.Array) -> jax.Array:
        return x if self.config.norm_placement == "post" else self.norm(x)

    def scored(self, hidden: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The factors of the words' scores, for `maxllm.kernels.cross_entropy`: see WordsHead."""
        return self.words(hidden, self.embed.embedding[...])

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Float32 `[..., vocab]`: a product in the compute dtype, accumulated in float32."""
        inputs, kernel = self.scored(hidden)
        return jnp.matmul(inputs, kernel.astype(inputs.dtype), preferred_element_type=jnp.float32)

    def labels(self, hidden: jax.Array, segment_ids: jax.Array | None = None) -> jax.Array:
        """What the head for labels makes of `hidden`: see LabelHead."""
        return self.label_head(hidden, segment_ids)

    def _absolute(self, positions: jax.Array) -> jax.Array:
        return self.position(positions + self.config.encoder.position_offset, self.dtype)

    def _mask_decoded(
        self, x: jax.Array, layers: nnx.State, places: Places, segment_ids: jax.Array | None
    ) -> jax.Array:
        """DeBERTa's enhanced mask decoder (He et al. 2020, section 3.2, as in the authors' code): the last layer, whose
        queries are what it would see with absolute positions added, and then what it made of those; keys stay `x`.
        """
        last = jax.tree.map(lambda leaf: leaf[-1], layers)
        structure = nnx.split(self.layers)[0]

        def layer(queries: jax.Array, parameters: nnx.State) -> tuple[jax.Array, Losses]:
            return nnx.merge(structure, parameters).asked(queries, x, places, segment_ids), {}

        layer = rematerialised(layer, *self.remat, x, layers)
        queries = x + self._absolute(places.positions)
        for _ in range(self.config.encoder.mask_decoder_layers):
            queries, _ = layer(queries, last)
        return queries
