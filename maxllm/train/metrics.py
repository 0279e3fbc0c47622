"""Where a run's numbers go: metrics.jsonl (one line a step), TensorBoard, Weights & Biases, and the terminal."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from maxllm.config.errors import UserError

Record = dict[str, Any]
METRICS = "metrics.jsonl"


class Writer:
    """Writes records `{"step": ..., name: number}` in order of step. Process 0 alone has one.

    Args:
      resume_step: lines beyond it were written by a run that did not live to save that far; they are cut off, so
        that every step appears once.
      config: what Weights & Biases shows beside the curves.
    """

    def __init__(
        self, run_dir: Path, *, resume_step: int = 0, wandb_project: str | None = None, config: dict | None = None
    ):
        from tensorboardX import SummaryWriter

        self._path = run_dir / METRICS
        _cut(self._path, resume_step)
        self._file = self._path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=resume_step + 1)
        self._wandb = _wandb_run(run_dir, wandb_project, config) if wandb_project else None

    def write(self, records: list[Record]) -> None:
        """Append and hand to the system, so that a killed process loses nothing it has written."""
        for record in records:
            self._file.write(json.dumps(record) + "\n")
            numbers = {name: value for name, value in record.items() if name != "step" and value is not None}
            for name, value in numbers.items():
                self._board.add_scalar(name, value, record["step"])
            if self._wandb:
                self._wandb.log(numbers, step=record["step"])
        self._file.flush()

    def sync(self) -> None:
        """To the disk itself: called before a checkpoint, which must never be ahead of its metrics."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._board.flush()

    def close(self) -> None:
        self._file.close()
        self._board.close()
        if self._wandb:
            self._wandb.finish()


def _cut(path: Path, resume_step: int) -> None:
    """Keep the whole lines of steps up to `resume_step`; replaces the file at once or not at all."""
    if not path.exists():
        return
    kept = [json.dumps(record) + "\n" for record in read(path) if record["step"] <= resume_step]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept), encoding="utf-8")
    os.replace(partial, path)


def read(path: Path) -> list[Record]:
    """The records of a metrics.jsonl; a last line cut short by a kill is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def _wandb_run(run_dir: Path, project: str, config: dict | None) -> Any:
    try:
        import wandb
    except ImportError:
        raise UserError(
            "train.wandb_project is set but Weights & Biases is not installed; pip install maxllm[wandb], or leave "
            "train.wandb_project out"
        ) from None
    # The same id on every start: a resumed run goes on in the same curves.
    id_file = run_dir / "wandb_id"
    if not id_file.exists():
        id_file.write_text(wandb.util.generate_id())
    return wandb.init(project=project, dir=str(run_dir), id=id_file.read_text(), resume="allow", config=config)


def resident_bytes() -> int:
    """This process's memory now: resident pages on Linux, the peak elsewhere."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


class Pace:
    """How fast steps finish, timed over blocks of them whose results have arrived.

    Devices run behind the host, so the time of handing a step over says nothing; and the first step compiles. The
    clock starts when the first step's result is there, and stands still during saves and evaluations.
    """

    def __init__(self, tokens_per_step: int, flops_per_token: float | None = None, peak_flops: float | None = None):
        """`flops_per_token`: of the model, forward and backward; `peak_flops`: FLOP/s of all devices together."""
        self._tokens_per_step = tokens_per_step
        self.flops_per_token = flops_per_token  # of the sequences' length, which may change
        self._peak_flops = peak_flops
        self.since = time.perf_counter()
        self._steps = 0

    def step(self) -> None:
        self._steps += 1

    def restart(self) -> None:
        """After anything that is not a step."""
        self.since, self._steps = time.perf_counter(), 0

    def block(self) -> Record:
        """Rates of the steps since the last call, all of which must have finished.

        tokens_per_second: batch x length of all devices, padding included, as others count.
        mfu: tokens_per_second x model FLOPs per token / peak FLOP/s (Chowdhery et al. 2022, appendix B). Causal
        attention is counted once and recomputation not at all, see `flops_per_token`. Absent where the peak of this
        device kind is not known.
        """
        seconds, steps = time.perf_counter() - self.since, self._steps
        self.restart()
        if not steps:
            return {}
        rate = steps * self._tokens_per_step / seconds
        record: Record = {"seconds_per_step": seconds / steps, "tokens_per_second": rate}
        if self.flops_per_token and self._peak_flops:
            record["mfu"] = rate * self.flops_per_token / self._peak_flops
        return record


class Display:
    """A live bar on a terminal, one plain line per block elsewhere, silence on all processes but the first."""

    def __init__(self, steps: int, *, quiet: bool = False, console: Console | None = None):
        self.console = console or Console(highlight=False, quiet=quiet)
        self._steps = steps
        self._start = 0
        self._began: float | None = None
        self._bar = None
        if self.console.is_terminal and not quiet:
            columns = (BarColumn(bar_width=20), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._task = self._bar.add_task("compiling the first step", total=steps)

    def __enter__(self) -> Display:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def say(self, sentence: str) -> None:
        self.console.print(sentence, soft_wrap=True, markup=False)

    def show(self, record: Record) -> None:
        """One block's newest record."""
        now = time.perf_counter()
        step = record["step"]
        left = ""
        if self._began is None:
            self._began, self._start = now, step  # the first step compiled; it says nothing about the rest
        elif step > self._start:
            left = f"  {_clock((now - self._began) / (step - self._start) * (self._steps - step))} left"
        parts = [f"step {step}/{self._steps}", f"loss {record['loss']:.4f}"]
        if "tokens_per_second" in record:
            parts.append(f"{record['tokens_per_second']:,.0f} tok/s")
        if "mfu" in record:
            parts.append(f"MFU {record['mfu']:.1%}")
        parts += [f"lr {record['learning_rate']:.2e}", f"grad {record['gradient_norm']:.2f}"]
        parts += [f"{name} {value:.4f}" for name, value in record.items() if name.startswith("held_out")]
        line = "  ".join(parts) + left
        if self._bar:
            self._bar.update(self._task, completed=step, description=line)
        if not self._bar or any(name.startswith("held_out") for name in record):  # evaluations stay on the screen
            self.say(line)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
