"""A training step against transformers + PyTorch on the same CPU, on the demo's model and at 100M parameters.

    python benchmarks/train_step/bench.py                       # writes RESULTS.md
    python benchmarks/train_step/bench.py --torch-python .../bin/python --repeats 10

A step is forward, backward, clipping and AdamW in float32, on packed rows (PyTorch's twin takes each row as one
document). The programs take turns, one step each, so that a busy neighbour slows all of them; the figure is each one's
fastest step.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from maxllm.bench import measure, table
from maxllm.config.load import resolve
from maxllm.config.train import TrainConfig

HERE = Path(__file__).parent
PEER = ("torch==2.13.0", "transformers>=5")
PRESETS = ("train/demo", "bench/100m")


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--torch-python", help="an interpreter that has the peer, instead of making one")
    parser.add_argument("--results", default=str(HERE / "RESULTS.md"))
    arguments = parser.parse_args()
    lines = ["# A training step: maxllm and transformers + PyTorch", ""]
    lines += ["\n".join((__doc__ or "").splitlines()[5:]).strip(), ""]
    lines += [f"Machine: {processor()}, {os.cpu_count()} cores, {datetime.date.today()}.", ""]
    with tempfile.TemporaryDirectory() as folder:
        torch_python = arguments.torch_python or make_environment(Path(folder))
        for preset in PRESETS:
            config = resolve(TrainConfig, preset).config
            found = measure.measure(
                "step",
                config,
                repeats=arguments.repeats,
                torch_python=torch_python,
                say=lambda words: print(words, file=sys.stderr, flush=True),
            )
            data = config.data
            lines += [f"## {preset}: {data.batch_size} x {data.sequence_length} tokens a step", ""]
            lines += [table.markdown(found), ""]
            lines += [f"{'; '.join(sorted({row['versions'] for row in found}))}. Load: {os.getloadavg()[0]:.1f}.", ""]
    lines += ["`python benchmarks/train_step/bench.py`", ""]
    Path(arguments.results).write_text("\n".join(lines))
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
