"""What the engine compiles: pure functions from parameters and state to state and one result."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from maxllm.config.model import ModelConfig
from maxllm.generate.prompt import Cache, Generator, empty_cache, take_in
from maxllm.generate.result import LOGPROB_COLUMNS, ResultTokens
from maxllm.generate.sampling import Array, RowSampling, sample, token_logprobs

SCORED_AT_ONCE = 64  # prompt positions whose logits exist at once


class Prefix(NamedTuple):
    """A prompt, prefilled and padded to `bucket` positions."""

    cache: Cache  # of one row
    hidden: Array  # [bucket, embed], to score the prompt from; None once that is past
    token: Array  # int32, the first one drawn
    length: Array  # int32, positions cached: the prompt's true length, or what an encoder-decoder begins with
    remaining: Array  # int32, tokens still to be drawn after the first
    sampling: RowSampling  # of one row


class DecodeState(NamedTuple):
    """All slots. `tokens` are drawn but not cached yet: they enter the cache at `lengths` in the next step."""

    cache: Cache
    tokens: Array  # int32 [slots]
    lengths: Array  # int32 [slots], cached positions
    remaining: Array  # int32 [slots], 0 = idle
    sampling: RowSampling


class Steps:
    """`parameters`: the model's, computing in `dtype`. The functions take them as a flat tuple of their leaves."""

    def __init__(self, structure: nnx.GraphDef, parameters: nnx.State, config: ModelConfig, dtype: jnp.dtype) -> None:
        model = nnx.merge(structure, parameters)
        model.dtype = dtype
        self._structure = nnx.split(model)[0]
        self._tree = jax.tree.structure(parameters)
        self._config = config
        self._dtype = dtype

    def init(self, slots: int, max_length: int, longest_prompt: int) -> DecodeState:
        return DecodeState(
            cache=empty_cache(self._config, slots, max_length, longest_prompt, self._dtype),
            tokens=jnp.zeros(slots, jnp.int32),
            lengths=jnp.zeros(slots, jnp.int32),
            remaining=jnp.zeros(slots, jnp.int32),
            sampling=jax.tree.map(jnp.asarray, RowSampling.greedy(slots)),
        )

    def prefill(
        self, params: Any, tokens: jax.Array, length: jax.Array, sampling: RowSampling, remaining: jax.Array
    ) -> tuple[Prefix, ResultTokens]:
        model = self._model(params)
        taken = take_in(model, tokens, length)
        token, result = _draw(model.logits(taken.last), taken.length[None], jnp.ones(1, bool), sampling)
        return Prefix(taken.cache, taken.hidden, token[0], taken.length, remaining, sampling), result

    def score(self, params: Any, hidden: jax.Array, tokens: jax.Array) -> jax.Array:
        model = self._model(params)
        following = jnp.roll(tokens, -1)
        chunk = min(SCORED_AT_ONCE, hidden.shape[0])
        padding = -hidden.shape[0] % chunk
        hidden = jnp.pad(hidden, ((0, padding), (0, 0))).reshape(-1, chunk, hidden.shape[-1])
        following = jnp.pad(following, (0, padding)).reshape(-1, chunk)
        packed = jax.lax.map(lambda part: token_logprobs(model.logits(part[0]), part[1]), (hidden, following))
        return packed.reshape(-1, LOGPROB_COLUMNS)

    def generate(self, rows: int, length: int, params: Any, state: DecodeState) -> tuple[DecodeState, ResultTokens]:
        model = self._model(params)
        tokens, lengths, remaining = (part[:rows] for part in (state.tokens, state.lengths, state.remaining))
        sampling = jax.tree.map(lambda part: part[:rows], state.sampling)
        active = remaining > 0
        # An idle row computes too, at a position of its own slot that the next insert overwrites.
        positions = jnp.minimum(lengths, length - 1)
        # The longest window is everything: an encoder may have read more than a decoder may write.
        window = length if length < jax.tree.leaves(state.cache)[0].shape[3] else None
        hidden, cache = model.extend(tokens[:, None], positions[:, None], state.cache, window=window)
        drawn, result = _draw(model.logits(hidden[:, 0]), lengths + 1, active, sampling)
        state = state._replace(
            cache=cache,
            tokens=state.tokens.at[:rows].set(jnp.where(active, drawn, tokens)),
            lengths=state.lengths.at[:rows].add(active),
            remaining=state.remaining.at[:rows].add(-active.astype(jnp.int32)),
        )
        return state, result

    def _model(self, params: tuple[jax.Array, ...]) -> Generator:
        return nnx.merge(self._structure, jax.tree.unflatten(self._tree, params))


def insert(state: DecodeState, prefix: Prefix, slot: jax.Array) -> DecodeState:
    def fill(cache: jax.Array, row: jax.Array) -> jax.Array:
        # Zeros to the end: a NaN left behind by the previous request would reach this one through 0 * NaN.
        missing = [(0, whole - own) for whole, own in zip(cache.shape, row.shape, strict=True)]
        missing[1] = (0, 0)
        return jax.lax.dynamic_update_slice_in_dim(cache, jnp.pad(row, missing), slot, axis=1)

    return DecodeState(
        cache=jax.tree.map(fill, state.cache, prefix.cache),
        tokens=state.tokens.at[slot].set(prefix.token),
        lengths=state.lengths.at[slot].set(prefix.length),
        remaining=state.remaining.at[slot].set(prefix.remaining),
        sampling=RowSampling(
            *(rows.at[slot].set(row[0]) for rows, row in zip(state.sampling, prefix.sampling, strict=True))
        ),
    )


def free(state: DecodeState, slot: jax.Array) -> DecodeState:
    return state._replace(remaining=state.remaining.at[slot].set(0))


def _draw(
    logits: jax.Array, positions: jax.Array, active: jax.Array, sampling: RowSampling
) -> tuple[jax.Array, ResultTokens]:
    """Next tokens of `[rows, vocab]` logits, to stand at `positions`, and the result that goes to the host."""
    sampling = sampling._replace(
        temperature=jnp.where(active, sampling.temperature, 0), logprobs=active & sampling.logprobs
    )
    tokens = sample(logits, positions, sampling)
    logprobs = jax.lax.cond(
        sampling.logprobs.any(),
        lambda: token_logprobs(logits, tokens),
        lambda: jnp.zeros((logits.shape[0], LOGPROB_COLUMNS), jnp.int32),
    )
    # The largest logit is not finite if any is NaN or +inf: such a row has nothing to say.
    valid = active & jnp.isfinite(logits.max(axis=-1))
    return tokens, ResultTokens.pack(tokens, valid, positions, logprobs)
