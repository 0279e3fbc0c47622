"""Sparse training around any optimizer: masks in its state, and parameters that are zero where a mask is.

What the model computes with, what is evaluated, saved and exported are therefore the sparse parameters themselves;
nothing but this file knows of masks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from maxllm.config.errors import UserError
from maxllm.config.sparsity import SparsityConfig
from maxllm.optim.thresholds import keep_largest

RESIDUAL = ("embed", "expert_embed")
Leaves = dict[str, nnx.Variable]  # by path; only what may be sparse
Masks = dict[str, jax.Array]  # True where a weight is kept


class SparseState(NamedTuple):
    """`count`: updates made, int32. `sparsity`: share of zeros among the weights that may be, float32.

    `masks`: bool, True where a weight is kept. `dense`: with `straight_through`, the weights as they would be without a
    mask, float32; else empty. `inner`: the optimizer's state.
    """

    count: jax.Array
    sparsity: jax.Array
    masks: Leaves
    dense: Leaves
    inner: Any


def sparse(optimizer: optax.GradientTransformation, config: SparsityConfig, steps: int) -> optax.GradientTransformation:
    """`optimizer` for a run of `steps`, keeping weights at exactly zero by `config`.

    A weight that is masked is set to zero and stays there. With `straight_through` it goes on learning out of sight:
    its gradient, taken at the sparse weights, goes to its dense copy with a pull towards zero, decay · weight, and
    each new mask is chosen among the dense copies (SR-STE, Zhou et al. 2021, equation 9).

    Raises UserError if a matrix cannot be cut into groups of m.
    """
    last = config.last_step(steps)
    choose = _n_m(config) if config.name == "n_m" else _magnitude(config, last)

    def init(parameters: Any) -> SparseState:
        leaves = maskable(parameters)
        if config.name == "n_m":
            _check_groups(leaves, config.m)
        masks = {path: leaf.replace(jnp.ones(leaf.shape, jnp.bool_)) for path, leaf in leaves.items()}
        # Copies: a state's arrays are donated, each once.
        dense = {path: leaf.replace(jnp.copy(leaf[...])) for path, leaf in leaves.items()}
        return SparseState(
            jnp.int32(0), jnp.float32(0), masks, dense if config.straight_through else {}, optimizer.init(parameters)
        )

    def update(gradients: Any, state: SparseState, parameters: Any) -> tuple[Any, SparseState]:
        if config.straight_through:
            learning = _replaced(parameters, state.dense)

            def pulled(path: str, gradient: jax.Array) -> jax.Array:
                return gradient + config.decay * jnp.where(state.masks[path][...], 0, state.dense[path][...])

            gradients = _mapped(pulled, gradients)
        else:
            learning = parameters
            gradients = _mapped(lambda path, gradient: jnp.where(state.masks[path][...], gradient, 0), gradients)
        updates, inner = optimizer.update(gradients, state.inner, learning)
        learned = maskable(optax.apply_updates(learning, updates))
        if not config.straight_through:  # what the moments still push masked weights to is no magnitude of theirs
            learned = {
                path: leaf.replace(jnp.where(state.masks[path][...], leaf[...], 0)) for path, leaf in learned.items()
            }
        due = (state.count >= config.begin_step) & (state.count <= last)
        due &= ((state.count - config.begin_step) % config.every == 0) | (state.count == last)
        old = {path: mask[...] for path, mask in state.masks.items()}
        new, share = jax.lax.cond(
            due, lambda: _with_share(choose(learned, old, state.count)), lambda: (old, state.sparsity)
        )

        before = maskable(parameters)

        def towards_sparse(path: str, update: jax.Array) -> jax.Array:
            """What added to the parameter gives the new weight, or exactly zero."""
            kept = learned[path][...] - before[path][...] if config.straight_through else update
            return jnp.where(new[path], kept, -before[path][...])

        masks = {path: mask.replace(new[path]) for path, mask in state.masks.items()}
        return _mapped(towards_sparse, updates), SparseState(
            state.count + 1, share, masks, learned if config.straight_through else {}, inner
        )

    return optax.GradientTransformation(init, update)


def maskable(parameters: Any) -> Leaves:
    """The layers' matrices. Not the norms' weights, nor a router's matrix, whose outputs are `experts`."""
    leaves = jax.tree_util.tree_flatten_with_path(parameters, is_leaf=_is_variable)[0]
    return {_name(path): leaf for path, leaf in leaves if _may(leaf)}


def _is_variable(leaf: Any) -> bool:
    return isinstance(leaf, nnx.Variable)


def _may(leaf: Any) -> bool:
    axes = leaf.get_metadata("axes") if _is_variable(leaf) else ()
    return "layers" in axes and "norm" not in axes and axes[-1] != "experts"


def _name(path: Any) -> str:
    return ".".join(str(getattr(entry, "key", getattr(entry, "name", entry))) for entry in path)


def _mapped(function: Callable[[str, jax.Array], jax.Array], tree: Any) -> Any:
    """`tree` with `function(path, array)` in the place of each array that may be sparse."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf.replace(function(_name(path), leaf[...])) if _may(leaf) else leaf,
        tree,
        is_leaf=_is_variable,
    )


def _replaced(tree: Any, leaves: Leaves) -> Any:
    return _mapped(lambda path, _: leaves[path][...], tree)


def _with_share(masks: Masks) -> tuple[Masks, jax.Array]:
    """`masks`, and the share of zeros in all of them; of means, since there may be more than an int32 counts."""
    total = sum(mask.size for mask in masks.values())
    return masks, sum(jnp.mean(~mask, dtype=jnp.float32) * (mask.size / total) for mask in masks.values())


# Which weights ------------------------------------------------------------------------------------

Choose = Callable[[Leaves, Masks, jax.Array], Masks]  # (weights, masks before, step) -> masks


def _magnitude(config: SparsityConfig, last: int) -> Choose:
    def choose(weights: Leaves, masks: Masks, step: jax.Array) -> Masks:
        values = {path: weight[...] for path, weight in weights.items()}
        chosen = keep_largest(values, cubic(config, last, step), whole=config.scope == "global")
        return chosen if config.straight_through else {path: chosen[path] & masks[path] for path in masks}

    return choose


def cubic(config: SparsityConfig, last: int, step: jax.Array) -> jax.Array:
    """Share of zeros after `step`: final · (1 - (1 - progress)^3) (Zhu and Gupta 2017, equation 1, from 0)."""
    progress = jnp.clip((step - config.begin_step) / max(last - config.begin_step, 1), 0, 1)
    return config.final * (1 - (1 - jnp.where(step >= last, 1.0, progress)) ** 3)


def _n_m(config: SparsityConfig) -> Choose:
    def choose(weights: Leaves, masks: Masks, step: jax.Array) -> Masks:
        return {
            path: keep_n_of_m(weight[...], config.n, config.m, input_axis(weight)) for path, weight in weights.items()
        }

    return choose


def input_axis(matrix: nnx.Variable) -> int:
    """The axis of neighbours in the sum that a product is: the residual stream comes in or goes out at one end."""
    axes = matrix.get_metadata("axes")
    return len(axes) - 2 if axes[-1] in RESIDUAL else next(i for i, axis in enumerate(axes) if axis in RESIDUAL)


def _check_groups(matrices: Leaves, m: int) -> None:
    for path, matrix in matrices.items():
        if (size := matrix.shape[input_axis(matrix)]) % m:
            raise UserError(f"sparsity.m {m} does not divide the {size} inputs of {path}; choose one of their divisors")


def keep_n_of_m(weights: jax.Array, n: int, m: int, axis: int) -> jax.Array:
    """True for the n largest magnitudes of every m neighbours along `axis`; of equal ones the first."""
    groups = jnp.abs(weights).reshape(*weights.shape[:axis], -1, m, *weights.shape[axis + 1 :])
    places = [jax.lax.index_in_dim(groups, index, axis + 1, keepdims=False) for index in range(m)]
    kept = []
    for index, here in enumerate(places):
        ahead = [
            there >= here if other < index else there > here for other, there in enumerate(places) if other != index
        ]
        kept.append(sum(part.astype(jnp.int32) for part in ahead) < n)
    return jnp.stack(kept, axis + 1).reshape(weights.shape)
