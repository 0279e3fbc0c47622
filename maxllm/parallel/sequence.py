"""The order in which a row lies along the mesh axis `context`.

Causal attention gives a row's end more to do than its beginning. So a row is cut into 2 n stretches, and device i of n
holds stretches i and 2 n - 1 - i (as in Llama 3's training, Dubey et al. 2024, section 3.3.2): as much work for each.
A loss that adds up over tokens does not care, rotary positions come with the batch, and attention asks this file.
"""

from __future__ import annotations

import numpy as np


def balanced(length: int, devices: int) -> np.ndarray:
    """Index in the row of what lies at each place, int32 `[length]`; `length` is a multiple of 2 · devices."""
    stretches = np.arange(length, dtype=np.int32).reshape(2 * devices, -1)
    return np.concatenate([stretches[[i, 2 * devices - 1 - i]].ravel() for i in range(devices)])
