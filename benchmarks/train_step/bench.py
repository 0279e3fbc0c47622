"""A training step against transformers + PyTorch on the same CPU: the same shape, alternating, in tokens per second.

    python benchmarks/train_step/bench.py                       # writes RESULTS.md
    python benchmarks/train_step/bench.py --repeats 3 --peer-python .../bin/python --results first-look.md

A step is forward, backward, clipping and AdamW, in float32 on both sides (and bfloat16 of ours beside it). The programs
take turns, one step each, so that a busy neighbour slows all of them; the figure is each one's fastest step. Both sides
also run with glibc's malloc on huge pages, which a step that takes and gives back 400 MB is quicker with.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PEER = ("torch==2.13.0", "transformers>=5")
SHAPE = {
    "vocab": 4096,
    "hidden": 256,
    "intermediate": 704,
    "layers": 6,
    "heads": 8,
    "length": 256,
    "batch": 16,
}
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
PEER_NAME = "transformers + PyTorch"
FLOAT32 = {"dtype": "float32", "remat": "dots"}
# name: (compute settings, environment)
OURS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "maxllm": (FLOAT32, {}),
    "maxllm, huge pages": (FLOAT32, HUGE_PAGES),
    "maxllm, huge pages, two CPU devices": (FLOAT32, HUGE_PAGES | {"JAX_NUM_CPU_DEVICES": "2"}),
    "maxllm, huge pages, nothing recomputed": (FLOAT32 | {"remat": "none"}, HUGE_PAGES),
    "maxllm, huge pages, bfloat16": (FLOAT32 | {"dtype": "bfloat16"}, HUGE_PAGES),
}


class Program:
    """A process that takes one step per line it is sent."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", **environment}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.about = self._answer()

    def step(self) -> dict[str, float]:
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a program ended without an answer; its message is above")
        return json.loads(line)


def make_environment(folder: Path) -> str:
    """PyTorch and transformers in an environment of their own."""
    python = folder / "peer" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(folder / "peer")], check=True)
    for package in PEER:
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", package], check=True)
    return str(python)


def processor() -> str:
    facts = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":", 1)[1].strip() for line in facts.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def measure(programs: dict[str, Program], repeats: int) -> dict[str, list[dict[str, float]]]:
    steps: dict[str, list[dict[str, float]]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            steps[name].append(program.step())
    return steps


def table(steps: dict[str, list[dict[str, float]]], tokens: int) -> list[str]:
    peer = min(step["wall"] for step in steps[PEER_NAME])
    peer_cpu = min(step["cpu"] for step in steps[PEER_NAME])
    lines = [
        "| program | fastest step, ms | median, ms | tokens/s | ratio | CPU ms (least) | ratio in CPU time |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, taken in steps.items():
        wall, cpu = min(step["wall"] for step in taken), min(step["cpu"] for step in taken)
        median = statistics.median(step["wall"] for step in taken)
        lines.append(
            f"| {name} | {wall * 1e3:.0f} | {median * 1e3:.0f} | {tokens / wall:.0f} | {peer / wall:.2f} "
            f"| {cpu * 1e3:.0f} | {peer_cpu / cpu:.2f} |"
        )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--peer-python", help="an interpreter that has the peer, instead of making one")
    parser.add_argument("--results", default=str(HERE / "RESULTS.md"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        peer_python = arguments.peer_python or make_environment(Path(folder))
        shape = json.dumps(SHAPE)
        peer = [peer_python, str(HERE / "peer_transformers.py"), shape]
        programs = {PEER_NAME: Program(peer, {}), f"{PEER_NAME}, huge pages": Program(peer, HUGE_PAGES)}
        for name, (compute, environment) in OURS.items():
            command = [sys.executable, str(HERE / "ours.py"), shape, json.dumps(compute)]
            programs[name] = Program(command, {"JAX_PLATFORMS": "cpu", **environment})
        steps = measure(programs, arguments.repeats)
        abouts = {name: program.about for name, program in programs.items()}
        for program in programs.values():
            program.close()
    tokens = SHAPE["batch"] * SHAPE["length"]
    lines = [
        "# A training step: maxllm and transformers + PyTorch",
        "",
        "\n".join((__doc__ or "").splitlines()[5:]).strip(),
        "",
        f"Shape: {', '.join(f'{key} {value}' for key, value in SHAPE.items())}; {tokens} tokens a step, "
        f"{abouts[PEER_NAME]['parameters'] / 1e6:.1f}M parameters. Machine: {processor()}, {os.cpu_count()} cores, "
        f"{datetime.date.today()}, {arguments.repeats} alternations. Load average when done: {os.getloadavg()[0]:.1f}.",
        f"Versions: {abouts[PEER_NAME]['versions']} ({abouts[PEER_NAME]['attention']} attention, fused AdamW); "
        f"{next(iter(abouts[name]['versions'] for name in OURS))}, Python {platform.python_version()}.",
        "Ratio: the peer's fastest step over this one's; above 1 is faster than the peer.",
        "",
        *table(steps, tokens),
        "",
        "Seconds to the first step's end (compilation with ours): "
        + ", ".join(f"{name} {about['compile']:.0f}" for name, about in abouts.items())
        + ".",
        "",
        "`python benchmarks/train_step/bench.py`",
        "",
    ]
    Path(arguments.results).write_text("\n".join(lines))
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
