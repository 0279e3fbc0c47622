"""How far an evaluation is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10


class Meter:
    """`meter(what, done, total)` whenever there is news, within `with Meter() as meter`."""

    def __init__(self) -> None:
        console = Console(file=sys.stderr)
        self.bars = None
        if console.is_terminal:
            columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            self.bars = Progress(*columns, console=console, transient=True)
        self.tasks: dict[str, int] = {}
        self.last_line = time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        if self.bars:
            if what not in self.tasks:
                self.tasks[what] = self.bars.add_task(what)
            self.bars.update(self.tasks[what], completed=min(done, total), total=total)
        elif time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            print(f"{what}: {done:,} of {total:,}", file=sys.stderr, flush=True)

    def __enter__(self) -> Meter:
        if self.bars:
            self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bars:
            self.bars.stop()
