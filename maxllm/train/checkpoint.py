"""Checkpoints that are either whole or not used: Orbax's manager, asynchronous, with every byte accounted for.

`checkpoints/<step>/` holds one Orbax item per tree (`parameters`, `optimizer`, ...), `meta` (JSON: the step, the
data iterator's place, the resolved config, fingerprints) and `files.json`, the size of every file and the checksum
of every small one. Orbax renames the folder into place when all of it is written, so that a kill during a save
leaves the previous one the newest.

What a rename cannot promise (a disk that lost the tail of a file, a flipped bit: Orbax 0.12 restores a flipped bit
in array data without a word) is checked on the way back: files against `files.json`, contents against the
fingerprints in `meta`. A checkpoint that fails is put aside, and said so; the one before it is used.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import re
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from maxllm.config.compute import ComputeConfig
from maxllm.config.errors import UserError
from maxllm.config.model import ModelConfig
from maxllm.convert import hf
from maxllm.models.create import abstract as abstract_model
from maxllm.models.decoder import Decoder
from maxllm.parallel.mesh import single_device_mesh
from maxllm.parallel.rules import shardings
from maxllm.tokenizer import Tokenizer
from maxllm.train.trees import Tree, by_name, fingerprints, like

CHECKPOINTS = "checkpoints"
LEAN = 2  # gigabytes, for `Checkpoints(lean=True)`
FILES = "files.json"


class SaveFailed(Exception):
    """A save that did not reach the disk. The checkpoints before it are untouched."""


class Restored(NamedTuple):
    step: int
    trees: dict[str, Tree]
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run. In a job of many processes every method is called by all of them.

    Args:
      folder: where the step folders live; a local or shared path, or `gs://...`.
      keep: how many to keep. The oldest goes after the newest is whole, so keep + 1 exist for a moment.
      say: called with a sentence, by process 0, when a checkpoint turns out damaged.
      lean: copy one array of the item `parameters` off the devices at a time, or as many as LEAN holds, so that a
        model need not fit in the host's memory; the arrays must not change until it is written.
    """

    def __init__(
        self,
        folder: str,
        *,
        keep: int = 2,
        say: Callable[[str], None] = print,
        read_only: bool = False,
        lean: bool = False,
    ):
        # Orbax wants absolute paths; epath keeps gs:// ones as they are.
        self.folder = epath.Path(folder).resolve() if "://" not in str(folder) else epath.Path(folder)
        self._say = say
        self._keep = keep
        self._read_only = read_only
        self._lean = lean
        self._saving: int | None = None
        # Orbax prints pages about what it also raises; the sentences here say it once.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        if not self._read_only:
            self.folder.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if self._read_only else self._keep,
            create=not self._read_only,
            cleanup_tmp_directories=not self._read_only,  # what a killed save left behind
            read_only=self._read_only,
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._write_files),
        )
        handlers = None
        if self._lean:
            arrays = ocp.type_handlers.ArrayHandler(callback=_one_by_one())
            registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
            lean = ocp.PyTreeCheckpointHandler(save_device_host_concurrent_gb=LEAN, type_handler_registry=registry)
            # Whoever names one item's handler has to name all.
            handlers = {item: ocp.JsonCheckpointHandler() for item in ("meta", "tokenizer")} | {"parameters": lean}
        return ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    def steps(self) -> list[int]:
        """The steps on disk, oldest first. Their wholeness is not checked."""
        return sorted(self._manager.all_steps()) if self.folder.exists() else []

    def save(
        self,
        step: int,
        trees: Mapping[str, Tree],
        meta: Mapping[str, Any],
        documents: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Begin to save; returns once the arrays are copied off the devices, writing goes on behind.

        Args:
          trees: pytrees of arrays, one Orbax item each.
          meta, documents: JSON; `documents` are items of their own.

        Raises SaveFailed if this save could not begin or the one before it failed.
        """
        self.wait()
        if short := _from_first(lambda: self._short_of_space(trees)):
            raise SaveFailed(self._failed(step, short))
        items: dict[str, ocp.args.CheckpointArgs] = {
            name: (ocp.args.PyTreeSave if self._lean else ocp.args.StandardSave)(by_name(tree))
            for name, tree in trees.items()
        }
        items |= {name: ocp.args.JsonSave(dict(document)) for name, document in (documents or {}).items()}
        items["meta"] = ocp.args.JsonSave({**meta, "step": step, "fingerprints": fingerprints(trees)})
        self._saving = step
        with self._failures():
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def wait(self) -> None:
        """Until the save under way is on disk. Raises SaveFailed if it never will be."""
        with self._failures():
            self._manager.wait_until_finished()
        self._saving = None

    def poll(self) -> None:
        """Raises SaveFailed as soon as the save under way has failed; never waits."""
        if self._saving is not None and not self._manager.is_saving_in_progress():
            self.wait()

    @contextlib.contextmanager
    def _failures(self):
        try:
            yield
        except Exception as error:
            step, self._saving = self._saving, None
            # The manager has already forgotten the checkpoints it meant to delete; a new one finds what is there,
            # and clears away the half-written folder, which may hold the very space that was missing.
            with contextlib.suppress(Exception):
                self._manager.close()
            self._manager = self._open()
            raise SaveFailed(self._failed(step, _root_cause(error))) from error

    def _failed(self, step: int | None, reason: str) -> str:
        kept = self.steps()
        before = f"the checkpoint of step {kept[-1]} is still good" if kept else "there is no earlier checkpoint"
        return f"saving step {step} to {self.folder} failed ({reason}); {before}; free space or mend the disk"

    def _short_of_space(self, trees: Mapping[str, Tree]) -> str:
        """Asked before, because a disk that fills up fails half-way, and other files with it."""
        try:
            free = shutil.disk_usage(self.folder).free
        except OSError:
            return ""  # not a local disk
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(dict(trees)))
        return f"{needed / 1e9:.2f} GB to write, {free / 1e9:.2f} GB free" if free < needed else ""

    def close(self) -> None:
        """Wait, then release Orbax's threads. Raises SaveFailed like `wait`."""
        try:
            self.wait()
        finally:
            self._manager.close()

    # Coming back ---------------------------------------------------------------------------------

    def read_document(self, step: int, name: str = "meta") -> dict[str, Any]:
        """A JSON item of `step`. Raises OSError or ValueError if it cannot be read."""
        return json.loads((self.folder / str(step) / name / "metadata").read_text())

    def newest_meta(self, name: str = "meta") -> dict[str, Any] | None:
        """The newest `meta` (or other JSON item) that can be read, before any array is."""
        for step in reversed(self.steps()):
            with contextlib.suppress(OSError, ValueError):
                return self.read_document(step, name)
        return None

    def newest_holds(self, tree: str) -> bool:
        """Whether the newest checkpoint has this tree in it; True where there is none."""
        meta = self.newest_meta()
        return meta is None or any(name.startswith(f"{tree}/") for name in meta["fingerprints"])

    def restore(self, targets: Mapping[str, Tree], step: int | None = None) -> Restored | None:
        """The newest whole checkpoint (or `step`), its arrays laid out as `targets`; None where there is none.

        Args:
          targets: trees of `jax.ShapeDtypeStruct` with the shardings wanted now. They need not be those of the save:
            each process reads the byte ranges its devices hold.

        Raises UserError if there are checkpoints and none of them is whole.
        """
        damaged: dict[int, str] = {}
        wanted = list(reversed(self.steps())) if step is None else [step]
        for candidate in wanted:
            try:
                restored = self._restore(candidate, targets)
            except _Damaged as damage:
                damaged[candidate] = str(damage)
                self._say(f"checkpoint of step {candidate} is damaged ({damage}); trying the one before it")
                continue
            self._put_aside(damaged)
            return restored
        if damaged:
            listed = "; ".join(f"step {number}: {reason}" for number, reason in damaged.items())
            raise UserError(
                f"{self.folder}: no checkpoint is whole ({listed}); bring the files back, or move the folder away to "
                "begin again"
            )
        return None

    def _restore(self, step: int, targets: Mapping[str, Tree]) -> Restored:
        # Files first, on one process: Orbax meets a short file inside a collective, where one process that fails
        # leaves the others waiting.
        problem = _from_first(lambda: self._wrong_files(step))
        if problem:
            raise _Damaged(problem)
        items = {name: ocp.args.StandardRestore(by_name(tree)) for name, tree in targets.items()}
        try:
            meta = self.read_document(step)
            found = self._manager.restore(step, args=ocp.args.Composite(**items))
            trees = {name: like(tree, found[name]) for name, tree in targets.items()}
        except Exception as error:
            raise _Damaged(_root_cause(error)) from error
        for name, value in fingerprints(trees).items():
            if meta["fingerprints"].get(name) != value:
                raise _Damaged(f"{name} does not have the contents that were saved")
        return Restored(step, trees, meta)

    def _put_aside(self, damaged: Mapping[int, str]) -> None:
        """Out of the way of the save that will come at the same step, but kept: a person may want to look."""
        if not damaged or self._read_only:
            return
        if jax.process_index() == 0:
            aside = self.folder.parent / "damaged"
            aside.mkdir(parents=True, exist_ok=True)
            for step in damaged:
                target = aside / str(step)
                if target.exists():
                    target.rmtree()
                (self.folder / str(step)).rename(target)
            self._say(f"put aside in {aside}: {', '.join(str(step) for step in sorted(damaged))}")
        _barrier("maxllm:damaged")
        self._manager.reload()

    # files.json ----------------------------------------------------------------------------------

    def _write_files(self) -> None:
        """Called by Orbax when all else is written and the folder has not got its final name yet."""
        for folder in self.folder.iterdir():
            if folder.is_dir() and folder.name.split(".")[0] == str(self._saving):
                # At the top lies only Orbax's own note of times, which it rewrites later and restores without.
                items = [item for item in folder.iterdir() if item.is_dir()]
                files = {str(file.relative_to(folder)): _measure(file) for item in items for file in _files(item)}
                (folder / FILES).write_text(json.dumps(files))

    def _wrong_files(self, step: int) -> str:
        """What is wrong with the files of `step`, or an empty string."""
        folder = self.folder / str(step)
        try:
            files = json.loads((folder / FILES).read_text())
        except (OSError, ValueError):
            return f"{FILES} is missing or unreadable"
        for name, (size, checksum) in files.items():
            file = folder / name
            if not file.exists():
                return f"{name} is missing"
            if file.stat().length != size:
                return f"{name} has {file.stat().length} bytes of {size}"
            if _measure(file)[1] != checksum:
                return f"{name} does not have the bytes that were written"
        return ""


def _one_by_one() -> Any:
    """What tells Orbax to wait with each array: without it everything is copied at once, whatever the limit."""
    # Private, and so imported only by who needs it: an Orbax that has moved it breaks `maxllm import`, not training.
    from orbax.checkpoint._src.serialization.types import DefaultSerializationStatusCallback, TransferPriority

    class OneByOne(DefaultSerializationStatusCallback):
        def key_priority(self, _: Any) -> TransferPriority:
            return TransferPriority.ASYNCHRONOUS_DEPRIORITIZED

    return OneByOne()


class _Damaged(Exception):
    pass


# A model out of a checkpoint ----------------------------------------------------------------------


def load_any(
    path: str | Path, *, mesh: Mesh | None = None, dtype: str = "float32"
) -> tuple[Decoder, Tokenizer, ModelConfig]:
    """The model at `path`: a run directory, one of its checkpoints, or a Hugging Face folder. See `load_model`."""
    return hf.load(path, dtype, mesh=mesh) if hf.is_folder(path) else load_model(path, mesh=mesh, dtype=dtype)


def config_of(path: str | Path) -> ModelConfig:
    """The shape of the model at `path`, as for `load_any`."""
    if hf.is_folder(path):
        return hf.load_config(path)
    step, folder = _find_checkpoints(str(path))
    return _config_in(Checkpoints(folder, read_only=True), step, path)


def tokenizer_of(path: str | Path) -> Tokenizer:
    """The tokenizer of the model at `path`, as for `load_any`."""
    if hf.is_folder(path):
        return hf.load_tokenizer(path, hf.load_config(path))
    step, folder = _find_checkpoints(str(path))
    checkpoints = Checkpoints(folder, read_only=True)
    files = checkpoints.newest_meta("tokenizer") if step is None else checkpoints.read_document(step, "tokenizer")
    if files is None:
        raise UserError(f"{path} holds no checkpoint; train for at least one, or name another folder")
    return _unpacked(files)


def _config_in(checkpoints: Checkpoints, step: int | None, path: str | Path) -> ModelConfig:
    meta = checkpoints.newest_meta() if step is None else checkpoints.read_document(step)
    if meta is None:
        raise UserError(f"{path} holds no checkpoint; train for at least one, or name another folder")
    return ModelConfig.model_validate(meta["config"]["model"])


def load_model(
    path: str | Path, *, mesh: Mesh | None = None, dtype: str = "float32"
) -> tuple[Decoder, Tokenizer, ModelConfig]:
    """The model, tokenizer and shape in a run directory (its newest whole checkpoint) or in one checkpoint folder.

    Args:
      mesh: where the parameters are put, whatever mesh they were saved from; one device without.
      dtype: of the parameters and of the computation; "float32" or "bfloat16".

    Raises UserError if there is no checkpoint at `path` or none is whole.
    """
    step, folder = _find_checkpoints(str(path))
    checkpoints = Checkpoints(folder, read_only=True)
    config = _config_in(checkpoints, step, path)
    structure, shapes = abstract_model(config, ComputeConfig(dtype=dtype))
    target = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings(shapes, mesh or single_device_mesh()),
    )
    restored = checkpoints.restore({"parameters": target}, step)
    tokenizer = _unpacked(checkpoints.read_document(restored.step, "tokenizer"))
    checkpoints.close()
    parameters = jax.tree.map(lambda leaf: leaf.astype(dtype), restored.trees["parameters"])
    return nnx.merge(structure, parameters), tokenizer, config


def _unpacked(files: dict[str, str]) -> Tokenizer:
    return Tokenizer({name: base64.b64decode(content) for name, content in files.items()})


def pack_tokenizer(tokenizer: Tokenizer) -> dict[str, str]:
    """The document `tokenizer` of a checkpoint: its files, base64."""
    return {name: base64.b64encode(content).decode() for name, content in tokenizer.files.items()}


def _find_checkpoints(path: str) -> tuple[int | None, str]:
    """(the step `path` names or None for the newest, the folder of all steps)."""
    place = epath.Path(path)
    if place.name.isdigit() and (place / FILES).exists():
        return int(place.name), str(place.parent)
    if (place / CHECKPOINTS).is_dir():
        return None, str(place / CHECKPOINTS)
    if any(child.name.isdigit() for child in place.iterdir()) if place.is_dir() else False:
        return None, path
    raise UserError(f"{path} is neither a run directory, nor a checkpoint, nor a Hugging Face folder")


# Small things -------------------------------------------------------------------------------------


def _files(folder: epath.Path):
    for path in folder.iterdir():
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _measure(file: epath.Path) -> list[int | None]:
    """Its size, and its CRC-32 if it is small: array data has fingerprints, and is too much to read twice."""
    size = file.stat().length
    return [size, zlib.crc32(file.read_bytes()) if size <= 1 << 24 else None]


def _root_cause(error: BaseException) -> str:
    """The innermost error, its first line."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    text = str(error)
    if system := re.search(r"([^:]+) \[os_error_code", text):  # tensorstore wraps errno in a long story
        return system.group(1).strip()
    return f"{type(error).__name__}: {(text.strip().splitlines() or [''])[0]}"[:200]


def _from_first(check: Callable[[], str]) -> str:
    """`check()` of process 0, known to all."""
    text = check() if jax.process_index() == 0 else ""
    if jax.process_count() == 1:
        return text
    buffer = np.frombuffer(text.encode()[:256].ljust(256), np.uint8)
    return multihost_utils.broadcast_one_to_all(buffer).astype(np.uint8).tobytes().decode(errors="ignore").strip()


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
