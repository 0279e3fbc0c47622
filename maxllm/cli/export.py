"""Write a trained model as a Hugging Face folder that transformers, vLLM and others load.

In the layout of `model.family`. A setting that this layout cannot say is refused: the model loaded from it would be
another one. Tensors are fetched from the devices and written one at a time.

examples:
  maxllm export runs/demo/train runs/demo/train/export
  maxllm export runs/demo/train/checkpoints/500 mymodel --dtype bfloat16
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="RUN", help="a run directory (its newest checkpoint) or one checkpoint")
    parser.add_argument("output", metavar="OUT", help="the folder to make")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the weights: float32 keeps every bit, bfloat16 is half the size; default %(default)s",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the Hugging Face folder that is at OUT")


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    from maxllm import summary
    from maxllm.convert import hf
    from maxllm.train.checkpoint import config_of, load_any

    hf.check_output(args.output, overwrite=args.overwrite)  # before the minutes that loading may take
    print(f"loading {args.model}", flush=True)
    mesh = hf.widest_mesh(config_of(args.model))
    model, tokenizer, _ = load_any(args.model, mesh=mesh)
    print(f"writing {args.output}", flush=True)
    hf.save(model, tokenizer, args.output, dtype=args.dtype, overwrite=args.overwrite)
    size = sum(path.stat().st_size for path in Path(args.output).glob("*.safetensors"))
    summary.say(f"exported {args.model} to {args.output}: {size / 1e6:.1f} MB of {args.dtype} safetensors")
    return 0
