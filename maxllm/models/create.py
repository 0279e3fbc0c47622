"""A model made where it will live, or only its shapes."""

from __future__ import annotations

import math

import jax
from flax import nnx
from jax.sharding import Mesh

from maxllm.config.compute import ComputeConfig
from maxllm.config.model import ModelConfig
from maxllm.models.decoder import Decoder
from maxllm.models.electra import Electra
from maxllm.models.encoder import Encoder
from maxllm.models.encoder_decoder import EncoderDecoder
from maxllm.parallel.rules import shardings

Model = Decoder | Encoder | EncoderDecoder | Electra
CLASSES: dict[str, type[Model]] = {"decoder": Decoder, "encoder": Encoder, "encoder_decoder": EncoderDecoder}


def _build(config: ModelConfig, compute: ComputeConfig, key: jax.Array) -> Model:
    kind = Electra if config.encoder.generator_factor else CLASSES[config.architecture]
    return kind(
        config,
        dtype=compute.dtype,
        remat=compute.remat,
        save=compute.save,
        offload=compute.offload,
        attention=compute.attention,
        context=compute.context,
        rngs=nnx.Rngs(params=key),
    )


def abstract(config: ModelConfig, compute: ComputeConfig | None = None) -> tuple[nnx.GraphDef, nnx.State]:
    """The model's structure and its parameters' shapes, with nothing allocated."""
    model = nnx.eval_shape(lambda: _build(config, compute or ComputeConfig(), jax.random.key(0)))
    return nnx.split(model)


def create(config: ModelConfig, compute: ComputeConfig, mesh: Mesh, seed: int) -> Model:
    """A freshly initialised model, each parameter made on the devices that hold it.

    The numbers depend on `seed` and the shapes, not on the mesh.
    """
    structure, parameters = abstract(config, compute)
    initialise = jax.jit(
        lambda key: nnx.split(_build(config, compute, key))[1], out_shardings=shardings(parameters, mesh)
    )
    return nnx.merge(structure, initialise(jax.random.key(seed)))


def count_parameters(config: ModelConfig) -> int:
    """Number of parameters, all counted (a tied embedding once)."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract(config)[1]))
