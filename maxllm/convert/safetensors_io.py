"""Reading and writing a model's tensors as safetensors: one file, or shards with an index.

Files are read through memory maps, so that a tensor costs memory only while it is being used. The format
(https://huggingface.co/docs/safetensors): 8 bytes little-endian header length, a JSON header
`{name: {dtype, shape, data_offsets}}`, then the bytes. The package's own NumPy reader knows no bfloat16.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from maxllm.config.errors import UserError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


class TensorFile:
    """One safetensors file: `names`, and `read(name)` as a read-only view of the file."""

    def __init__(self, path: Path):
        self.path = path
        try:
            size = os.path.getsize(path)
            with open(path, "rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                if length > size - 8:
                    raise ValueError
                header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            self.entries = {
                name: (entry["dtype"], tuple(entry["shape"]), tuple(entry["data_offsets"]))
                for name, entry in header.items()
            }
        except FileNotFoundError:
            raise UserError(f"{path} is missing: the folder is incomplete; copy or download it again") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
            raise UserError(
                f"{path} is not a whole safetensors file (its header does not read); copy or download it again"
            ) from None
        self.start = 8 + length
        expected = self.start + max((offsets[1] for _, _, offsets in self.entries.values()), default=0)
        if size < expected:
            raise UserError(
                f"{path} is truncated: {size} bytes where its header promises {expected}; copy or download it again"
            )

    @property
    def names(self) -> list[str]:
        return list(self.entries)

    def check(self, name: str) -> np.dtype:
        """The tensor's dtype. Raises UserError if it cannot be read."""
        dtype_name, shape, (begin, end) = self.entries[name]
        dtype = DTYPES.get(dtype_name)
        if dtype is None:
            raise UserError(
                f"{self.path}: tensor {name} has dtype {dtype_name}; only {', '.join(DTYPES)} can be imported, "
                "quantized weights must be converted first"
            )
        if begin < 0 or end - begin != math.prod(shape) * dtype.itemsize:
            raise UserError(f"{self.path}: tensor {name} has a shape that does not match its bytes; the file is broken")
        return dtype

    def read(self, name: str) -> np.ndarray:
        dtype = self.check(name)
        _, shape, (begin, end) = self.entries[name]
        if begin == end:  # nothing to map
            return np.zeros(shape, dtype)
        return np.memmap(self.path, np.uint8, "r", self.start + begin, (end - begin,)).view(dtype).reshape(shape)


class TensorFolder:
    """All tensors of a Hugging Face folder, sharded or not. A mapping name -> array, read when asked for.

    `canonical`: what a name of the files is called here.
    """

    def __init__(self, folder: str | Path, canonical: Callable[[str], str] = lambda name: name):
        folder = Path(folder)
        self.folder = folder
        if (folder / INDEX).is_file():
            self.index = INDEX
            try:
                weight_map = dict(json.loads((folder / INDEX).read_text())["weight_map"])
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{folder / INDEX} holds no weight_map; copy or download it again") from None
            outside = next((name for name in weight_map.values() if Path(name).name != name), None)
            if outside is not None:
                raise UserError(f"{folder / INDEX} names {outside!r}, which is not a file of this folder")
            files = {name: TensorFile(folder / name) for name in sorted(set(weight_map.values()))}
            for tensor, name in weight_map.items():
                if tensor not in files[name].entries:
                    raise UserError(f"{folder / name} lacks tensor {tensor}, which {INDEX} places there")
            named = {tensor: files[name] for tensor, name in weight_map.items()}
        elif (folder / SINGLE).is_file():
            self.index = SINGLE
            file = TensorFile(folder / SINGLE)
            named = {tensor: file for tensor in file.names}
        elif shard := next(iter(sorted(folder.glob("*.safetensors"))), None):
            raise UserError(
                f"{folder} holds {shard.name}, but no {INDEX} that says which tensor lies where; copy it too"
            )
        else:
            raise UserError(f"{folder} holds neither {SINGLE} nor {INDEX}; pickled weights (.bin) are not read")
        self.files = {canonical(tensor): file for tensor, file in named.items()}
        self.names = {canonical(tensor): tensor for tensor in named}
        if len(self.files) < len(named):
            twice = next(tensor for tensor in named if self.names[canonical(tensor)] != tensor)
            raise UserError(f"{folder / self.index} holds {twice} and {self.names[canonical(twice)]}, which are one")

    def __contains__(self, name: str) -> bool:
        return name in self.files

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def itemsize(self, name: str) -> int:
        return self.files[name].check(self.names[name]).itemsize

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raises UserError where the tensor is missing, not of `shape` or of a dtype that cannot be read."""
        if name not in self.files:
            raise UserError(f"{self.folder / self.index} has no tensor {name}, which config.json calls for")
        file, own = self.files[name], self.names[name]
        found = file.entries[own][1]
        if found != shape:
            raise UserError(
                f"{file.path}: tensor {own} has shape {list(found)}, where config.json calls for {list(shape)}"
            )
        file.check(own)

    def read(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The tensor, in the file's dtype. Raises UserError like `check`."""
        self.check(name, shape)
        return self.files[name].read(self.names[name])


class Entry(NamedTuple):
    """A tensor to be written: made when its turn comes."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


def entries_of(tensors: Mapping[str, np.ndarray]) -> list[Entry]:
    """Of arrays that there are already."""
    return [Entry(name, array.shape, array.dtype, lambda array=array: array) for name, array in tensors.items()]


def write_folder(folder: Path, entries: Iterable[Entry], *, max_shard_bytes: int = 5_000_000_000) -> None:
    """Writes tensors in their order as one file, or as shards of at most `max_shard_bytes` with an index.

    A tensor larger than that is a shard alone. Only one tensor is held in memory at a time.
    """
    shards: list[list[Entry]] = [[]]
    for entry in entries:
        if shards[-1] and sum(map(_size, shards[-1])) + _size(entry) > max_shard_bytes:
            shards.append([])
        shards[-1].append(entry)
    if len(shards) == 1:
        _write_file(folder / SINGLE, shards[0])
        return
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(folder / name, shard)
        weight_map.update({entry.name: name for entry in shard})
    total = sum(_size(entry) for shard in shards for entry in shard)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _size(entry: Entry) -> int:
    return math.prod(entry.shape) * entry.dtype.itemsize


def _write_file(path: Path, entries: list[Entry]) -> None:
    """The package's writer wants all tensors of a file at once; this one asks for each when it has the place."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for entry in entries:
        begin, end = end, end + _size(entry)
        header[entry.name] = {"dtype": names[entry.dtype], "shape": list(entry.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that numbers lie at multiples of their size
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for entry in entries:
            tensor = entry.read()
            if tensor.shape != entry.shape:
                raise ValueError(f"{entry.name} is {tensor.shape}, where {entry.shape} was announced")
            file.write(np.ascontiguousarray(tensor.astype(entry.dtype, copy=False)).view(np.uint8).data)
