"""Compiler options by device kind, each with its reason. They come with the program: no environment has to be set.

Only what exists in the pinned jaxlib and libtpu (a test compiles with each row), and only where the compiler's own
default is another. docs/training/flags.md has what each changes in a compiled step, and what was tried and left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from jax.sharding import Mesh

Value = bool | int | str


class Flag(NamedTuple):
    value: Value
    reason: str


# Every row whose pattern is found in JAX's device kind applies; later ones win.
FLAGS: tuple[tuple[str, dict[str, Flag]], ...] = (
    (
        "TPU",
        {
            "xla_disable_hlo_passes": Flag(
                "while-loop-all-reduce-code-motion",
                "it would move the reduction of micro-batches' gradients out of their loop, and fails with an internal "
                "error (a RET_CHECK for kAdd, libtpu 0.0.42) where a gradient comes in bfloat16, as the head's does; "
                "what is to be added up once a step train/copies.py adds up by hand",
            ),
        },
    ),
    (
        "NVIDIA",
        {
            "xla_gpu_enable_pipelined_all_gather": Flag(
                True,
                "a layer's weights are gathered while the layer before it computes, not at its own beginning: 24 "
                "overlapped collectives instead of 15 in a step compiled for 8 H200, and no more memory (speed not "
                "measured: no such machine at hand)",
            ),
        },
    ),
)


def flags_for(device_kind: str) -> dict[str, Flag]:
    """The rows of FLAGS for JAX's `device_kind`, such as "TPU v5 lite" or "NVIDIA H200"."""
    found: dict[str, Flag] = {}
    for pattern, flags in FLAGS:
        if re.search(pattern, device_kind, re.IGNORECASE):
            found |= flags
    return found


def compiler_options(mesh: Mesh, own: Mapping[str, Value] | None = None) -> dict[str, Value]:
    """What `jax.jit(compiler_options=...)` is given for programs on `mesh`; `own` wins over the table."""
    table = flags_for(mesh.devices.flat[0].device_kind)
    return {name: flag.value for name, flag in table.items()} | dict(own or {})
