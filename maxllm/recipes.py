"""Runs a recipe: stages in order, each a command of its own, each leaving a manifest.

A stage is skipped when its manifest says that it ran with the same settings, after the same stages, on the same
input files, and its outputs are still there. A stage may have a `base:` that an earlier one writes and lists among its
outputs: a mixture that a model was trained to find, say. Every stage is a separate process, so that it is exactly the
command a user would type, its memory goes back when it ends, and a kill costs at most that stage's own unsaved work.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import platform
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from maxllm import __version__
from maxllm.config.errors import UserError
from maxllm.config.kinds import ROOTS
from maxllm.config.load import resolve, to_yaml
from maxllm.config.recipe import RecipeConfig, StageConfig
from maxllm.summary import SUMMARY_VARIABLE

INTERRUPTED = 130  # exit code of a program that Ctrl-C ended


class Stage(NamedTuple):
    """A stage ready to run: its settings resolved, its place in the chain hashed."""

    label: str
    command: list[str]
    config_text: str | None
    outputs: list[Path]
    fingerprint: str
    late: bool  # settings come from a file that an earlier stage writes


class StageFailed(Exception):
    """A stage's command ended with another code than 0."""


def run(recipe: RecipeConfig, console: Console | None = None) -> dict[str, Any]:
    """Run every stage that is not already valid. Returns `{stage: manifest}`. Raises UserError or StageFailed."""
    console = console or Console(highlight=False)
    run_dir = Path(recipe.run_dir)
    stages = prepare(recipe)  # a mistake in the last stage is told before the first one runs
    manifests: dict[str, Any] = {}
    for number in range(1, len(stages) + 1):
        if stages[number - 1].late:
            stages = prepare(recipe)
        stage = stages[number - 1]
        title = f"[bold]{number}/{len(stages)} {stage.label}[/bold]"
        manifest_path = run_dir / "stages" / f"{stage.label}.json"
        manifest = _valid_manifest(manifest_path, stage)
        if manifest is not None:
            console.print(
                f"{title} [dim]is done already ({manifest['seconds']:.0f} s then)[/dim] {manifest['summary']}"
            )
        else:
            console.print(f"{title} [dim]{shlex.join(['maxllm', *stage.command])}[/dim]", soft_wrap=True)
            manifest = _run_stage(stage, run_dir)
            _write_atomically(manifest_path, json.dumps(manifest, indent=1))
        manifests[stage.label] = manifest
    return manifests


def prepare(recipe: RecipeConfig) -> list[Stage]:
    """The recipe's stages with resolved settings. Raises UserError naming the stage that is wrong."""
    run_dir = Path(recipe.run_dir)
    chain = hashlib.sha256(f"{__version__} {platform.python_version()}".encode()).hexdigest()
    prepared: list[Stage] = []
    promised: set[str] = set()
    for stage in recipe.stages:
        filled = StageConfig.model_validate(_fill(stage.model_dump(), str(run_dir)))
        text = None
        command: list[str] = [filled.verb]
        settings, late = _without_files_to_come(filled.config, promised)
        if filled.config:
            if filled.verb not in ROOTS:
                raise UserError(f"stage {filled.label}: `maxllm {filled.verb}` takes arguments, not a config")
            try:
                text = to_yaml(resolve(ROOTS[filled.verb], tree=settings).config)
            except UserError as error:
                raise UserError(f"stage {filled.label}: {error}") from None
            command.append(str(run_dir / "stages" / f"{filled.label}.yml"))
        command += filled.arguments
        parts = [chain, text or "", *filled.arguments, *_input_files(filled.config)]
        chain = hashlib.sha256("\x00".join(parts).encode()).hexdigest()
        prepared.append(Stage(filled.label, command, text, [Path(p) for p in filled.outputs], chain, late))
        promised |= set(filled.outputs)
    return prepared


def _without_files_to_come(config: dict[str, Any], promised: set[str]) -> tuple[dict[str, Any], bool]:
    """The settings without a `base` that an earlier stage has yet to write, and whether any base is an earlier one's.

    What is left is checked like any other settings before the first stage runs.
    """
    bases = config.get("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    there = [base for base in bases if base not in promised or Path(base).is_file()]
    return {**config, "base": there} if bases else config, bool(promised & set(bases))


def _fill(value: Any, run_dir: str) -> Any:
    if isinstance(value, str):
        return value.replace("{run}", run_dir)
    if isinstance(value, dict):
        return {key: _fill(child, run_dir) for key, child in value.items()}
    if isinstance(value, list):
        return [_fill(child, run_dir) for child in value]
    return value


def _input_files(config: dict[str, Any]) -> list[str]:
    """Path, size and time of the local files that a curate stage reads: what "the same inputs" means."""
    found = []
    for source in config.get("inputs", ()):
        for pattern in source.get("paths", ()):
            for path in sorted(glob.glob(pattern)):
                status = os.stat(path)
                found.append(f"{path} {status.st_size} {status.st_mtime_ns}")
    return found


def _valid_manifest(path: Path, stage: Stage) -> dict[str, Any] | None:
    try:
        manifest = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    same = manifest.get("fingerprint") == stage.fingerprint
    return manifest if same and all(output.exists() for output in stage.outputs) else None


def _run_stage(stage: Stage, run_dir: Path) -> dict[str, Any]:
    folder = run_dir / "stages"
    folder.mkdir(parents=True, exist_ok=True)
    if stage.config_text is not None:
        _write_atomically(folder / f"{stage.label}.yml", stage.config_text)
    summary = folder / f"{stage.label}.summary"
    summary.unlink(missing_ok=True)
    began = time.monotonic()
    code = _call([sys.executable, "-m", "maxllm.cli.main", *stage.command], {SUMMARY_VARIABLE: str(summary)})
    if code == INTERRUPTED:  # the Ctrl-C that reached the child may not have reached us, or not yet
        raise KeyboardInterrupt
    if code:
        raise StageFailed(f"stage {stage.label} ended with code {code}; mend it and run the same command to go on")
    missing = [str(output) for output in stage.outputs if not output.exists()]
    if missing:
        raise StageFailed(f"stage {stage.label} ended well but {', '.join(missing)} is not there")
    return {
        "fingerprint": stage.fingerprint,
        "command": ["maxllm", *stage.command],
        "seconds": round(time.monotonic() - began, 1),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
        "summary": summary.read_text().strip() if summary.exists() else "",
    }


def _call(command: Sequence[str], environment: dict[str, str]) -> int:
    """Run a child on this terminal. Ctrl-C reaches it by itself; SIGTERM is passed on; either way we wait for it."""
    child = subprocess.Popen(command, env={**os.environ, **environment})
    previous = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    try:
        return child.wait()
    except KeyboardInterrupt:
        child.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)


def _write_atomically(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
