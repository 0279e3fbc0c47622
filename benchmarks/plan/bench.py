"""The five programs that MaxText compiles in its own documentation, compiled by us for the same chips and batches.

    python benchmarks/plan/bench.py [8b-v5e 8b-v6e 70b-v6e 70b-v5p mixtral-v5p] [--json FILE] [key=value ...]

One process a row, so that what a process needs from its start is measured too. MaxText's figures: 0.2.5 in the
environment its documentation gives (jax 0.11.1, libtpu 0.0.46), its defaults (float32 weights and Adam, bfloat16
compute, remat full, one fsdp axis over all chips), compiled on the same two cores when nothing else ran. GB = 1e9
bytes, of one device. "GB gathered" and "GB reduced" are of full tensors, each times how often its loop runs.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

ROWS = {
    # preset, machine, rows of the batch a chip, length
    "8b-v5e": ("models/llama3.1-8b", "v5e-256", 1, 8192),
    "8b-v6e": ("models/llama3.1-8b", "v6e-256", 2, 8192),
    "70b-v6e": ("models/llama3.1-70b", "v6e-256", 1, 8192),
    "70b-v5p": ("models/llama2-70b", "v5p-1024", 4, 4096),
    "mixtral-v5p": ("models/mixtral-8x7b", "v5p-512", 8, 4096),
}
MAXTEXT = {
    "8b-v5e": dict(arguments=0.38, temporaries=8.67, peak=6.88, gathered=27.9, reduced=16.1, compile=58.9, wall=89),
    "8b-v6e": dict(arguments=0.38, temporaries=15.40, peak=11.32, gathered=29.0, reduced=15.0, compile=97.5, wall=127),
    "70b-v6e": dict(
        arguments=3.32, temporaries=27.12, peak=22.37, gathered=275.9, reduced=139.0, compile=99.0, wall=129
    ),
    "70b-v5p": dict(
        arguments=1.62, temporaries=39.93, peak=32.41, gathered=274.4, reduced=137.4, compile=57.7, wall=87
    ),
    "mixtral-v5p": dict(
        arguments=2.19, temporaries=32.76, peak=24.35, gathered=189.0, reduced=93.4, compile=60.4, wall=92
    ),
}


def one(row: str, overrides: list[str], text: str | None) -> dict[str, float | str]:
    start = time.perf_counter()
    from maxllm.config.load import resolve
    from maxllm.config.train import TrainConfig
    from maxllm.plan import targets
    from maxllm.plan.machines import machine

    preset, name, rows, length = ROWS[row]
    on = machine(name)
    targets.environment(on)
    from maxllm.plan.contents import read
    from maxllm.plan.programs import DoesNotFit, train_program

    settings = [
        f"data.batch_size={rows * on.devices}",
        f"data.sequence_length={length}",
        "compute.dtype=bfloat16",
        "compute.remat=full",
        *overrides,
    ]
    config = resolve(TrainConfig, preset, settings).config
    imported = time.perf_counter() - start
    try:
        program = train_program(config, on)
    except DoesNotFit as refused:
        return {"row": row, "does not fit": str(refused)}
    cpu = resource.getrusage(resource.RUSAGE_SELF)
    wall = time.perf_counter() - start
    if text:
        Path(text).write_text(program.text)
    contents = read(program)
    sent = {"gathered": 0.0, "reduced": 0.0}
    for each in contents.collectives:
        kind = {"all-gather": "gathered", "all-reduce": "reduced", "reduce-scatter": "reduced"}.get(each.kind)
        if kind and each.group_size > 1:
            sent[kind] += each.bytes * each.executions
    memory = program.memory
    return {
        "row": row,
        "arguments": memory.arguments / 1e9,
        "temporaries": memory.temporaries / 1e9,
        "peak": memory.peak / 1e9,
        "gathered": sent["gathered"] / 1e9,
        "reduced": sent["reduced"] / 1e9,
        "import": imported,
        "lower": program.lower_seconds,
        "compile": program.compile_seconds,
        "wall": wall,
        "cpu": cpu.ru_utime + cpu.ru_stime,
        "rss": cpu.ru_maxrss * 1024 / 1e9,
        "tflops": contents.flops.total / 1e12,
        "attention": dict(contents.fused_attention),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help=f"of {', '.join(ROWS)}; all when absent; and key=value settings")
    parser.add_argument("--json", metavar="FILE", help="append each row's figures as a line of JSON")
    parser.add_argument("--text", metavar="FILE", help="write the compiled program (with one row)")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    overrides = [word for word in args.rows if "=" in word]
    rows = [word for word in args.rows if "=" not in word] or list(ROWS)
    if args.here:
        print(json.dumps(one(rows[0], overrides, args.text)))
        return
    figures = ("arguments", "temporaries", "peak", "gathered", "reduced", "compile", "wall")
    print("| row | | " + " | ".join(figures) + " |\n|" + "---|" * (len(figures) + 2))
    for row in rows:
        command = [sys.executable, __file__, "--here", row, *overrides, *(["--text", args.text] if args.text else [])]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            print(f"| {row} | failed | see above |")
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        if args.json:
            with open(args.json, "a") as file:
                file.write(json.dumps(found) + "\n")
        if "does not fit" in found:
            print(f"| {row} | ours | {found['does not fit'][:200]} |")
            continue
        theirs = MAXTEXT[row]
        print(f"| {row} | ours | " + " | ".join(f"{found[name]:.2f}" for name in figures) + " |")
        print("| | MaxText | " + " | ".join(f"{theirs[name]:.2f}" for name in figures) + " |")
        print("| | ratio | " + " | ".join(f"{found[name] / theirs[name]:.2f}" for name in figures) + " |", flush=True)


if __name__ == "__main__":
    main()
