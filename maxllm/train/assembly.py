"""The training step that a config describes: the one place where its parts are put together.

The loop runs it, `maxllm plan` compiles it for machines that are not here; neither may know a setting that the other
forgets.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import optax
from flax import nnx
from jax.sharding import Mesh

from maxllm.batch import texts_per_row
from maxllm.config.train import TrainConfig
from maxllm.models.create import abstract
from maxllm.objectives import causal_lm
from maxllm.objectives.classification import classification, rerank
from maxllm.objectives.contrastive import contrastive
from maxllm.objectives.encoder_decoder import encoder_decoder
from maxllm.objectives.masked_lm import masked_lm
from maxllm.objectives.replaced_token import replaced_token
from maxllm.optim import make_optimizer
from maxllm.quant import quantized
from maxllm.train.state import TrainState, abstract_state
from maxllm.train.step import Adapt, Objective, Step, make_train_step


class Assembly(NamedTuple):
    """`structure`: of the model that is evaluated and exported; `trained`: of the one in training's precision."""

    structure: nnx.GraphDef
    trained: nnx.GraphDef
    parameters: nnx.State  # shapes
    scaling: Any  # what low precision remembers, at its beginning
    optimizer: optax.GradientTransformation
    objective: Objective


def assemble(config: TrainConfig) -> Assembly:
    structure, parameters = abstract(config.model, config.compute)
    trained, scaling = quantized(structure, parameters, config.compute)
    rate = config.model.routing.bias_rate if config.model.num_experts else 0.0
    optimizer = make_optimizer(config.optimizer, config.schedule, config.train.steps, config.sparsity, bias_rate=rate)
    return Assembly(structure, trained, parameters, scaling, optimizer, _objective(config))


def _objective(config: TrainConfig) -> Objective:
    """What is learned from the batches that maxllm.data makes for `objective.name`."""
    chunk = config.compute.loss_chunk
    if config.objective.name in ("classification", "rerank"):
        return classification if config.objective.name == "classification" else rerank
    if config.objective.name == "contrastive":
        return functools.partial(contrastive, texts=texts_per_row(config.data.sequence_length))
    if config.model.architecture == "encoder_decoder":
        return functools.partial(encoder_decoder, loss_chunk=chunk)
    if config.objective.name == "replaced_token":
        return functools.partial(replaced_token, loss_chunk=chunk)
    if config.objective.name == "masked_lm":
        return functools.partial(masked_lm, loss_chunk=chunk)
    return functools.partial(causal_lm, loss_chunk=chunk, prediction_weight=config.objective.prediction_weight)


def state_shapes(config: TrainConfig, parts: Assembly, mesh: Mesh, objective: Any = ()) -> TrainState:
    """`objective`: what the objective remembers, at its beginning."""
    return abstract_state(
        parts.parameters, parts.optimizer, mesh, objective, scaling=parts.scaling, compress=config.mesh.compress
    )


def train_step(
    config: TrainConfig, parts: Assembly, mesh: Mesh, *, adapt: Adapt | None = None, frozen: Any = ()
) -> Step:
    return make_train_step(
        parts.trained,
        parts.objective,
        parts.optimizer,
        mesh,
        accumulation_steps=config.train.accumulation_steps,
        zero=config.mesh.zero,
        compress=config.mesh.compress,
        flags=config.compute.compiler_flags,
        pipeline=config.pipeline,
        adapt=adapt,
        frozen=frozen,
    )
