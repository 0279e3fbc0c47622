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
from collections.abc import Iterable, Iterator
from pathlib import Path

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

    def read(self, name: str) -> np.ndarray:
        dtype_name, shape, (begin, end) = self.entries[name]
        dtype = DTYPES.get(dtype_name)
        if dtype is None:
            raise UserError(
                f"{self.path}: tensor {name} has dtype {dtype_name}; only {', '.join(DTYPES)} can be imported, "
                "quantized weights must be converted first"
            )
        if end - begin != math.prod(shape) * dtype.itemsize:
            raise UserError(f"{self.path}: tensor {name} has a shape that does not match its bytes; the file is broken")
        if begin == end:  # nothing to map
            return np.zeros(shape, dtype)
        return np.memmap(self.path, np.uint8, "r", self.start + begin, (end - begin,)).view(dtype).reshape(shape)


class TensorFolder:
    """All tensors of a Hugging Face folder, sharded or not. A mapping name -> array, read when asked for."""

    def __init__(self, folder: str | Path):
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
            self.files = {tensor: files[name] for tensor, name in weight_map.items()}
        elif (folder / SINGLE).is_file():
            self.index = SINGLE
            file = TensorFile(folder / SINGLE)
            self.files = {tensor: file for tensor in file.names}
        else:
            raise UserError(f"{folder} holds neither {SINGLE} nor {INDEX}; pickled weights (.bin) are not read")

    def __contains__(self, name: str) -> bool:
        return name in self.files

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def read(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The tensor, in the file's dtype. Raises UserError where it is missing or not of `shape`."""
        if name not in self.files:
            raise UserError(f"{self.folder / self.index} has no tensor {name}, which config.json calls for")
        tensor = self.files[name].read(name)
        if tensor.shape != shape:
            raise UserError(
                f"{self.files[name].path}: tensor {name} has shape {list(tensor.shape)}, "
                f"where config.json calls for {list(shape)}"
            )
        return tensor


def write_folder(
    folder: Path, tensors: Iterable[tuple[str, np.ndarray]], *, max_shard_bytes: int = 5_000_000_000
) -> None:
    """Writes `tensors` in their order as one file, or as shards of at most `max_shard_bytes` with an index.

    Only one shard is held in memory, so the tensors may be made while they are being written.
    """
    from safetensors.numpy import save_file

    shards: list[list[str]] = []
    total = 0
    pending: dict[str, np.ndarray] = {}

    def flush() -> None:
        if pending:
            save_file(pending, folder / f"shard-{len(shards)}", metadata={"format": "pt"})
            shards.append(list(pending))
            pending.clear()

    for name, tensor in tensors:
        if pending and sum(t.nbytes for t in pending.values()) + tensor.nbytes > max_shard_bytes:
            flush()
        pending[name] = np.ascontiguousarray(tensor)
        total += tensor.nbytes
    flush()
    if len(shards) == 1:
        os.replace(folder / "shard-0", folder / SINGLE)
        return
    weight_map = {}
    for number, names in enumerate(shards):
        final = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        os.replace(folder / f"shard-{number}", folder / final)
        weight_map.update(dict.fromkeys(names, final))
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
