"""A step's gradients when the layers are spread over the mesh axis `stage`.

The micro-batches of a step follow one another through the stages. At every tick all stages compute at once, each on
another micro-batch, and hand on what they made. Embedding and head are nobody's stage: all devices compute them
together, at the tick at which a micro-batch enters or leaves (their vocabulary is split over the stages too).

gpipe (Huang et al. 2019): all micro-batches forward, then all backward, by automatic differentiation.
interleaved (Narayanan et al. 2021, section 2.2): the same, the layers going around the stages more than once.
1f1b (Narayanan et al. 2019): a micro-batch goes backward as soon as it leaves the last stage, so that at most
2 · stages - 1 are on their way, however many there are.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from maxllm.batch import Batch
from maxllm.config.parallel import PipelineConfig
from maxllm.parallel import pipeline as stages_of
from maxllm.parallel.rules import RULES, constrain, mesh_axes
from maxllm.train.micro_batches import mean, micro_batches, sum_over

Terms = dict[str, Any]


def pipelined_gradients(
    structure: nnx.GraphDef,
    objective: Any,
    parameters: nnx.State,
    batch: Batch,
    accumulation_steps: int,
    *,
    pipeline: PipelineConfig,
) -> tuple[nnx.State, Terms]:
    """As `maxllm.train.step.accumulated_gradients`."""
    return mean(*summed_in_stages(structure, objective, parameters, batch, accumulation_steps, pipeline=pipeline))


def summed_in_stages(
    structure: nnx.GraphDef,
    objective: Any,
    parameters: nnx.State,
    batch: Batch,
    accumulation_steps: int,
    *,
    pipeline: PipelineConfig,
) -> tuple[nnx.State, Terms]:
    """As `maxllm.train.step.summed_gradients`: of the sum of the term "loss", float32."""
    chunks = pipeline.chunks if pipeline.schedule == "interleaved" else 1
    parts = _Parts(structure, objective, parameters, batch, accumulation_steps, chunks)
    run = _one_forward_one_backward if pipeline.schedule == "1f1b" else _all_forward_then_all_backward
    d_groups, d_outer, terms = run(parts, stages_of.group(parts.layers, parts.stages, chunks), parts.outer)
    return nnx.merge_state(d_outer, stages_of.ungroup(d_groups)), terms


def pipelined_terms(structure: nnx.GraphDef, objective: Any, parameters: nnx.State, batch: Batch) -> Terms:
    """The objective's terms, sums not yet divided, of a batch whose rows go through the stages in as many parts as
    there are stages, where they divide so."""
    mesh = jax.sharding.get_abstract_mesh()
    stages, apart = mesh.shape["stage"], math.prod(mesh.shape[axis] for axis in mesh_axes(RULES["batch"]))
    count = stages if batch.tokens.shape[0] % (stages * apart) == 0 else 1
    parts = _Parts(structure, objective, parameters, batch, count, 1)
    finished = _forward(parts, stages_of.group(parts.layers, stages), parts.outer)

    def terms(at: tuple[jax.Array, jax.Array]) -> Terms:
        number, x = at
        return parts.loss(parts.outer, stages_of.take(x, -1), number)[1]

    return sum_over(terms, (jnp.arange(count), finished))


class _Parts:
    """The model as functions of its parameters: `groups`, of the layers by stage, and `outer`, all the others."""

    def __init__(
        self,
        structure: nnx.GraphDef,
        objective: Any,
        parameters: nnx.State,
        batch: Batch,
        count: int,
        chunks: int,
    ):
        self.structure, self.objective, self.count = structure, objective, count
        self.layers, self.outer = nnx.split_state(parameters, lambda path, _: path[0] == "layers", ...)
        self.stages = jax.sharding.get_abstract_mesh().shape["stage"]
        self.chunks = chunks
        self.batches = micro_batches(batch, count)
        self.numbers = jnp.arange(self.stages)

    def model(self, outer: nnx.State) -> Any:
        """Whose own layers nobody runs."""
        return nnx.merge(self.structure, _like(self.outer, outer), self.layers)

    def batch(self, number: jax.Array) -> Batch:
        """Micro-batch `number`; some other one where there is none of that number."""
        return jax.tree.map(lambda rows: jnp.take(rows, number, axis=0, mode="clip"), self.batches)

    def begin(self, outer: nnx.State, number: jax.Array) -> jax.Array:
        """What the first stage gets of micro-batch `number`."""
        batch = self.batch(number)
        return self.model(outer).begin(batch.tokens, batch.positions, batch.segment_ids)

    def through(self, groups: nnx.State, x: jax.Array, item: jax.Array) -> jax.Array:
        """`x` `[stages, batch, length, embed]` after the layers of each stage that its `item` `[stages]` is for."""
        model = self.model(self.outer)
        chunk, number = self.place(item)
        positions, segment_ids = (
            constrain(jnp.take(rows, number, axis=0, mode="clip"), "layers", "batch", "length")
            for rows in (self.batches.positions, self.batches.segment_ids)
        )

        def stage(group: nnx.State, x: jax.Array, positions: jax.Array, segment_ids: jax.Array) -> jax.Array:
            return model.through(group["layers"], x, model.places(positions), segment_ids)

        layers = stages_of.choose(_like(self.layers, groups), jnp.clip(chunk, 0, self.chunks - 1))
        return stages_of.spread(stages_of.on_all_stages(stage)(layers, x, positions, segment_ids))

    def place(self, item: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The chunk and the micro-batch that the `item`-th passage through a stage is about.

        As many micro-batches as there are stages go around together, chunk after chunk, then the next as many: the
        last stage's output comes to the first stage just when its turn for it is.
        """
        round_, within = item // (self.stages * self.chunks), item % (self.stages * self.chunks)
        return within // self.stages, round_ * self.stages + within % self.stages

    def loss(self, outer: nnx.State, x: jax.Array, number: jax.Array) -> tuple[jax.Array, Terms]:
        """The term "loss" summed over micro-batch `number`, and all terms, from what the last stage made of it."""
        terms = self.objective(_Finished(self.model(outer), x), self.batch(number))
        return terms["loss"].sum, terms


class _Finished:
    """A model all of whose layers have been run: its hidden states are known."""

    def __init__(self, model: Any, x: jax.Array):
        self._model, self._x = model, x

    def hidden(self, *_: Any) -> jax.Array:
        return self._model.final_norm(self._x)

    def hidden_and_losses(self, *_: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        return self.hidden(), {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def _all_forward_then_all_backward(
    parts: _Parts, groups: nnx.State, outer: nnx.State
) -> tuple[nnx.State, nnx.State, Terms]:
    """GPipe, and with more than one chunk the interleaved schedule."""
    numbers = jnp.arange(parts.count)
    # Rounded in every tick, so that what the ticks' gradients add up to is not.
    finished, back = jax.vjp(lambda *p: _forward(parts, *p), _as_float32(groups), _as_float32(outer))

    def head(at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, nnx.State, Terms]:
        number, x = at
        (d_outer, d_x), terms = jax.grad(parts.loss, argnums=(0, 1), has_aux=True)(outer, stages_of.take(x, -1), number)
        return d_x, d_outer, terms

    def one(sums: Any, at: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
        d_x, *rest = head(at)
        return jax.tree.map(_add, sums, tuple(rest)), stages_of.put(jnp.zeros_like(at[1]), -1, d_x)

    (d_outer, terms), d_finished = jax.lax.scan(one, _no_gradients(parts, outer, finished[0]), (numbers, finished))
    d_groups, d_begun = back(d_finished)
    return d_groups, jax.tree.map(jnp.add, d_outer, d_begun), terms


def _forward(parts: _Parts, groups: nnx.State, outer: nnx.State) -> jax.Array:
    """What the last stage makes of every micro-batch: `[micro-batches, stages, batch, length, embed]`, and whatever
    the other stages made at those ticks, so that nothing has to leave its stage."""

    def tick(carry: tuple[jax.Array, jax.Array], t: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
        x, finished = carry
        item = t - parts.numbers
        chunk, number = parts.place(t)
        x = jnp.where(chunk == 0, stages_of.put(x, 0, parts.begin(outer, number)), x)
        # Stages without a micro-batch compute on zeros: nothing there overflows, and 0 times it is 0.
        x = stages_of.where((item >= 0) & (item < items), x)
        y = parts.through(groups, x, item)
        # Written again at every chunk and last at the last one.
        _, number = parts.place(t - (parts.stages - 1))
        finished = jax.lax.dynamic_update_index_in_dim(finished, y, jnp.maximum(number, 0), 0)
        return (stages_of.spread(stages_of.onward(y)), finished), None

    items = parts.count * parts.chunks
    x = _nothing(parts, outer)
    finished = constrain(jnp.zeros((parts.count, *x.shape), x.dtype), None, "layers", "batch", "sequence", None)
    return jax.lax.scan(tick, (x, finished), jnp.arange(items + parts.stages - 1))[0][1]


class _Flight(NamedTuple):
    """What 1F1B carries from tick to tick."""

    x: jax.Array  # [stages, batch, length, embed]: what each stage is to go forward with
    d_y: jax.Array  # the same of gradients: of each stage's output, to go backward with
    saved: jax.Array  # [stages, 2 stages - 1, batch, length, embed]: what they went forward with, by tick
    d_groups: nnx.State
    d_outer: nnx.State
    terms: Terms


def _one_forward_one_backward(parts: _Parts, groups: nnx.State, outer: nnx.State) -> tuple[nnx.State, nnx.State, Terms]:
    """At tick t stage s takes micro-batch t - s forward and micro-batch t - 2 (stages - 1) + s backward.

    For the last stage they are the same one. Only a stage's inputs are kept: backward, it runs forward again.
    """
    behind, ring = parts.stages - 1, 2 * parts.stages - 1

    def forward(flight: _Flight, t: jax.Array) -> tuple[_Flight, jax.Array]:
        x = stages_of.put(flight.x, 0, parts.begin(outer, t))
        saved = jax.lax.dynamic_update_index_in_dim(flight.saved, x, t % ring, 1)
        y = parts.through(groups, x, t - parts.numbers)
        return flight._replace(x=stages_of.spread(stages_of.onward(y)), saved=saved), y

    def head(flight: _Flight, y: jax.Array, t: jax.Array) -> _Flight:
        (d_outer, d_y), terms = jax.grad(parts.loss, argnums=(0, 1), has_aux=True)(
            outer, stages_of.take(y, -1), t - behind
        )
        d_outer, terms = jax.tree.map(_add, (flight.d_outer, flight.terms), (d_outer, terms))
        return flight._replace(d_y=stages_of.put(flight.d_y, -1, d_y), d_outer=d_outer, terms=terms)

    def backward(flight: _Flight, t: jax.Array) -> _Flight:
        item = t - 2 * behind + parts.numbers
        # Gone forward `2 (behind - s)` ticks ago.
        slot = (t - 2 * (behind - parts.numbers)) % ring
        x = stages_of.choose(flight.saved, slot)
        there = (item >= 0) & (item < parts.count)
        _, back = jax.vjp(lambda groups, x: parts.through(groups, x, item), groups, x)
        d_groups, d_x = jax.tree.map(lambda d: stages_of.where(there, d), back(flight.d_y))
        _, back = jax.vjp(lambda outer: parts.begin(outer, t - 2 * behind), outer)
        d_outer = jax.tree.map(_add, flight.d_outer, back(stages_of.take(d_x, 0))[0])
        d_groups = jax.tree.map(_add, flight.d_groups, d_groups)
        return flight._replace(d_y=stages_of.spread(stages_of.backward(d_x)), d_groups=d_groups, d_outer=d_outer)

    def warm_up(flight: _Flight, t: jax.Array) -> tuple[_Flight, None]:
        return forward(flight, t)[0], None

    def steady(flight: _Flight, t: jax.Array) -> tuple[_Flight, None]:
        flight, y = forward(flight, t)
        return backward(head(flight, y, t), t), None

    def drain(flight: _Flight, t: jax.Array) -> tuple[_Flight, None]:
        return backward(flight, t), None

    x = _nothing(parts, outer)
    saved = jnp.zeros((parts.stages, ring, *x.shape[1:]), x.dtype)
    saved = constrain(saved, "layers", None, "batch", "sequence", None)
    d_groups = jax.tree.map(jnp.zeros_like, _as_float32(groups))
    flight = _Flight(x, x, saved, d_groups, *_no_gradients(parts, outer, x))
    steady_end = behind + parts.count
    flight, _ = jax.lax.scan(warm_up, flight, jnp.arange(behind))
    flight, _ = jax.lax.scan(steady, flight, jnp.arange(behind, steady_end))
    flight, _ = jax.lax.scan(drain, flight, jnp.arange(steady_end, steady_end + behind))
    return flight.d_groups, flight.d_outer, flight.terms


def _nothing(parts: _Parts, outer: nnx.State) -> jax.Array:
    """`[stages, batch, length, embed]` zeros: no stage has a micro-batch yet."""
    x = jax.eval_shape(lambda: parts.begin(outer, jnp.int32(0)))
    return stages_of.spread(jnp.zeros((parts.stages, *x.shape), x.dtype))


def _no_gradients(parts: _Parts, outer: nnx.State, x: jax.Array) -> tuple[nnx.State, Terms]:
    """Zeros for the sums of the head's gradients, float32, and of the terms. `x` `[stages, ...]`."""
    terms = jax.eval_shape(lambda: parts.loss(outer, x[0], jnp.int32(0))[1])
    return jax.tree.map(jnp.zeros_like, _as_float32(outer)), jax.tree.map(lambda t: jnp.zeros(t.shape, t.dtype), terms)


def _add(total: jax.Array, part: jax.Array) -> jax.Array:
    return total + part.astype(total.dtype)


def _as_float32(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)


def _like(tree: Any, wide: Any) -> Any:
    """`wide` in the dtypes of `tree`."""
    return jax.tree.map(lambda leaf, other: other.astype(leaf.dtype), tree, wide)
