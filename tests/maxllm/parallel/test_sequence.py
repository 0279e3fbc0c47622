"""A row lies zig-zag over the devices of `context`, and the ring's work is the same for each of them."""

from __future__ import annotations

import numpy as np
import pytest

from maxllm.parallel.sequence import balanced, pairs, steps, stretch_of, stretches


def halves(devices: int, stretch: int) -> np.ndarray:
    """Index in the row of what lies on each device: `[devices, 2, stretch]`."""
    return balanced(2 * devices * stretch, devices).reshape(devices, 2, stretch)


def test_a_device_holds_a_stretch_from_each_end_of_the_row():
    assert balanced(12, 3).tolist() == [0, 1, 10, 11, 2, 3, 8, 9, 4, 5, 6, 7]
    for devices in (1, 2, 5):
        assert sorted(balanced(20 * devices, devices)) == list(range(20 * devices))
        for device in range(devices):
            assert stretches(devices).reshape(-1, 2)[device].tolist() == [
                stretch_of(device, half, devices) for half in (0, 1)
            ]


def seen(queries: np.ndarray, keys: np.ndarray, causal: bool = True, window: int | None = None) -> int:
    """Pairs of a query and a key that it sees."""
    apart = queries[:, None] - keys
    nearer = window is None or (np.abs(apart) < window)
    return int(((apart >= 0) | (not causal)).astype(bool)[nearer if window else slice(None)].sum())


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both-ways"])
@pytest.mark.parametrize("devices", [2, 3, 4, 8])
def test_every_step_is_the_same_work_on_every_device_and_nothing_is_left_out(devices, causal):
    stretch, rows = 6, halves(devices, 6)
    total = 0
    for step in range(devices):
        work = []
        for device in range(devices):
            chosen = pairs(device, step, causal)
            owner = (device - step) % devices
            counts = {(a, b): seen(rows[device, a], rows[owner, b], causal) for a in (0, 1) for b in (0, 1)}
            assert all((a, b) in chosen for (a, b), count in counts.items() if count)
            if causal and step:  # two whole squares: nothing masked is computed
                assert len(chosen) == 2 and all(counts[pair] == stretch**2 for pair in chosen)
            work.append(sum(counts.values()))
        assert len(set(work)) == 1, f"step {step}: {work}"
        total += sum(work)
    everything = np.arange(2 * devices * stretch)
    assert total == seen(everything, everything, causal)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both-ways"])
@pytest.mark.parametrize("window", [1, 2, 3, 4, 5, 7, 8, 12, 100])
def test_the_steps_of_a_window_are_those_at_which_some_device_sees_a_key(window, causal):
    for devices in (2, 4, 7):
        rows = halves(devices, 3)
        wanted = [
            step
            for step in range(devices)
            if any(
                seen(rows[device].ravel(), rows[(device - step) % devices].ravel(), causal, window)
                for device in range(devices)
            )
        ]
        assert steps(devices, 3, window) == wanted
    assert steps(8, 3, None) == list(range(8))
