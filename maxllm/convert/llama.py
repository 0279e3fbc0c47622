"""Llama's parameter map: Hugging Face tensor names and layouts, and our stacked parameters, each from the other.

A PyTorch linear layer holds `[out, in]`, ours `[in, out]` with the heads as an axis of their own and all layers
stacked in front. Rotary dimensions follow the same half-split convention on both sides: nothing is permuted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from maxllm.config.model import ModelConfig
from maxllm.convert.safetensors_io import TensorFolder

# Ours: (theirs, how many leading axes of our kernel are inputs; 0 where the layout is the same).
MODEL = {
    "embed.embedding": ("model.embed_tokens.weight", 0),
    "norm.weight": ("model.norm.weight", 0),
    "head.kernel": ("lm_head.weight", 1),
}
LAYER = {
    "layers.attention_norm.weight": ("input_layernorm.weight", 0),
    "layers.attention.query.kernel": ("self_attn.q_proj.weight", 1),
    "layers.attention.key.kernel": ("self_attn.k_proj.weight", 1),
    "layers.attention.value.kernel": ("self_attn.v_proj.weight", 1),
    "layers.attention.output.kernel": ("self_attn.o_proj.weight", 2),
    "layers.mlp_norm.weight": ("post_attention_layernorm.weight", 0),
    "layers.mlp.gate.kernel": ("mlp.gate_proj.weight", 1),
    "layers.mlp.up.kernel": ("mlp.up_proj.weight", 1),
    "layers.mlp.down.kernel": ("mlp.down_proj.weight", 1),
}
# Tensors of old checkpoints that hold no parameter: they are computed from config.json.
COMPUTED = "self_attn.rotary_emb.inv_freq"


class Tensor(NamedTuple):
    """One of their tensors: where it lies in ours."""

    name: str
    layer: int | None  # index along our leading axis
    inputs: int
    shape: tuple[int, ...]  # ours, of one layer

    @property
    def their_shape(self) -> tuple[int, ...]:
        if not self.inputs:
            return self.shape
        return math.prod(self.shape[self.inputs :]), math.prod(self.shape[: self.inputs])

    def to_ours(self, tensor: np.ndarray) -> np.ndarray:
        return tensor.T.reshape(self.shape) if self.inputs else tensor

    def to_theirs(self, array: np.ndarray) -> np.ndarray:
        return array.reshape(self.their_shape[::-1]).T if self.inputs else array


def tensors_of(path: str, shape: tuple[int, ...]) -> list[Tensor]:
    """Their tensors for our parameter `path` (joined by dots) of `shape`: one, or one per layer."""
    if path in MODEL:
        name, inputs = MODEL[path]
        return [Tensor(name, None, inputs, shape)]
    name, inputs = LAYER[path]
    return [Tensor(f"model.layers.{layer}.{name}", layer, inputs, shape[1:]) for layer in range(shape[0])]


def read_parameter(folder: TensorFolder, path: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Our parameter, `[layers, ...]` where it is a layer's, in `dtype`. Raises UserError if a tensor does not fit."""
    tensors = tensors_of(path, shape)
    if tensors[0].layer is None:
        return tensors[0].to_ours(folder.read(tensors[0].name, tensors[0].their_shape)).astype(dtype)
    stacked = np.empty(shape, dtype)
    for tensor in tensors:
        stacked[tensor.layer] = tensor.to_ours(folder.read(tensor.name, tensor.their_shape))
    return stacked


def write_parameters(parameters: Mapping[str, Any], dtype: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Their (name, tensor) pairs in `dtype`, layer by layer, made one at a time from our parameters by path."""
    tensors = [(tensor, path) for path, array in parameters.items() for tensor in tensors_of(path, array.shape)]
    tensors.sort(key=lambda item: (item[0].layer is not None, item[0].layer or 0))
    for tensor, path in tensors:
        array = parameters[path] if tensor.layer is None else parameters[path][tensor.layer]
        yield tensor.name, tensor.to_theirs(np.asarray(array)).astype(dtype)


def foreign(folder: TensorFolder, shapes: Mapping[str, tuple[int, ...]], config: ModelConfig) -> list[str]:
    """Names in `folder` that no parameter of ours answers to."""
    known = {tensor.name for path, shape in shapes.items() for tensor in tensors_of(path, shape)}
    if config.tie_embeddings:
        known.add(MODEL["head.kernel"][0])  # some exporters write the tied head twice
    return [name for name in folder if name not in known and not name.endswith(COMPUTED)]
