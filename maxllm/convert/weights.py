"""A folder's tensors into a model's parameters, and back, by the family's map."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from maxllm.config.compute import ComputeConfig
from maxllm.config.errors import UserError
from maxllm.config.model import ModelConfig
from maxllm.convert import families
from maxllm.convert.family import Family
from maxllm.convert.safetensors_io import Entry, TensorFolder, write_folder
from maxllm.convert.streaming import read_parameter, read_part
from maxllm.convert.tensors import TensorMap
from maxllm.models import abstract
from maxllm.parallel.rules import shardings


def load(folder: str | Path, config: ModelConfig, dtype: str, mesh: Mesh) -> nnx.Module:
    """The model of `config` with the folder's numbers, each device reading its own part (maxllm/convert/streaming.py).

    Raises UserError in one sentence for tensors that are missing, broken, misshapen or unknown to the family.
    """
    family = families.by_name(config.family)
    tensors = TensorFolder(folder, family.canonical)
    structure, parameters = abstract(config, ComputeConfig(dtype=dtype))
    flat = nnx.to_flat_state(parameters)
    mapping = TensorMap(family.tensors(config), {_name(path): leaf.shape for path, leaf in flat})
    _check(tensors, mapping, family, config)
    layout = dict(nnx.to_flat_state(shardings(parameters, mesh)))
    loaded = []
    for path, leaf in flat:
        array = read_parameter(tensors, mapping, _name(path), dtype, layout[path].get_value())
        loaded.append((path, leaf.replace(array)))
    return nnx.merge(structure, nnx.from_flat_state(loaded))


def save(model: nnx.Module, folder: Path, dtype: str, max_shard_bytes: int) -> None:
    """The model's tensors as safetensors in `folder`, which is there, each fetched from its devices in its turn."""
    config = model.config
    parameters = {_name(path): leaf.get_value() for path, leaf in nnx.to_flat_state(nnx.split(model)[1])}
    entries = _entries(parameters, families.by_name(config.family), config, jax.numpy.dtype(dtype))
    write_folder(folder, entries, max_shard_bytes=max_shard_bytes)


def not_finite(model: nnx.Module) -> list[str]:
    """The parameters in which there is a NaN or an infinity."""
    flat = {_name(path): leaf.get_value() for path, leaf in nnx.to_flat_state(nnx.split(model)[1])}
    return [name for name, array in flat.items() if not _all_finite(array)]


@jax.jit
def _all_finite(array: jax.Array) -> jax.Array:
    return jax.numpy.isfinite(array).all()


def _name(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))


def _entries(parameters: dict[str, jax.Array], family: Family, config: ModelConfig, dtype: np.dtype) -> list[Entry]:
    """What is to be written, in the map's order; nothing is read from the devices yet."""
    mapping = TensorMap(family.tensors(config), {path: array.shape for path, array in parameters.items()})

    def part(path: str, index: tuple[int, ...]) -> np.ndarray:
        return read_part(parameters[path], index)

    entries = [
        Entry(name, mapping.shape(name), dtype, functools.partial(mapping.to_theirs, name, part))
        for name in mapping.tensors
    ]
    made = [(name, make()) for name, make in family.computed(config).items()]
    entries += [Entry(name, array.shape, dtype, lambda array=array: array) for name, array in made]
    for name, (of, number) in family.scaled(config).items():
        times = functools.partial(_times, number, functools.partial(mapping.to_theirs, of, part))
        entries.append(Entry(name, mapping.shape(of), dtype, times))
    return entries


def _times(number: float, read: Callable[[], np.ndarray]) -> np.ndarray:
    return read() * np.float32(number)


def _check(tensors: TensorFolder, mapping: TensorMap, family: Family, config: ModelConfig) -> None:
    """Before anything is read, from the files' headers. Raises UserError for what is missing, strange or misshapen."""
    for name in mapping.tensors:
        tensors.check(name, mapping.shape(name))
    copies, computed, scaled = family.copies(config), family.computed(config), family.scaled(config)
    known = {*mapping.tensors, *copies, *computed, *scaled}
    strange = [
        name for name in tensors if name not in known and not any(re.fullmatch(form, name) for form in family.ignored)
    ]
    if strange:
        more = f" and {len(strange) - 1} other tensors" if len(strange) > 1 else ""
        raise UserError(
            f"{tensors.folder / tensors.index} holds {strange[0]}{more}, which a {family.name} of this config.json "
            "does not have; leaving tensors out would change the model, so it was not loaded"
        )
    for name, of in copies.items():
        if name in tensors and not np.array_equal(*(tensors.read(n, mapping.shape(of)) for n in (name, of))):
            raise UserError(
                f"{tensors.folder / 'config.json'}: the embeddings are tied (tie_word_embeddings), yet {name} differs "
                f"from {of}; set it to false if the model has a head of its own"
            )
    made = {name: make for name, make in computed.items() if name in tensors}
    for name, (of, number) in scaled.items():
        if name in tensors:
            made[name] = functools.partial(_times, number, functools.partial(tensors.read, of, mapping.shape(of)))
    for name, make in made.items():
        array = make()
        found = tensors.read(name, array.shape).astype(np.float32)
        rounded = 1e-2 if tensors.itemsize(name) < 4 else 1e-5
        if not np.allclose(found, array.astype(np.float32), rtol=rounded, atol=rounded):
            raise UserError(
                f"{tensors.files[name].path}: {name} does not hold the numbers that a {family.name} computes; "
                "it was trained, and this model has no parameter for it"
            )
