"""Hugging Face folders in and out: config.json, generation_config.json, safetensors, tokenizer files.

A folder is written beside its place and renamed into it when it is whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh
from pydantic import ValidationError

from maxllm.config.errors import UserError
from maxllm.config.model import ModelConfig
from maxllm.config.parallel import MeshConfig
from maxllm.convert import families, weights
from maxllm.convert.expressible import contradiction
from maxllm.convert.family import Settings
from maxllm.parallel.mesh import make_mesh, single_device_mesh
from maxllm.parallel.rules import check_layout
from maxllm.tokenizer import Tokenizer

CONFIG = "config.json"


def is_folder(path: str | Path) -> bool:
    """Whether `path` looks like a Hugging Face model folder."""
    return (Path(path) / CONFIG).is_file()


def load_config(folder: str | Path) -> ModelConfig:
    """The model's shape, from config.json alone. Raises UserError where we cannot compute this model."""
    return _config_of(read_settings(folder))


def read_settings(folder: str | Path) -> Settings:
    path = Path(folder) / CONFIG
    try:
        values = json.loads(path.read_text())
    except OSError:
        raise UserError(f"{path} cannot be read; {folder} is not a Hugging Face model folder") from None
    except ValueError:
        raise UserError(f"{path} is not JSON; copy or download it again") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no settings; copy or download it again")
    return Settings(values, str(path))


def _config_of(settings: Settings) -> ModelConfig:
    family = families.by_model_type(settings)
    try:
        return family.from_huggingface(settings)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{settings.where}: {place + ': ' if place else ''}{reason}") from None
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise UserError(f"{settings.where}: a setting has a value of a wrong kind ({error})") from None


def load(
    folder: str | Path, dtype: str = "float32", *, mesh: Mesh | None = None
) -> tuple[nnx.Module, Tokenizer, ModelConfig]:
    """The model and tokenizer of a Hugging Face folder.

    Args:
      dtype: of the parameters and of the computation; "float32" or "bfloat16".
      mesh: where the parameters are put, by their logical axes; one device without.

    Raises UserError in one sentence for anything in the folder that is missing, broken or unknown to us.
    """
    config = load_config(folder)
    tokenizer = load_tokenizer(folder, config)
    return load_decoder(folder, dtype, mesh=mesh), tokenizer, config


def widest_mesh(config: ModelConfig) -> Mesh:
    """Over as many of this process's devices as the model can be split among evenly, each holding an equal share."""
    devices = jax.local_devices()
    for count in range(len(devices), 1, -1):
        mesh = make_mesh(MeshConfig(fsdp=count), devices[:count])
        with contextlib.suppress(UserError):
            check_layout(config, mesh)
            return mesh
    return single_device_mesh()


def load_decoder(folder: str | Path, dtype: str = "float32", *, mesh: Mesh | None = None) -> nnx.Module:
    """The model alone, of whatever architecture; arguments and errors as for `load`."""
    return weights.load(folder, load_config(folder), dtype, mesh or single_device_mesh())


def save(
    model: nnx.Module,
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
    model = getattr(model, "exported", model)  # of ELECTRA's two the one that is kept
    settings = settings_of(model.config)
    _check_padding(settings.get("pad_token_id"), tokenizer)
    config = {f"{name}_token_id": value for name, value in ids.items()} | settings
    partial, old = (output.with_name(output.name + suffix) for suffix in (".partial", ".old"))
    for left_by_a_kill in (partial, old):
        shutil.rmtree(left_by_a_kill, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write_model(model, partial, dtype=dtype, max_shard_bytes=max_shard_bytes, config=config)
        told = (*(f"{name}_token_id" for name in ids), "decoder_start_token_id", "forced_bos_token_id")
        generation = {name: config[name] for name in told if config.get(name) is not None}
        _write_json(partial / "generation_config.json", {"_from_model_config": True, **generation})
        tokenizer.save_huggingface(partial, enclosed=model.config.architecture == "encoder")
        if output.exists():
            output.rename(old)
        os.replace(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _check_padding(padding: int | None, tokenizer: Tokenizer) -> None:
    """`padding`: the id that the family says, where positions are counted from it (RoBERTa). Raises UserError where
    texts have a token of that id: it would take the place of padding, and every text the places after it."""
    if padding in (None, tokenizer.pad_id) or padding >= tokenizer.vocab_size:
        return
    name = next((name for name, i in tokenizer.special_tokens.items() if i == padding), "a word")
    mend = "" if tokenizer.pad_id is None else f" train with model.encoder.position_offset={tokenizer.pad_id + 1}, or"
    raise UserError(
        f"this layout counts positions from its padding, which would have id {padding} (position_offset - 1), and that "
        f"is {name} in the tokenizer:{mend} use the family bert and position_offset 0"
    )


def write_model(
    model: nnx.Module,
    folder: Path,
    *,
    dtype: str = "float32",
    max_shard_bytes: int = 5_000_000_000,
    config: dict[str, Any] | None = None,
) -> None:
    """Tensors and config.json alone, into a folder that is there. `config`: its content, where it says more than the
    model itself."""
    weights.save(model, folder, dtype, max_shard_bytes)
    _write_json(folder / CONFIG, (config or settings_of(model.config)) | {"torch_dtype": dtype})


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


def settings_of(config: ModelConfig) -> dict[str, Any]:
    """config.json's content, but for dtype and token ids. Raises UserError where it could not say all of `config`."""
    family = families.by_name(config.family)
    values = family.to_huggingface(config)
    try:
        told = _config_of(Settings(values, f"model.family {family.name}"))
    except UserError as error:
        raise UserError(f"{error}; a {family.name} folder of this model would not load") from None
    name = contradiction(config, told)
    if name:
        raise UserError(
            f"model.{name}: a {family.name} folder cannot say this, and a model loaded from it would compute "
            "something else; choose model.family among those that can"
        )
    return values


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
