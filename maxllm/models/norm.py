"""Normalisation over the last axis."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

Kind = Literal["rms", "rms_plus_one", "layer"]


class RMSNorm(nnx.Module):
    """y = x / sqrt(mean(x²) + eps) · weight (Zhang and Sennrich 2019).

    Statistics in float32 whatever the activations are: a mean of squares in bfloat16 keeps three digits.
    `plus_one`: the weight is 1 + the parameter (Gemma), which weight decay then draws to 1.
    """

    def __init__(self, size: int, *, eps: float, plus_one: bool = False):
        self.weight = nnx.Param((jnp.zeros if plus_one else jnp.ones)(size), axes=("norm",))
        self.eps = eps
        self.plus_one = plus_one

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        scale = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        weight = 1.0 + self.weight[...] if self.plus_one else self.weight[...]
        return (wide * scale * weight).astype(x.dtype)


class LayerNorm(nnx.Module):
    """y = (x - mean(x)) / sqrt(variance(x) + eps) · weight + bias (Ba et al. 2016), statistics in float32."""

    def __init__(self, size: int, *, eps: float):
        self.weight = nnx.Param(jnp.ones(size), axes=("norm",))
        self.bias = nnx.Param(jnp.zeros(size), axes=("norm",))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
        scale = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        return (wide * scale * self.weight[...] + self.bias[...]).astype(x.dtype)


def make_norm(kind: Kind, size: int, *, eps: float) -> RMSNorm | LayerNorm:
    if kind == "layer":
        return LayerNorm(size, eps=eps)
    return RMSNorm(size, eps=eps, plus_one=kind == "rms_plus_one")
