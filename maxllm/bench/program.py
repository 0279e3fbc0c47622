"""A measured program is a process: a line on its stdin is one repetition, a JSON line on its stdout what that took.

So two programs take turns, one repetition each, and a busy neighbour slows both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from maxllm.config.errors import UserError

Taken = dict[str, float]  # "wall" and "cpu" in seconds, "loss" where there is one


class Program:
    """`command` run as a process that answers first `{"compile": seconds, "parameters": ..., "versions": ...}`."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str] | None = None):
        self.name = name
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", **(environment or {})}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.about = self._answer()

    def repeat(self) -> Taken:
        """One repetition. Raises UserError if the process is gone."""
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> dict[str, Any]:
        """Ends the process; what it says last is the memory it took at most."""
        assert self._process.stdin
        self._process.stdin.close()
        last = self._answer()
        self._process.wait()
        return last

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise UserError(f"{self.name}: the program ended without an answer; its own message is above")


def serve(repeat: Callable[[], float | None], about: dict[str, Any], memory: Callable[[], int]) -> None:
    """The other side: `repeat` does the work, waits for it and returns a loss or None; `memory`: its peak in bytes."""
    print(json.dumps(about), flush=True)
    for _ in sys.stdin:
        began, busy = time.perf_counter(), time.process_time()
        loss = repeat()
        taken = {"wall": time.perf_counter() - began, "cpu": time.process_time() - busy}
        print(json.dumps(taken | ({} if loss is None else {"loss": loss})), flush=True)
    print(json.dumps({"memory_bytes": memory()}), flush=True)


def alternate(programs: Iterable[Program], repeats: int, say: Callable[[str], None]) -> dict[str, list[Taken]]:
    """`repeats` rounds in which every program has its turn, after one that is not counted."""
    programs = list(programs)
    taken: dict[str, list[Taken]] = {program.name: [] for program in programs}
    for program in programs:
        program.repeat()
    for number in range(repeats):
        for program in programs:
            taken[program.name].append(program.repeat())
        fastest = ", ".join(f"{name} {min(each['wall'] for each in runs):.3f} s" for name, runs in taken.items())
        say(f"{number + 1} of {repeats}: fastest {fastest}")
    return taken
