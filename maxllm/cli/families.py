"""Check models in the Hugging Face layout: a table of what holds for each, with what was measured.

Of every folder: import; scores in float32 and bfloat16; gradients; texts packed in a row; export and round trip, bit
for bit; greedy generation with a cache; eight devices against one. With values of another program (expected.npz beside
the model, or --expected) scores are compared with them, without, the model is compared with itself. No tokenizer is
needed. Computed on this machine's CPU, simulating eight devices. Exits with 1 if a cell fails.

A file of values holds, for i = 0, 1, ...: tokens_i int [batch, length]; logits_i float32 [batch, length, vocab];
maybe decoder_i (what an encoder-decoder writes), types_i, greedy_i int [n]: the likeliest continuation of row 0.

examples:
  maxllm families                              the families of this checkout, from their golden folders
  maxllm families downloads/my-llama           a model of yours
  maxllm families downloads/my-llama --expected values.npz
  maxllm families --train runs/demo/tokens     does each family learn? 50 steps at toy size, in bfloat16
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

GOLDEN = Path(__file__).parents[2] / "tests" / "maxllm" / "families" / "golden"
VALUES = "expected.npz"
MARKS = ("<!-- maxllm families -->", "<!-- end of maxllm families -->")
LEARNT = ("<!-- maxllm families --train -->", "<!-- end of maxllm families --train -->")
# Half of the time goes into compiling; what is compiled runs once.
FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", metavar="FOLDER", nargs="*", help="config.json and safetensors")
    parser.add_argument("--expected", metavar="FILE", help="values to compare with, of one FOLDER")
    parser.add_argument(
        "--train", metavar="TOKENS", help="instead: train each one's toy for 50 steps on what maxllm tokenize wrote"
    )
    parser.add_argument("--write", metavar="FILE", help="put the table into this Markdown file, between its marks")


def run(args: argparse.Namespace) -> int:
    from maxllm.config.errors import UserError

    folders = [Path(folder) for folder in args.folders] or sorted(GOLDEN.glob("*/"))
    if not folders:
        raise UserError("FOLDER: name a Hugging Face folder to check; golden ones come with a checkout only")
    if args.expected and len(folders) != 1:
        raise UserError(f"--expected holds values of one model, and {len(folders)} FOLDERs are named")
    missing = next((folder for folder in folders if not folder.is_dir()), None)
    if missing is not None:
        raise UserError(f"{missing} is not a folder; name one with config.json and safetensors")
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"
    os.environ.setdefault("PJRT_NPROC", "32")  # collectives that do not wait for one another each keep a thread
    from maxllm.families.table import failures, markdown, measure, replace_between

    def values(folder: Path) -> Path | None:
        given = Path(args.expected) if args.expected else folder / VALUES
        return given if given.is_file() or args.expected else None

    def progress(name: str, column: str, cell) -> None:
        red = ("\033[31m", "\033[0m") if cell.failure and sys.stderr.isatty() else ("", "")
        print(f"{name}, {column}: {red[0]}{cell}{red[1]}", file=sys.stderr, flush=True)

    if args.train:
        table = _learn(folders, args.train, progress)
    else:
        table = measure([(folder.name, folder, values(folder)) for folder in folders], progress)
    text = markdown(table)
    print(text)
    if args.write:
        replace_between(Path(args.write), *(LEARNT if args.train else MARKS), "\n" + text + "\n")
    failed = failures(table)
    print(f"{len(table)} models, {sum(map(len, table.values()))} cells, {len(failed)} failed")
    return 1 if failed else 0


def _learn(folders: list[Path], tokens: str, progress) -> dict:
    from maxllm.families import toy

    table = {}
    for folder in folders:
        if row := toy.learns(folder, tokens):
            table[folder.name] = row
            for column, cell in row.items():
                progress(folder.name, column, cell)
    return table
