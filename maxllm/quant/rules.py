"""Which products are quantized: the layers' matrices, by path. Norms, scores, embedding, head, router never are."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from maxllm.config.compute import ComputeConfig
from maxllm.config.errors import UserError
from maxllm.models.linear import Linear
from maxllm.quant import products
from maxllm.quant.delayed import Amax, Delayed

Memory = nnx.State | tuple[()]

FORMATS: dict[str, Callable[[tuple[int, ...], tuple[str | None, ...]], Any]] = {
    "int8": lambda stack, axes: products.int8,
    "fp8": lambda stack, axes: products.fp8,
    "fp8_delayed": Delayed,
}


def quantized(structure: nnx.GraphDef, shapes: nnx.State, compute: ComputeConfig) -> tuple[nnx.GraphDef, Memory]:
    """The structure to train with, and what its products remember before the first step: () if nothing.

    The parameters (`shapes`: they, or their shapes) stay as they were, in float32; `nnx.merge(new structure,
    join(parameters, memory))` is the model. A product is quantized if an expression in `compute.precision_modules`
    matches the whole of its path, such as "layers/attention/query".

    Raises UserError if an expression matches nothing: a run with a mistyped rule would go on, only slowly.
    """
    if compute.precision == "none":
        return structure, ()
    modules = compute.precision_modules
    model = nnx.merge(structure, shapes)
    linear = {"/".join(map(str, path)): module for path, module in nnx.iter_modules(model) if _may(module)}
    for pattern in modules:
        if not any(re.fullmatch(pattern, path) for path in linear):
            raise UserError(
                f"compute.precision_modules: {pattern!r} matches no matrix product of this model; there are "
                f"{', '.join(sorted(linear))}"
            )
    for path, module in linear.items():
        if any(re.fullmatch(pattern, path) for pattern in modules):
            module.product = FORMATS[compute.precision](module.kernel.shape[:1], module.kernel.get_metadata("axes")[:1])
    new, memory, _ = nnx.split(model, Amax, ...)
    return new, memory if jax.tree.leaves(memory) else ()


def join(parameters: nnx.State, memory: Memory) -> nnx.State:
    """One state to differentiate with respect to."""
    return nnx.merge_state(parameters, memory) if memory else parameters


def split(gradients: nnx.State) -> tuple[nnx.State, Memory]:
    """The parameters' gradients, and what the products met, for `after_step`."""
    met, rest = nnx.split_state(gradients, Amax, ...)
    return rest, met if jax.tree.leaves(met) else ()


def _may(module: nnx.Module) -> bool:
    """A matrix of the stacked layers; one into `experts` is a router, whose choice among them is delicate."""
    if not isinstance(module, Linear):
        return False
    axes = module.kernel.get_metadata("axes")
    return axes[0] == "layers" and axes[-1] != "experts"
