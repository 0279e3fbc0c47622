"""The order in which a row lies along the mesh axis `context`.

Causal attention gives a row's end more to do than its beginning. So a row is cut into 2 n stretches, and device i of n
holds stretches i and 2 n - 1 - i (as in Llama 3's training, Dubey et al. 2024, section 3.3.2): as much work for each.
A loss that adds up over tokens does not care, rotary positions come with the batch, and attention asks this file.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from maxllm.parallel.rules import RULES, mesh_axes
from maxllm.parallel.target import platform


def stretch_of(device: Any, half: Any, devices: int) -> Any:
    """Which of the row's 2 · devices stretches is the device's half 0 or 1; numbers, or traced ones."""
    return device + half * (2 * devices - 1 - 2 * device)


def stretches(devices: int) -> np.ndarray:
    """The row's stretches as they lie, device after device: int32 `[2 · devices]`."""
    places = np.arange(2 * devices, dtype=np.int32)
    return stretch_of(places // 2, places % 2, devices)


def balanced(length: int, devices: int) -> np.ndarray:
    """Index in the row of what lies at each place, int32 `[length]`; `length` is a multiple of 2 · devices."""
    return np.arange(length, dtype=np.int32).reshape(2 * devices, -1)[stretches(devices)].ravel()


def pairs(device: Any, step: Any, causal: bool = True) -> list[tuple[Any, Any]]:
    """(half of the queries, half of the keys) to be computed when a device meets the keys of the one `step` before it.

    Of the four pairs, a later stretch's keys are seen by none. Beginning: the device's own keys, half against half and
    all of the first. At any other step two whole pairs are left: the end sees the other's beginning, and the halves
    that are alike see each other in one direction, end to end if the ring has passed the row's first device.
    """
    if not causal:
        return [(0, 0), (0, 1), (1, 0), (1, 1)]
    if isinstance(step, int) and step == 0:
        return [(0, 0), (1, 0), (1, 1)]
    passed = (device < step) * 1
    return [(1, 0), (passed, passed)]


def steps(devices: int, stretch: int, window: int | None) -> list[int]:
    """The steps at which any device sees any of the keys that come around; `window` as in kernels.masking."""
    # The halves that are alike are as far apart as the devices, one way around or the other; others are farther.
    near = [(min(step, devices - step) - 1) * stretch + 1 for step in range(devices)]
    return [step for step in range(devices) if window is None or step == 0 or near[step] < window]


def merged(x: jax.Array, leading: int) -> jax.Array:
    """`x` with its first `leading` axes (batch, length) as one, in an order in which no token leaves its device.

    Of an axis made of whole rows, a device of several rows' stretches holds no one part, so the compiler would give
    all tokens to every device of `context`, and have each of them multiply with all of them.
    """
    shape, rest = x.shape[:leading], x.shape[leading:]
    if (devices := devices_along(shape)) > 1:
        x = x.reshape(shape[0], devices, -1, *rest).swapaxes(0, 1)
    return x.reshape(math.prod(shape), *rest)


def one_row_each(shape: tuple[int, ...]) -> bool:
    """On TPUs, whether a device has one row at most of `[batch, length]`, whose length may be split over `tensor`.

    Such axes must not become one: it is then split over all the devices, and XLA's partitioner, which no longer sees
    what is along `tensor`, sends the whole batch round to multiply with it: fifty times the memory traffic, for
    fsdp 32 x tensor 8 on v5e. On GPUs it does not, and two axes are gathered more often there.
    """
    if platform() != "tpu":
        return False
    mesh = jax.sharding.get_abstract_mesh().shape
    rows = math.prod(mesh.get(axis, 1) for axis in mesh_axes(RULES["batch"]))
    return len(shape) == 2 and mesh.get("tensor", 1) > 1 and shape[0] <= rows


def parted(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """What was merged, with its axes `shape` again."""
    if (devices := devices_along(shape)) > 1:
        x = x.reshape(devices, shape[0], -1, *x.shape[1:]).swapaxes(0, 1)
        return x.reshape(*shape, *x.shape[3:])
    return x.reshape(*shape, *x.shape[1:])


def devices_along(shape: tuple[int, ...]) -> int:
    """Devices that share the axis `length` of `[batch, length]`."""
    devices = jax.sharding.get_abstract_mesh().shape.get("context", 1)
    return devices if len(shape) == 2 and shape[1] % devices == 0 else 1
