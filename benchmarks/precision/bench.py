"""Training in 8 bits, with 16-bit moments and with sparse weights, against bfloat16, on real text.

    python benchmarks/precision/bench.py                       # makes the tokens first; writes RESULTS.md, loss.svg
    python benchmarks/precision/bench.py --tokens runs/demo/tokens

Every run sees the same batches from the same initial parameters. Held-out losses are those of the model that would be
exported, in bfloat16. No CPU multiplies in fp8 or int8: XLA widens the rounded factors, so that rounding is that of an
accelerator and speed is not.
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
from typing import Any

from maxllm.config import resolve
from maxllm.config.train import TrainConfig

HERE = Path(__file__).parent
BASE = "bfloat16"
SHAPE = {"hidden_size": 128, "intermediate_size": 352, "num_layers": 4, "num_heads": 4, "num_kv_heads": 4}
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    BASE: {},
    "bfloat16, other initial parameters": {"train": {"seed": 1}},
    "fp8, current scaling": {"compute": {"precision": "fp8"}},
    "fp8, delayed scaling": {"compute": {"precision": "fp8_delayed"}},
    "int8": {"compute": {"precision": "int8"}},
    "bfloat16 moments": {"optimizer": {"moments_dtype": "bfloat16"}},
    "2:4 from the start, straight-through": {"sparsity": {"name": "n_m", "straight_through": True, "every": 10}},
    "2:4 at step 100": {"sparsity": {"name": "n_m", "begin_step": 100, "end_step": 100}},
    "magnitude to 80 %": {"sparsity": {"name": "magnitude", "final": 0.8, "begin_step": 50, "every": 25}},
}


def make_tokens(folder: Path) -> Path:
    """The demo's: documentation and source code of this Python installation, as its recipe makes them."""
    program = [sys.executable, "-m", "maxllm.cli.main"]
    tokens = ["tokenizer.vocab_size=4096", "held_out.fraction=0.1", "sequence_lengths=[256]", f"output={folder}/tokens"]
    subprocess.run([*program, "curate", "curate/python-docs", f"output.path={folder}/documents"], check=True)
    subprocess.run(
        [*program, "tokenize", "tokenize/default", f"documents=[{folder}/documents/documents/*]", *tokens], check=True
    )
    return folder / "tokens"


def run(name: str, tokens: Path, steps: int, folder: Path) -> list[dict[str, float]]:
    """The records of one run's metrics.jsonl."""
    from maxllm.train.loop import train
    from maxllm.train.metrics import METRICS, read

    place = folder / "".join(letter if letter.isalnum() else "-" for letter in name)
    tree: dict[str, Any] = {
        "base": "train/demo",
        "model": SHAPE,
        "data": {"sources": {"python": {"path": str(tokens)}}},
        "train": {
            "steps": steps,
            "run_dir": str(place),
            "eval_every": 50,
            "eval_batches": 32,
            "checkpoint_every": steps,
        },
        "compute": {"dtype": "bfloat16"},
    }
    for section, changes in SETTINGS[name].items():
        tree[section] = {**tree.get(section, {}), **changes}
    train(resolve(TrainConfig, tree=tree).config)
    return read(place / METRICS)


def report(curves: dict[str, list[dict[str, float]]], steps: int) -> str:
    held = {
        name: {int(r["step"]): r["held_out_loss"] for r in curve if "held_out_loss" in r}
        for name, curve in curves.items()
    }
    evaluated = sorted(held[BASE])
    shown = [step for step in evaluated if step % 100 == 0 or step == evaluated[-1]]
    rows = ["| run | " + " | ".join(f"step {step}" for step in shown) + " | against bfloat16 | zeros |"]
    rows.append("|---" * (len(shown) + 3) + "|")
    for name, curve in curves.items():
        losses = " | ".join(f"{held[name][step]:.4f}" for step in shown)
        change = held[name][shown[-1]] / held[BASE][shown[-1]] - 1
        zeros = f"{curve[-1]['sparsity']:.1%}" if "sparsity" in curve[-1] else ""
        rows.append(f"| {name} | {losses} | {change:+.2%} | {zeros} |")
    return "\n".join(
        [
            "# Low precision and sparsity: held-out loss against bfloat16",
            "",
            *__doc__.strip().split("\n\n")[2:],
            "",
            f"Width {SHAPE['hidden_size']}, {SHAPE['num_layers']} layers, vocabulary 4096 (1.9M parameters, 0.8M of "
            f"them in the layers); {steps} steps of 4 x 256 tokens of Python documentation and source; held-out loss "
            f"in nats per token over 32 x 4 rows. Machine: {os.cpu_count()} shared {platform.machine()} cores, "
            f"{datetime.date.today()}.",
            "",
            *rows,
            "",
            "![held-out losses](loss.svg)",
            "",
            "`python benchmarks/precision/bench.py`",
            "",
        ]
    )


def draw(curves: dict[str, list[dict[str, float]]], width: int = 860, height: int = 460) -> str:
    """Held-out losses relative to bfloat16's at the same step, in per cent."""
    held = {
        name: {r["step"]: r["held_out_loss"] for r in curve if "held_out_loss" in r} for name, curve in curves.items()
    }
    lines = {n: [(s, 100 * (v / held[BASE][s] - 1)) for s, v in h.items()] for n, h in held.items()}
    last = max(step for line in lines.values() for step, _ in line)
    low, high = -2.0, min(6.0, max(value for line in lines.values() for _, value in line) + 0.5)
    left, right, top, bottom = 50, width - 290, 20, height - 40

    def at(step: float, value: float) -> str:
        x = left + (right - left) * step / last
        return f"{x:.0f},{bottom - (bottom - top) * (min(value, high) - low) / (high - low):.0f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        'font-size="12">'
    ]
    parts.append(f'<rect width="{width}" height="{height}" fill="white"/>')
    for tick in range(int(low), int(high) + 1):
        x, y = at(0, tick).split(",")
        parts.append(
            f'<line x1="{left}" x2="{right}" y1="{y}" y2="{y}" stroke="#ddd"/>'
            f'<text x="8" y="{int(y) + 4}">{tick:+d} %</text>'
        )
    for number, (name, line) in enumerate(lines.items()):
        colour = f"hsl({number * 360 // len(lines)},70%,42%)"
        points = " ".join(at(*point) for point in line)
        y = top + 14 + 18 * number
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{right + 14}" y="{y}" fill="{colour}">{name.replace("&", "and")}</text>')
    parts.append(f'<text x="{left}" y="{height - 12}">held-out loss against bfloat16, steps 50 to {last}</text></svg>')
    return "\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=Path, help="a tokenized data set; made as in the demo when absent")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--only", nargs="*", default=list(SETTINGS), help="names of runs; nothing is written")
    parser.add_argument("--folder", type=Path, help="for the runs, to go on with; a temporary one when absent")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        tokens = arguments.tokens or make_tokens(folder)
        curves = {name: run(name, tokens, arguments.steps, folder) for name in SETTINGS if name in arguments.only}
    if len(curves) == len(SETTINGS):
        (HERE / "RESULTS.md").write_text(report(curves, arguments.steps))
        (HERE / "loss.svg").write_text(draw(curves))
    return 0


if __name__ == "__main__":
    sys.exit(main())
