"""What an objective returns: a sum and what it was summed over, so that it can be added up before it is divided."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Weighted(NamedTuple):
    """Float32 scalars; the value is sum / weight. Adding two adds both, so the mean over any split is exact."""

    sum: jax.Array
    weight: jax.Array

    def mean(self) -> jax.Array:
        """sum / weight, and 0 where nothing had weight."""
        return self.sum / jnp.where(self.weight == 0, 1.0, self.weight)
