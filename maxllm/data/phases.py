"""Mixtures and lengths that change over training: which phase a step is in, and what the phases before it used.

Every step has the same number of tokens, so a share of the tokens is the same share of the steps. All lengths are cut
from one packing, that of `data.sequence_length`, the longest: a row of 4096 is eight rows of 512. A source's place in
its own rows therefore means the same in every phase, and is carried from one to the next; of a packed row that a phase
has begun to cut, the next one takes up no rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from maxllm.config.errors import UserError
from maxllm.config.train import DataConfig
from maxllm.data.mixture import Mixture


class Phase(NamedTuple):
    """Steps `first` to the next phase's. `weights`: in the order of the sources' names."""

    first: int
    sequence_length: int
    batch_size: int
    weights: tuple[float, ...]


def resolve(config: DataConfig, steps: int | None = None) -> list[Phase]:
    """The phases in steps, the last one without an end. `steps`: of the whole run; None where shares are not used.

    Raises UserError where a phase has no step, or the last one ends before training does.
    """
    names = sorted(config.sources)
    own = tuple(config.sources[name].weight for name in names)
    if not config.phases:
        return [Phase(0, config.sequence_length, config.batch_size, own)]
    phases: list[Phase] = []
    first = 0
    for number, phase in enumerate(config.phases):
        length = phase.sequence_length or config.sequence_length
        weights = own if phase.weights is None else tuple(phase.weights.get(name, 0.0) for name in names)
        phases.append(Phase(first, length, config.batch_size * (config.sequence_length // length), weights))
        if phase.until <= 1:
            if steps is None:
                raise UserError(f"data.phases.{number}.until {phase.until} is a share of steps that nobody gave")
            end = round(phase.until * steps)
        else:
            end = int(phase.until)
        if end <= first:
            raise UserError(
                f"data.phases.{number} ends at step {end} and begins at step {first}: it has no step; let `until` rise "
                "from phase to phase, by more than one step in train.steps"
            )
        first = end
    if steps is not None and first < steps:
        raise UserError(f"data.phases ends at step {first} of {steps}; let the last one say `until: 1`")
    return phases


class Curriculum:
    """Where each position of a phase's stream stands in its source: by arithmetic alone, as in one mixture."""

    def __init__(self, phases: Sequence[Phase], packed_length: int) -> None:
        self.phases = list(phases)
        self._packed_length = packed_length
        self._mixtures = [Mixture(phase.weights) for phase in phases]
        # Packed rows of each source that the phases before used, `[sources]` for each phase.
        self._before = [np.zeros(len(phases[0].weights), np.int64)]
        for number, following in enumerate(self.phases[1:]):
            self._before.append(self._before[-1] + self._used(number, following.first))

    def number(self, k: int) -> int:
        """Of the phase that step k, counted from 0, is in."""
        return max(i for i, phase in enumerate(self.phases) if phase.first <= k)

    def parts(self, number: int) -> int:
        """How many rows of phase `number` a packed row is cut into."""
        return self._packed_length // self.phases[number].sequence_length

    def locate(self, k: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of rows `[n]` of batch k: their sources, which of its packed rows each is, from 0, and which part of it."""
        number = self.number(k)
        phase = self.phases[number]
        sources, elements = self._mixtures[number].locate((k - phase.first) * phase.batch_size + rows)
        packed, part = np.divmod(elements, self.parts(number))
        return sources, self._before[number][sources] + packed, part

    def rows_before(self, k: int) -> np.ndarray:
        """Packed rows of each source that steps 0 to k - 1 have begun, `[sources]`."""
        number = self.number(k)
        return self._before[number] + self._used(number, k)

    def _used(self, number: int, end: int) -> np.ndarray:
        phase = self.phases[number]
        rows = self._mixtures[number].count((end - phase.first) * phase.batch_size)
        return -(-rows // self.parts(number))
