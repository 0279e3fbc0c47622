"""JetStream's contract on our models: prefill a prompt, insert it into a slot, decode all slots by one token.

The state is explicit: every call takes it and gives it back (its buffers are donated, so the old one is gone).
The engine knows nothing of requests; the scheduler knows nothing of models.

    prefix, first = engine.prefill(params=engine.params, padded_tokens=padded, true_length=n, sampling=row)
    state = engine.insert(prefix, state, slot=3)
    state, result = engine.generate(engine.params, state)

Everything is compiled ahead, for buckets: prompts are padded to the next of `prefill_buckets`; a decode step covers
the first `rows` slots and looks at the first `length` positions of the cache, whichever buckets hold what is in
use. So an almost empty engine does not pay for a full one.

A decoder continues its prompt. An encoder-decoder reads it, and a slot then holds the answer's own keys and values
beside those of what was read (maxllm/generate/prompt.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from maxllm.config.errors import UserError
from maxllm.config.model import ModelConfig
from maxllm.config.serve import EngineConfig
from maxllm.generate import steps
from maxllm.generate.programs import Programs
from maxllm.generate.prompt import Generator, begins_with, empty_cache
from maxllm.generate.result import ResultTokens
from maxllm.generate.sampling import RowSampling
from maxllm.generate.steps import DecodeState, Prefix, Steps
from maxllm.models.decoder import CACHE_AXES
from maxllm.parallel.mesh import single_device_mesh
from maxllm.parallel.rules import shardings, spec

SMALLEST_PROMPT = 32  # buckets below these are not worth a compilation
SMALLEST_WINDOW = 128


class Engine:
    """`model` may be sharded; its mesh is the engine's. Raises UserError when config and model do not fit.

    Of a model whose parameters are `jax.ShapeDtypeStruct`s with shardings, the programs can be lowered and compiled.
    """

    samples_per_slot = 1

    def __init__(self, model: Generator, config: EngineConfig, model_config: ModelConfig | None = None) -> None:
        self.config = config
        self.model_config = model_config = model_config or model.config
        if model_config.architecture == "encoder":
            raise UserError("model.architecture encoder: an encoder writes no text; generate with another model")
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
        # A flat tuple: unlike an nnx.State it costs nothing to hand to a compiled function.
        self.params = tuple(jax.tree.leaves(_placed(parameters, self.dtype, self.mesh)))
        self._steps = Steps(structure, parameters, model_config, self.dtype)
        self._programs = self._declare()

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
        return self._programs["init",]()

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
        program = self._programs["prefill", len(padded_tokens)]
        row = sampling or RowSampling.greedy(1)
        return program(params, padded_tokens, np.int32(true_length), row, np.int32(max_tokens - 1))

    def score(self, params: Any, prefix: Prefix, padded_tokens: np.ndarray) -> jax.Array:
        """Logprobs of the prompt's own tokens, packed int32 `[bucket, LOGPROB_COLUMNS]`; row i is token i + 1's."""
        return self._programs["score", len(padded_tokens)](params, prefix.hidden, padded_tokens)

    def insert(self, prefix: Prefix, decode_state: DecodeState, slot: int) -> DecodeState:
        """The prompt takes the slot; what the slot held before is overwritten whole."""
        program = self._programs["insert", prefix.hidden.shape[0]]
        return program(decode_state, prefix._replace(hidden=None), np.int32(slot))

    def generate(
        self, params: Any, decode_state: DecodeState, *, rows: int | None = None, length: int | None = None
    ) -> tuple[DecodeState, ResultTokens]:
        """One token for each of the first `rows` slots (all by default).

        `length` bounds the positions looked at: no active row may hold more, its new token included, nor may an
        encoder have read more for it, unless `length` is the largest. Both must be buckets. Returns immediately; the
        result's array can be awaited later.
        """
        program = self._programs["generate", rows or self.config.slots, length or self.max_length]
        return program(params, decode_state)

    def free_resource(self, slot: int, decode_state: DecodeState) -> DecodeState:
        """The slot stops decoding before its tokens are used up. (JetStream's takes the slot alone.)"""
        return self._programs["free",](decode_state, np.int32(slot))

    # Buckets, and what a slot holds.

    def begins_at(self, prompt_tokens: int) -> int:
        """The position in a slot's cache of the first token that is drawn."""
        if self.model_config.architecture == "encoder_decoder":
            return len(begins_with(self.model_config))
        return prompt_tokens

    @property
    def scores_prompts(self) -> bool:
        """Whether the model says how likely a prompt's own tokens are."""
        return self.model_config.architecture == "decoder"

    def rows_for(self, slots: int) -> int:
        return next(size for size in self.row_buckets if size >= slots)

    def length_for(self, length: int) -> int:
        return next((size for size in self.length_buckets if size >= length), self.max_length)

    # What is compiled.

    def warm_up(self, progress: Callable[[str, int, int], None] = lambda what, done, total: None) -> None:
        """Compiles every program, so that no request waits. `progress(what, done, total)` after each one."""
        self._programs.compile_all(progress)

    def lower(self, *key: str | int) -> jax.stages.Lowered:
        """One program for `compile`: ("prefill", bucket), ("insert", bucket), ("generate", rows, length), ..."""
        return self._programs.lower(key)

    def _declare(self) -> Programs:
        """Every program with the shapes and layouts of its arguments."""
        whole = NamedSharding(self.mesh, PartitionSpec())
        # The cache is split by kv heads, like the matrices that fill it; the rest is small.
        split = self.model_config.cache_shape[0][0] % self.mesh.shape["tensor"] == 0
        by_heads = NamedSharding(self.mesh, spec(CACHE_AXES)) if split else whole
        one = jax.eval_shape(partial(empty_cache, self.model_config, 1, 1, 1, self.dtype))
        caches = jax.tree.map(lambda part: by_heads if part.ndim == len(CACHE_AXES) else whole, one)
        row_layout = RowSampling(whole, whole, whole, whole, whole)
        state_layout = DecodeState(caches, whole, whole, whole, row_layout)
        prefix_layout = Prefix(caches, whole, whole, whole, whole, row_layout)
        result_layout = ResultTokens(whole)

        def placed(tree: Any, layout: Any) -> Any:
            return jax.tree.map(
                lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), tree, layout
            )

        init = jax.jit(
            partial(self._steps.init, self.config.slots, self.max_length, self.max_prefill_length),
            out_shardings=state_layout,
        )
        prefill = jax.jit(self._steps.prefill, out_shardings=(prefix_layout, result_layout))
        score = jax.jit(self._steps.score, out_shardings=whole)
        insert = jax.jit(steps.insert, donate_argnums=0, out_shardings=state_layout)
        free = jax.jit(steps.free, donate_argnums=0, out_shardings=state_layout)

        params = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), self.params
        )
        state = placed(jax.eval_shape(init), state_layout)
        row, number = RowSampling.greedy(1), np.int32(0)

        def prefix(bucket: int) -> Prefix:
            one_row = jax.eval_shape(
                partial(empty_cache, self.model_config, 1, self.begins_at(bucket), bucket, self.dtype)
            )
            hidden = jax.ShapeDtypeStruct((bucket, self.model_config.hidden_size), self.dtype)
            return placed(Prefix(one_row, hidden, number, number, number, row), prefix_layout)

        def lower_generate(rows: int, length: int) -> jax.stages.Lowered:
            step = partial(self._steps.generate, rows, length)
            return jax.jit(step, donate_argnums=1, out_shardings=(state_layout, result_layout)).lower(params, state)

        programs = Programs(self.mesh)
        programs.add(("init",), init.lower)
        programs.add(("free",), partial(free.lower, state, number))
        for bucket in self.prefill_buckets:
            tokens = np.zeros(bucket, np.int32)
            programs.add(("prefill", bucket), partial(prefill.lower, params, tokens, number, row, number))
            one = prefix(bucket)
            programs.add(("insert", bucket), partial(insert.lower, state, one._replace(hidden=None), number))
            if self.scores_prompts:
                programs.add(("score", bucket), partial(score.lower, params, one.hidden, tokens))
        for rows in self.row_buckets:
            for length in self.length_buckets:
                programs.add(("generate", rows, length), partial(lower_generate, rows, length))
        return programs


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
    return sharding.mesh if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh) else None


def _placed(parameters: nnx.State, dtype: jnp.dtype, mesh: Mesh) -> nnx.State:
    """The parameters in `dtype` where they will be used; shapes stay shapes."""
    layout = shardings(parameters, mesh)
    if not isinstance(jax.tree.leaves(parameters)[0], jax.ShapeDtypeStruct):
        return jax.device_put(_cast(parameters, dtype), layout)
    shapes = jax.eval_shape(partial(_cast, dtype=dtype), parameters)
    return jax.tree.map(lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), shapes, layout)


def _cast(parameters: nnx.State, dtype: jnp.dtype) -> nnx.State:
    """Matrices in the compute dtype, so that a step reads no more bytes than it uses; norms stay float32."""

    def cast(leaf: nnx.Variable) -> nnx.Variable:
        return leaf if "norm" in leaf.get_metadata()["axes"] else leaf.replace(leaf[...].astype(dtype))

    return jax.tree.map(cast, parameters, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
