"""Functions compiled ahead of time, several at once, so that no request waits for a compiler."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed

import jax
from jax.sharding import Mesh

Key = tuple[str | int, ...]  # a name and its buckets: ("generate", 8, 256)


class Programs:
    """`programs[key](...)` runs a program; one that nobody compiled yet is compiled then."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._lower: dict[Key, Callable[[], jax.stages.Lowered]] = {}
        self._compiled: dict[Key, jax.stages.Compiled] = {}

    def add(self, key: Key, lower: Callable[[], jax.stages.Lowered]) -> None:
        self._lower[key] = lower

    def lower(self, key: Key) -> jax.stages.Lowered:
        """A program that can be compiled for the mesh's devices, which need not be here."""
        with jax.set_mesh(self._mesh):
            return self._lower[key]()

    def __getitem__(self, key: Key) -> jax.stages.Compiled:
        return self._compiled.get(key) or self._compile(key)

    def compile_all(self, progress: Callable[[str, int, int], None]) -> None:
        """`progress(what, done, total)` after each one. XLA compiles outside Python's lock: one thread per core."""
        missing = [key for key in self._lower if key not in self._compiled]
        with ThreadPoolExecutor(max_workers=min(8, len(os.sched_getaffinity(0)))) as pool:
            pending = {pool.submit(self._compile, key): key for key in missing}
            for done, future in enumerate(as_completed(pending), start=1):
                future.result()
                progress(" ".join(map(str, pending[future])), done, len(missing))

    def context(self) -> contextlib.AbstractContextManager:
        """Where the model's layout constraints find their mesh."""
        return contextlib.nullcontext() if self._mesh.size == 1 else jax.set_mesh(self._mesh)

    def _compile(self, key: Key) -> jax.stages.Compiled:
        with self.context():
            self._compiled[key] = self._lower[key]().compile()
        return self._compiled[key]
