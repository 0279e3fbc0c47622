"""One NVIDIA Hopper GPU, bf16, Llama's shapes at 1B and 3B, packed rows of 4096: a train step against PyTorch's twin.

    python benchmarks/hopper/bench.py                                  # writes RESULTS.md; ten minutes or so
    python benchmarks/hopper/bench.py --torch-python .../bin/python    # where PyTorch lives elsewhere

Asked: at least 55 % of 989 TFLOP/s, and at least 1.0 times the twin's tokens/s (the faster of eager and torch.compile,
with PyTorch's flash attention, causal over whole rows). Model FLOPs as in maxllm/train/flops.py: nothing counted twice
for recomputing, attention counted once for causality. Variants that fail (out of memory, a backend that is not
installed) are rows that say so.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from maxllm.bench import measure, table
from maxllm.config.errors import UserError
from maxllm.config.load import resolve
from maxllm.config.train import TrainConfig

HERE = Path(__file__).parent
# preset: overrides to try, the likeliest best first; the twin runs beside the first alone.
STEPS = {
    "bench/llama-1b": [[], ["compute.remat=none", "data.batch_size=4"], ["compute.remat=dots"], ["data.batch_size=16"]],
    "bench/llama-3b": [[], ["data.batch_size=2"], ["compute.remat=dots"], ["compute.remat=full", "data.batch_size=8"]],
}
ATTENTION = ["auto", "cudnn", "mosaic", "blockwise"]


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def measured(what: str, preset: str, overrides: list[str], torch_python: str | None, repeats: int) -> str:
    title = f"### {what} of {preset} {' '.join(overrides)}\n"
    try:
        config = resolve(TrainConfig, preset, overrides).config
        found = measure.measure(what, config, repeats=repeats, torch_python=torch_python, say=say)
    except UserError as error:
        return f"{title}\nfailed: {error}\n"
    versions = "; ".join(sorted({row["versions"] for row in found}))
    return f"{title}\n{table.markdown(found)}\n\n{versions}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", help="a Python with torch and transformers; default: this one if it has them")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--results", default=str(HERE / "RESULTS.md"))
    arguments = parser.parse_args()
    torch_python = arguments.torch_python or (sys.executable if importlib.util.find_spec("torch") else None)
    if not shutil.which("nvidia-smi"):
        say("no NVIDIA GPU here: nothing measured, RESULTS.md left as it is")
        return 1
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    named = subprocess.run(query, capture_output=True, text=True, check=True)
    parts = [f"# One GPU: {named.stdout.strip()}", "", f"{datetime.date.today()}. {__doc__.splitlines()[0]}", ""]
    for preset, tried in STEPS.items():
        for number, overrides in enumerate(tried):
            parts.append(measured("step", preset, overrides, None if number else torch_python, arguments.repeats))
            Path(arguments.results).write_text("\n".join(parts))  # what is there is kept if the next one hangs
        for backend in ATTENTION:
            chosen = [f"compute.attention={backend}"]
            parts.append(measured("attention", preset, chosen, torch_python, arguments.repeats))
            Path(arguments.results).write_text("\n".join(parts))
    print("\n".join(parts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
