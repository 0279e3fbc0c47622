"""Make a run directory of a Hugging Face folder, to evaluate, serve, export or begin training with.

The model is read tensor by tensor into its place on this machine's devices, each of which takes its share; the host's
memory holds a layer at a time. What transformers calls the architecture decides the family; an architecture that is
not among ours is refused with what is, and what differs (docs/models/conversion.md).

examples:
  maxllm import downloads/llama-2-7b runs/llama2
  maxllm import mymodel runs/mine && maxllm generate runs/mine "def main("
  maxllm train mine.yml train.init_from=runs/mine             (tokenized with its tokenizer: tokenizer.path=mymodel)
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="config.json, safetensors and tokenizer files")
    parser.add_argument("run_dir", metavar="RUN", help="the run directory to make")


def run(args: argparse.Namespace) -> int:
    from maxllm import summary
    from maxllm.models import count_parameters

    config = import_folder(Path(args.folder), Path(args.run_dir))
    parameters = f"{count_parameters(config):,} parameters"
    summary.say(f"imported {args.folder} ({config.family}) into {args.run_dir}: {parameters}, at step 0")
    return 0


def import_folder(folder: Path, run_dir: Path):
    """Writes `run_dir` with one checkpoint, the parameters at step 0, whole or not at all. Returns the ModelConfig.

    Raises UserError for a folder that does not make a model of ours, or a `run_dir` with something in it.
    """
    import os
    import shutil

    from flax import nnx

    from maxllm.config.errors import UserError
    from maxllm.config.train import DataConfig, LoopConfig, TrainConfig
    from maxllm.convert import hf
    from maxllm.convert.weights import not_finite
    from maxllm.train import run_dir as run_folder
    from maxllm.train.checkpoint import CHECKPOINTS, Checkpoints, pack_tokenizer

    if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
        raise UserError(f"{run_dir} exists already; name a new run directory")
    model_config = hf.load_config(folder)
    print(f"loading {folder}", flush=True)
    model, tokenizer, _ = hf.load(folder, mesh=hf.widest_mesh(model_config))
    if broken := not_finite(model):
        more = f" and {len(broken) - 1} other parameters" if len(broken) > 1 else ""
        print(f"warning: {broken[0]}{more} of {folder} hold NaN or infinity: its answers will too", flush=True)
    tree = model_config.model_dump()  # of which TrainConfig chooses an objective that fits
    if model_config.encoder.head == "replaced":
        tree["encoder"]["generator_factor"] = 1.0  # a discriminator comes alone, and is not about to be trained
    config = TrainConfig(
        model=tree,
        data=DataConfig(sequence_length=model_config.max_positions),
        train=LoopConfig(run_dir=str(run_dir)),
    ).model_copy(update={"model": model_config})
    prints = run_folder.fingerprints(config, tokenizer)
    meta = {
        "next_batch": 0,
        "random": {"seed": config.train.seed, "step": 0},
        "config": config.model_dump(mode="json"),
        "fingerprints_of_inputs": prints,
        "imported_from": folder.name,
    }
    partial = run_dir.with_name(run_dir.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        run_folder.write(partial, config, prints, tokenizer, {"imported_from": folder.name})
        checkpoints = Checkpoints(str(partial / CHECKPOINTS), lean=True)
        checkpoints.save(0, {"parameters": nnx.split(model)[1]}, meta, {"tokenizer": pack_tokenizer(tokenizer)})
        checkpoints.close()
        if run_dir.exists():
            run_dir.rmdir()
        os.replace(partial, run_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return model_config
