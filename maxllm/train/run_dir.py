"""A run's folder: everything needed to repeat the run, and the refusal to go on with another one in it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from maxllm.config import to_yaml
from maxllm.config.errors import UserError
from maxllm.config.train import TrainConfig
from maxllm.data import labelled
from maxllm.data.dataset import Dataset
from maxllm.tokenizer import Tokenizer

# What a checkpoint means nothing without: whose parameters these are, which numbers they were, what came next.
FIXED = (
    "model",
    "data.sources",
    "data.sequence_length",
    "data.batch_size",
    "data.seed",
    "objective.name",
    "objective.rate",
    "objective.span",
    "objective.next_sentence",
    "objective.step_size",
    "objective.smoothing",
    "optimizer.name",
    "optimizer.moments_dtype",
    "sparsity",
    "train.seed",
)
DATA = "data.json"


def lock(run_dir: Path) -> IO[str]:
    """Hold `run_dir` until the file returned is closed or the process is gone, however it went.

    Raises UserError if another process holds it: two trainers in one folder would overwrite each other.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    file = (run_dir / ".lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise UserError(
            f"{run_dir}: another process (pid {holder}) is training in this folder; stop it, or set train.run_dir"
        ) from None
    except OSError:
        return file  # a file system without locks
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def fingerprints(config: TrainConfig, tokenizer: Tokenizer) -> dict[str, str]:
    """SHA-256 of the tokenizer, and of what decides each source's batches: its shards' and packings' own."""
    found = {"tokenizer": tokenizer.fingerprint}
    for name in config.data.drawn:
        source = config.data.sources[name]
        if config.model.labels:
            found[f"data.{name}"] = labelled.fingerprint(source.path)
            continue
        digest = hashlib.sha256()
        for shard in Dataset(source.path).shards("train", source.source):
            packing = shard["packings"].get(str(config.data.sequence_length), {"files": []})
            digest.update(
                " ".join([shard["name"], *(f["sha256"] for f in [shard["file"], *packing["files"]])]).encode()
            )
        found[f"data.{name}"] = digest.hexdigest()
    return found


def write(
    run_dir: Path, config: TrainConfig, prints: Mapping[str, str], tokenizer: Tokenizer, data: Mapping[str, Any]
) -> None:
    """config.yml as resolved (it can be given to `maxllm train` again), the tokenizer, and data.json."""
    comments = "".join(f"# {name} sha256 {value}\n" for name, value in prints.items())
    for name, text in (("config.yml", comments + to_yaml(config)), (DATA, json.dumps(data, indent=1))):
        partial = run_dir / f"{name}.partial"
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, run_dir / name)
    tokenizer.save(run_dir / "tokenizer")


def check_same_run(
    place: str,
    meta: Mapping[str, Any],
    config: TrainConfig,
    prints: Mapping[str, str],
    phases: Sequence[tuple[Any, ...]],
) -> None:
    """Raises UserError if `meta`, a checkpoint's, belongs to another run than `config` describes.

    More steps, another learning rate, layout, precision, or logging are changes one may go on with.
    """
    # Settings that are newer than the checkpoint had their defaults.
    before = _leaves(TrainConfig.model_validate(meta["config"]).model_dump(mode="json"))
    now = _leaves(config.model_dump(mode="json"))
    paths = sorted(path for path in before.keys() | now.keys() if _fixed(path))
    # A source may have moved; what it holds is compared below.
    differing = [
        f"{path} was {before.get(path)!r} and is now {now.get(path)!r}"
        for path in paths
        if before.get(path) != now.get(path) and not path.endswith(".path")
    ]
    now_phases = json.loads(json.dumps(phases))
    if meta.get("phases", now_phases[:1]) != now_phases:
        differing.append("data.phases, counted in steps, were others (an `until` above 1 stays where it is)")
    old = meta["fingerprints_of_inputs"]
    differing += [
        f"the contents of {name} changed" for name in sorted(old.keys() & prints.keys()) if old[name] != prints[name]
    ]
    if differing:
        raise UserError(
            f"{place} holds checkpoints of another run: {'; '.join(differing[:6])}; set train.run_dir to a new folder, "
            "or set back what changed to go on with this one"
        )


def _fixed(path: str) -> bool:
    return any(path == fixed or path.startswith(fixed + ".") for fixed in FIXED)


def _leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    return found
