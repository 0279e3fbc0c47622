"""Hugging Face folders in and out: config.json, generation_config.json, safetensors, tokenizer files.

A folder is written beside its place and renamed into it when it is whole.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from maxllm.config.compute import ComputeConfig
from maxllm.config.errors import UserError
from maxllm.config.model import ModelConfig
from maxllm.convert import llama, llama_config
from maxllm.convert.safetensors_io import TensorFolder, write_folder
from maxllm.models import Decoder, abstract
from maxllm.parallel.mesh import single_device_mesh
from maxllm.parallel.rules import shardings
from maxllm.tokenizer import Tokenizer

CONFIG = "config.json"


def is_folder(path: str | Path) -> bool:
    """Whether `path` looks like a Hugging Face model folder."""
    return (Path(path) / CONFIG).is_file()


def load_config(folder: str | Path) -> ModelConfig:
    """The model's shape, from config.json alone. Raises UserError where we cannot compute this model."""
    path = Path(folder) / CONFIG
    try:
        values = json.loads(path.read_text())
    except OSError:
        raise UserError(f"{path} cannot be read; {folder} is not a Hugging Face model folder") from None
    except ValueError:
        raise UserError(f"{path} is not JSON; copy or download it again") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no settings; copy or download it again")
    return llama_config.from_huggingface(values, str(path))


def load(
    folder: str | Path, dtype: str = "float32", *, mesh: Mesh | None = None
) -> tuple[Decoder, Tokenizer, ModelConfig]:
    """The model and tokenizer of a Hugging Face folder.

    Args:
      dtype: of the parameters and of the computation; "float32" or "bfloat16".
      mesh: where the parameters are put, by their logical axes; one device without.

    Raises UserError in one sentence for anything in the folder that is missing, broken or unknown to us.
    """
    config = load_config(folder)
    tokenizer = load_tokenizer(folder, config)
    return load_decoder(folder, dtype, mesh=mesh), tokenizer, config


def load_decoder(folder: str | Path, dtype: str = "float32", *, mesh: Mesh | None = None) -> Decoder:
    """The model alone; arguments and errors as for `load`."""
    config = load_config(folder)
    tensors = TensorFolder(folder)
    structure, parameters = abstract(config, ComputeConfig(dtype=dtype))
    flat = nnx.to_flat_state(parameters)
    _check_tensors(tensors, {".".join(path): leaf.shape for path, leaf in flat}, config)
    layout = dict(nnx.to_flat_state(shardings(parameters, mesh or single_device_mesh())))
    loaded = []
    for path, leaf in flat:
        array = llama.read_parameter(tensors, ".".join(path), leaf.shape, jax.numpy.dtype(dtype))
        loaded.append((path, leaf.replace(jax.device_put(array, layout[path].get_value()))))
    return nnx.merge(structure, nnx.from_flat_state(loaded))


def save(
    model: Decoder,
    tokenizer: Tokenizer,
    output: str | Path,
    *,
    dtype: str = "float32",
    max_shard_bytes: int = 5_000_000_000,
    overwrite: bool = False,
) -> None:
    """Writes `model` as a folder that `transformers` loads, whole or not at all.

    Args:
      dtype: of the tensors on disk; "float32" keeps every bit, "bfloat16" is half the size.
      overwrite: replace a Hugging Face folder that is at `output` already.

    Raises UserError if something else is there, or if `transformers` has no such model that we know of.
    """
    output = check_output(output, overwrite=overwrite)
    ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "pad": tokenizer.pad_id}
    config = llama_config.to_huggingface(model.config, dtype=dtype, token_ids=ids)
    parameters = {".".join(path): leaf.get_value() for path, leaf in nnx.to_flat_state(nnx.split(model)[1])}
    partial, old = (output.with_name(output.name + suffix) for suffix in (".partial", ".old"))
    for left_by_a_kill in (partial, old):
        shutil.rmtree(left_by_a_kill, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        tensors = llama.write_parameters(parameters, jax.numpy.dtype(dtype))
        write_folder(partial, tensors, max_shard_bytes=max_shard_bytes)
        _write_json(partial / CONFIG, config)
        generation = {f"{name}_token_id": value for name, value in ids.items() if value is not None}
        _write_json(partial / "generation_config.json", {"_from_model_config": True, **generation})
        tokenizer.save_huggingface(partial)
        if output.exists():
            output.rename(old)
        os.replace(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def check_output(output: str | Path, *, overwrite: bool) -> Path:
    """`output`, if a folder may be made there. Raises UserError if something is in the way."""
    path = Path(output)
    empty = not path.exists() or (path.is_dir() and not any(path.iterdir()))
    if not empty and not (overwrite and is_folder(path)):
        hint = "is no Hugging Face folder" if overwrite else "exists already"
        raise UserError(f"{path} {hint}; name a new folder{'' if overwrite else ', or give --overwrite'}")
    return path


def load_tokenizer(folder: str | Path, config: ModelConfig) -> Tokenizer:
    """The folder's tokenizer. Raises UserError if it is missing or has ids the embedding does not."""
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, and the embedding {config.vocab_size} rows; "
            "they do not belong together"
        )
    return tokenizer


def _check_tensors(tensors: TensorFolder, shapes: dict[str, tuple[int, ...]], config: ModelConfig) -> None:
    strange = llama.foreign(tensors, shapes, config)
    if strange:
        more = f" and {len(strange) - 1} other tensors" if len(strange) > 1 else ""
        raise UserError(
            f"{tensors.folder / tensors.index} holds {strange[0]}{more}, which a Llama of this config.json does not "
            "have; leaving tensors out would change the model, so it was not loaded"
        )
    if not config.tie_embeddings:
        return
    (embedding,) = llama.tensors_of("embed.embedding", shapes["embed.embedding"])
    (head,) = llama.tensors_of("head.kernel", shapes["embed.embedding"][::-1])
    if head.name in tensors and not np.array_equal(
        tensors.read(head.name, head.their_shape), tensors.read(embedding.name, embedding.their_shape)
    ):
        raise UserError(
            f"{tensors.folder / CONFIG}: tie_word_embeddings is true, yet {head.name} differs from {embedding.name}; "
            "set it to false if the model has a head of its own"
        )


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
