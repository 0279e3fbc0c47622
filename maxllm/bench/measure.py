"""`maxllm bench`: our program and its twin side by side, each in a process of its own."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from maxllm.bench import table
from maxllm.bench.program import Program, alternate
from maxllm.config.errors import UserError
from maxllm.config.train import TrainConfig
from maxllm.huge_pages import environment_for

HERE = Path(__file__).parent
# what: (our module, the twin's file, how much work a repetition is)
MEASURED = {
    "step": ("maxllm.bench.ours_step", "torch_step.py", table.step_work),
    "attention": ("maxllm.bench.ours_attention", "torch_attention.py", table.attention_work),
}
OURS = "maxllm"


def measure(
    what: str, config: TrainConfig, *, repeats: int, torch_python: str | None, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Rows of `table.rows`; the twins are there where `torch_python` names a Python that has PyTorch.

    The step's twin also runs through torch.compile; the ratio is against whichever of the two is faster.
    """
    module, twin, work = MEASURED[what]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.json"
        file.write_text(config.model_dump_json())
        # As `maxllm train` would start it; the twins start as their users start them.
        programs = [_start(OURS, [sys.executable, "-m", module, str(file)], say, environment_for(os.environ))]
        if torch_python:
            command = [torch_python, str(HERE / twin), str(file)]
            programs.append(_start("PyTorch", command, say))
            if what == "step":
                programs.append(_start("PyTorch, torch.compile", [*command, "--compile"], say))
        taken = alternate(programs, repeats, say)
        abouts = {program.name: program.about | program.close() for program in programs}
    twins = sorted(taken.keys() - {OURS}, key=lambda name: -min(each["wall"] for each in taken[name]))
    ordered = {name: taken[name] for name in (OURS, *twins)}
    about = abouts[OURS]
    peak = table.peak_of(about["device_kind"], about["devices"]) if "device_kind" in about else None
    return table.rows(ordered, abouts, work(config), peak)


def _start(
    name: str, command: list[str], say: Callable[[str], None], environment: dict[str, str] | None = None
) -> Program:
    say(f"{name}: starting and compiling")
    began = time.perf_counter()
    program = Program(name, command, environment)
    say(f"{name}: ready after {time.perf_counter() - began:.0f} s ({program.about['versions']})")
    return program


def measure_run(config: TrainConfig, *, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """A whole `maxllm train`, its data included, in a process and a folder of its own."""
    from maxllm.train.metrics import METRICS, read

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        settings = config.model_dump(mode="json")
        settings["train"] |= {"run_dir": str(run), "eval_every": 0, "eval_batches": 1, "log_every": 5}
        file = Path(folder) / "config.yml"
        file.write_text(json.dumps(settings))  # JSON is YAML
        say(f"{OURS}: training {config.train.steps} steps")
        began = time.perf_counter()
        program = _train(file)
        records = read(run / METRICS) if (run / METRICS).exists() else []
        if program or not records:
            raise UserError("the training run failed; its own message is above")
    total = time.perf_counter() - began
    rates = [record["tokens_per_second"] for record in records if record.get("tokens_per_second")]
    work = table.step_work(config)
    seconds = [work.tokens / rate for rate in rates]
    taken = [{"wall": each, "cpu": float("nan")} for each in seconds]
    about = {
        "versions": "",
        # What is not steps: imports, compilation, the first step, the last evaluation and the checkpoint.
        "compile": max(total - sum(seconds), 0.0),
        "memory_bytes": max(record.get("host_memory_bytes", 0) for record in records),
    }
    return table.rows({f"{OURS} train": taken}, {f"{OURS} train": about}, work, None)


def _train(file: Path) -> int:
    import subprocess

    return subprocess.run([sys.executable, "-m", "maxllm.cli.main", "train", str(file)], check=False).returncode
