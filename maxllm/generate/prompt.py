"""A prompt as a model takes it in before it begins to answer, and the cache that answers are written with.

A decoder continues its prompt: both lie in one cache. An encoder-decoder reads its prompt with the encoder and begins
an answer of its own, whose cache holds the tokens that every answer begins with.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from maxllm.config.model import ModelConfig
from maxllm.models.decoder import Decoder, KVCache
from maxllm.models.encoder_decoder import EncoderDecoder, PairCache
from maxllm.tokenizer import Tokenizer

Generator = Decoder | EncoderDecoder
Cache = KVCache | PairCache


class Taken(NamedTuple):
    """A prompt of one row, taken in."""

    cache: Cache
    hidden: jax.Array  # [bucket, embed], of the prompt's own tokens
    last: jax.Array  # [1, embed], from which the first token is drawn
    length: jax.Array  # int32, positions cached


def take_in(model: Generator, tokens: jax.Array, length: jax.Array) -> Taken:
    """`tokens`: int32 `[bucket]`, of which the first `length` are the prompt."""
    bucket = tokens.shape[0]
    positions = jnp.arange(bucket)[None]
    if isinstance(model, EncoderDecoder):
        encoded = model.encode(tokens[None], positions, (positions < length).astype(jnp.int32))
        begin = jnp.array(begins_with(model.config))
        cache = model.remember(encoded, length[None], begin.size)
        hidden, cache = model.extend(begin[None], jnp.arange(begin.size)[None], cache)
        return Taken(cache, encoded[0], hidden[0, -1:], jnp.int32(begin.size))
    # What follows the prompt is cached too, and overwritten before anything attends to it.
    hidden, cache = model.extend(tokens[None], positions, KVCache.zeros(model.config, 1, bucket, model.dtype))
    return Taken(cache, hidden[0], jax.lax.dynamic_slice_in_dim(hidden[0], length - 1, 1), length)


def empty_cache(config: ModelConfig, rows: int, length: int, longest_prompt: int, dtype: Any) -> Cache:
    """For `rows` texts of up to `length` tokens, the prompt among them or read by an encoder."""
    if config.architecture == "encoder_decoder":
        return PairCache.zeros(config, rows, length, longest_prompt, dtype)
    return KVCache.zeros(config, rows, length, dtype)


def begins_with(config: ModelConfig) -> tuple[int, ...]:
    """The tokens that an encoder-decoder's answers begin with, before any is drawn."""
    pair = config.encoder_decoder
    return (pair.start_id,) if pair.forced_id is None else (pair.start_id, pair.forced_id)


def prompt_ids(tokenizer: Tokenizer, text: str, config: ModelConfig, *, bos: bool = True) -> list[int]:
    """A text as the model wants its prompt: with a bos, if it has one; an encoder's text is also ended."""
    ids = tokenizer.encode(text, bos=bos, eos=config.architecture == "encoder_decoder")
    # An empty text without a bos still needs a token to start from.
    return ids or [tokenizer.eos_id or 0]
