"""JetStream's contract on our decoder: prefill a prompt, insert it into a slot, decode all slots by one token.

The state is explicit: every call takes it and gives it back (its buffers are donated, so the old one is gone).
The engine knows nothing of requests; the scheduler knows nothing of models.

    prefix, first = engine.prefill(params=engine.params, padded_tokens=padded, true_length=n, sampling=row)
    state = engine.insert(prefix, state, slot=3)
    state, result = engine.generate(engine.params, state)

Everything is compiled ahead, for buckets: prompts are padded to the next of `prefill_buckets`; a decode step covers
the first `rows` slots and looks at the first `length` positions of the cache, whichever buckets hold what is in
use. So an almost empty engine does not pay for a full one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from maxllm.config.errors import UserError
from maxllm.config.serve import EngineConfig
from maxllm.config.train import ModelConfig
from maxllm.generate.result import LOGPROB_COLUMNS, ResultTokens
from maxllm.generate.sampling import RowSampling, sample, token_logprobs
from maxllm.models.decoder import Decoder, KVCache
from maxllm.parallel.mesh import single_device_mesh
from maxllm.parallel.rules import shardings, spec

SMALLEST_PROMPT = 32  # buckets below these are not worth a compilation
SMALLEST_WINDOW = 128
SCORED_AT_ONCE = 64  # prompt positions whose logits exist at once


class Prefix(NamedTuple):
    """A prompt, prefilled; `bucket` is its padded length."""

    cache: KVCache  # one row, `bucket` positions
    hidden: jax.Array  # [bucket, embed], to score the prompt from
    token: jax.Array  # int32, the first one drawn
    length: jax.Array  # int32, the prompt's true length
    remaining: jax.Array  # int32, tokens still to be drawn after the first
    sampling: RowSampling  # of one row

    @property
    def bucket(self) -> int:
        return self.hidden.shape[0]


class DecodeState(NamedTuple):
    """All slots. `tokens` are drawn but not cached yet: they enter the cache at `lengths` in the next step."""

    cache: KVCache
    tokens: jax.Array  # int32 [slots]
    lengths: jax.Array  # int32 [slots], cached positions
    remaining: jax.Array  # int32 [slots], 0 = idle
    sampling: RowSampling


class Engine:
    """`model` may be sharded; its mesh is the engine's. Raises UserError when config and model do not fit."""

    samples_per_slot = 1

    def __init__(self, model: Decoder, config: EngineConfig, model_config: ModelConfig | None = None) -> None:
        self.config = config
        self.model_config = model_config = model_config or model.config
        self.max_length = config.max_length or model_config.max_positions
        if self.max_length > model_config.max_positions:
            raise UserError(
                f"engine.max_length {self.max_length} is longer than the model's {model_config.max_positions} positions"
            )
        self.prefill_buckets = sorted(config.prefill_buckets) or _doubling(SMALLEST_PROMPT, self.max_length)
        self.row_buckets = _row_buckets(config.slots)
        self.length_buckets = _doubling(SMALLEST_WINDOW, self.max_length)
        self.dtype = jnp.dtype(config.dtype)

        structure, parameters = nnx.split(model)
        self.mesh = _mesh_of(parameters) or single_device_mesh()
        placed = jax.device_put(_cast(parameters, self.dtype), shardings(parameters, self.mesh))
        # A flat tuple: unlike an nnx.State it costs nothing to hand to a compiled function.
        leaves, self._tree = jax.tree.flatten(placed)
        self.params = tuple(leaves)
        self._structure = _structure(structure, parameters, self.dtype)
        self._layout = self._shardings()
        self._compile()

    # The contract.

    @property
    def max_concurrent_decodes(self) -> int:
        return self.config.slots

    @property
    def max_prefill_length(self) -> int:
        return self.prefill_buckets[-1]

    def load_params(self) -> Any:
        return self.params

    def init_decode_state(self) -> DecodeState:
        """Empty slots. Allocates the whole KV cache, once."""
        with self._context():
            return self._init()

    def pad(self, tokens: Sequence[int]) -> np.ndarray:
        """int32 `[bucket]`, zeros after the prompt."""
        bucket = next(size for size in self.prefill_buckets if size >= len(tokens))
        padded = np.zeros(bucket, np.int32)
        padded[: len(tokens)] = tokens
        return padded

    def prefill(
        self,
        *,
        params: Any,
        padded_tokens: np.ndarray,
        true_length: int,
        sampling: RowSampling | None = None,
        max_tokens: int = 1,
    ) -> tuple[Prefix, ResultTokens]:
        """Caches a prompt and draws its first token. `padded_tokens` int32 `[bucket]`."""
        row = sampling or RowSampling.greedy(1)
        with self._context():
            return self._prefill(params, padded_tokens, np.int32(true_length), row, np.int32(max_tokens - 1))

    def score(self, params: Any, prefix: Prefix, padded_tokens: np.ndarray) -> jax.Array:
        """Logprobs of the prompt's own tokens, packed int32 `[bucket, LOGPROB_COLUMNS]`; row i is token i + 1's."""
        with self._context():
            return self._score(params, prefix.hidden, padded_tokens)

    def insert(self, prefix: Prefix, decode_state: DecodeState, slot: int) -> DecodeState:
        """The prompt takes the slot; what the slot held before is overwritten whole."""
        with self._context():
            return self._insert(decode_state, prefix._replace(hidden=None), np.int32(slot))

    def generate(
        self, params: Any, decode_state: DecodeState, *, rows: int | None = None, length: int | None = None
    ) -> tuple[DecodeState, ResultTokens]:
        """One token for each of the first `rows` slots (all by default).

        `length` bounds the positions looked at: no active row may hold more, its new token included. Both must be
        buckets. Returns immediately; the result's array can be awaited later.
        """
        with self._context():
            return self._generate(rows or self.config.slots, length or self.max_length, params, decode_state)

    def free_resource(self, slot: int, decode_state: DecodeState) -> DecodeState:
        """The slot stops decoding before its tokens are used up. (JetStream's takes the slot alone.)"""
        with self._context():
            return self._free(decode_state, np.int32(slot))

    # Buckets.

    def rows_for(self, slots: int) -> int:
        return next(size for size in self.row_buckets if size >= slots)

    def length_for(self, length: int) -> int:
        return next((size for size in self.length_buckets if size >= length), self.max_length)

    def warm_up(self, progress: Callable[[str, int, int], None] = lambda what, done, total: None) -> None:
        """Runs every program once on idle slots, so that no request waits for a compiler.

        `progress(what, done, total)` is called before each one and once at the end.
        """
        total = len(self.prefill_buckets) + len(self.row_buckets) * len(self.length_buckets)
        done = 0
        state = self.init_decode_state()
        for bucket in self.prefill_buckets:
            progress(f"prefill {bucket}", done, total)
            padded = np.zeros(bucket, np.int32)
            prefix, _ = self.prefill(params=self.params, padded_tokens=padded, true_length=1)
            self.score(self.params, prefix, padded)
            state = self.free_resource(0, self.insert(prefix, state, 0))
            done += 1
        for rows in self.row_buckets:
            for length in self.length_buckets:
                progress(f"decode {rows} x {length}", done, total)
                state, result = self.generate(self.params, state, rows=rows, length=length)
                result.convert_to_numpy()
                done += 1
        progress("ready", total, total)

    # What is compiled.

    def _compile(self) -> None:
        whole = NamedSharding(self.mesh, PartitionSpec())
        prefix = Prefix(KVCache(*[self._layout.cache.keys] * 2), *[whole] * 4, RowSampling(*[whole] * 5))
        self._init = jax.jit(self._init_step, out_shardings=self._layout)
        self._prefill = jax.jit(self._prefill_step, out_shardings=(prefix, ResultTokens(whole)))
        self._score = jax.jit(self._score_step, out_shardings=whole)
        self._insert = jax.jit(_insert_step, donate_argnums=0, out_shardings=self._layout)
        self._free = jax.jit(_free_step, donate_argnums=0, out_shardings=self._layout)
        self._generate = jax.jit(
            self._generate_step,
            static_argnums=(0, 1),
            donate_argnums=3,
            out_shardings=(self._layout, ResultTokens(whole)),
        )

    def _shardings(self) -> DecodeState:
        """The cache is split by kv heads, like the matrices that fill it; the rest is small."""
        whole = NamedSharding(self.mesh, PartitionSpec())
        split = self.model_config.num_kv_heads % self.mesh.shape["tensor"] == 0
        cache = NamedSharding(self.mesh, spec(KVCache.AXES)) if split else whole
        return DecodeState(KVCache(cache, cache), whole, whole, whole, RowSampling(*[whole] * 5))

    def _model(self, params: tuple[jax.Array, ...]) -> Decoder:
        return nnx.merge(self._structure, jax.tree.unflatten(self._tree, params))

    def _context(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if self.mesh.size == 1 else jax.set_mesh(self.mesh)

    def _init_step(self) -> DecodeState:
        slots = self.config.slots
        return DecodeState(
            cache=KVCache.zeros(self.model_config, slots, self.max_length, self.dtype),
            tokens=jnp.zeros(slots, jnp.int32),
            lengths=jnp.zeros(slots, jnp.int32),
            remaining=jnp.zeros(slots, jnp.int32),
            sampling=jax.tree.map(jnp.asarray, RowSampling.greedy(slots)),
        )

    def _prefill_step(
        self, params: Any, tokens: jax.Array, length: jax.Array, sampling: RowSampling, remaining: jax.Array
    ) -> tuple[Prefix, ResultTokens]:
        model = self._model(params)
        bucket = tokens.shape[0]
        cache = KVCache.zeros(self.model_config, 1, bucket, self.dtype)
        # What follows the prompt is cached too, and overwritten before anything attends to it.
        hidden, cache = model.extend(tokens[None], jnp.arange(bucket)[None], cache)
        logits = model.logits(jax.lax.dynamic_slice_in_dim(hidden[0], length - 1, 1))
        token, result = _draw(logits, length[None], jnp.ones(1, bool), sampling)
        return Prefix(cache, hidden[0], token[0], length, remaining, sampling), result

    def _score_step(self, params: Any, hidden: jax.Array, tokens: jax.Array) -> jax.Array:
        model = self._model(params)
        following = jnp.roll(tokens, -1)
        chunk = min(SCORED_AT_ONCE, hidden.shape[0])
        padding = -hidden.shape[0] % chunk
        hidden = jnp.pad(hidden, ((0, padding), (0, 0))).reshape(-1, chunk, hidden.shape[-1])
        following = jnp.pad(following, (0, padding)).reshape(-1, chunk)
        packed = jax.lax.map(lambda part: token_logprobs(model.logits(part[0]), part[1]), (hidden, following))
        return packed.reshape(-1, LOGPROB_COLUMNS)

    def _generate_step(
        self, rows: int, length: int, params: Any, state: DecodeState
    ) -> tuple[DecodeState, ResultTokens]:
        model = self._model(params)
        tokens, lengths, remaining = (part[:rows] for part in (state.tokens, state.lengths, state.remaining))
        sampling = jax.tree.map(lambda part: part[:rows], state.sampling)
        active = remaining > 0
        # An idle row computes too, at a position of its own slot that the next insert overwrites.
        positions = jnp.minimum(lengths, length - 1)
        hidden, cache = model.extend(tokens[:, None], positions[:, None], state.cache, window=length)
        drawn, result = _draw(model.logits(hidden[:, 0]), lengths + 1, active, sampling)
        state = state._replace(
            cache=cache,
            tokens=state.tokens.at[:rows].set(jnp.where(active, drawn, tokens)),
            lengths=state.lengths.at[:rows].add(active),
            remaining=state.remaining.at[:rows].add(-active.astype(jnp.int32)),
        )
        return state, result


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


def _insert_step(state: DecodeState, prefix: Prefix, slot: jax.Array) -> DecodeState:
    def fill(cache: jax.Array, row: jax.Array) -> jax.Array:
        # Zeros to the end: a NaN left behind by the previous request would reach this one through 0 * NaN.
        missing = [(0, whole - own) for whole, own in zip(cache.shape, row.shape, strict=True)]
        missing[1] = (0, 0)
        return jax.lax.dynamic_update_slice_in_dim(cache, jnp.pad(row, missing), slot, axis=1)

    return DecodeState(
        cache=KVCache(*map(fill, state.cache, prefix.cache)),
        tokens=state.tokens.at[slot].set(prefix.token),
        lengths=state.lengths.at[slot].set(prefix.length),
        remaining=state.remaining.at[slot].set(prefix.remaining),
        sampling=RowSampling(
            *(all_.at[slot].set(one[0]) for all_, one in zip(state.sampling, prefix.sampling, strict=True))
        ),
    )


def _free_step(state: DecodeState, slot: jax.Array) -> DecodeState:
    return state._replace(remaining=state.remaining.at[slot].set(0))


def _doubling(smallest: int, largest: int) -> list[int]:
    """Powers of two from `smallest`, below `largest`; and `largest`."""
    sizes = []
    while smallest < largest:
        sizes.append(smallest)
        smallest *= 2
    return [*sizes, largest]


def _row_buckets(slots: int) -> list[int]:
    """`slots` and its quarters, and 1: `[1, 8, 32]` for 32."""
    sizes = {1, slots}
    while slots >= 16:
        slots //= 4
        sizes.add(slots)
    return sorted(sizes)


def _mesh_of(parameters: nnx.State) -> Mesh | None:
    sharding = jax.tree.leaves(parameters)[0].sharding
    return sharding.mesh if isinstance(sharding, NamedSharding) else None


def _structure(structure: nnx.GraphDef, parameters: nnx.State, dtype: jnp.dtype) -> nnx.GraphDef:
    """The same model, computing in `dtype`."""
    model = nnx.merge(structure, parameters)
    model.dtype = dtype
    return nnx.split(model)[0]


def _cast(parameters: nnx.State, dtype: jnp.dtype) -> nnx.State:
    """Matrices in the compute dtype, so that a step reads no more bytes than it uses; norms stay float32."""

    def cast(leaf: nnx.Variable) -> nnx.Variable:
        return leaf if "norm" in leaf.get_metadata()["axes"] else leaf.replace(leaf[...].astype(dtype))

    return jax.tree.map(cast, parameters, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
