"""Stop a real `maxllm train` anyhow, run the same command again: the same run to the last bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import pytest
import yaml

from maxllm.train.metrics import read
from maxllm.train.trees import flat

STEPS = 60
LIMIT = 240  # seconds for any one process


@contextmanager
def trainer(settings: dict[str, Any], folder: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """`maxllm train` in a process of its own, on one CPU device; its output goes to a file."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "train.yml"
    config.write_text(yaml.safe_dump(settings))
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONUNBUFFERED": "1"}
    with (folder / "output.txt").open("a") as output:
        command = [sys.executable, "-m", "maxllm.cli.main", "train", str(config)]
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True)
        try:
            yield process, folder / "output.txt"
        finally:
            process.kill()
            process.wait()


def run_of(settings: dict[str, Any], folder: Path, **train: Any) -> dict[str, Any]:
    changes = {"run_dir": str(folder / "run"), "steps": STEPS, "checkpoint_every": 10, "log_every": 1, **train}
    return {**settings, "train": {**settings["train"], **changes}}


def finish(settings: dict[str, Any], folder: Path) -> str:
    with trainer(settings, folder) as (process, output):
        code = process.wait(LIMIT)
    assert code == 0, output.read_text()
    return output.read_text()


def until(condition: Callable[[], bool], process: subprocess.Popen[str], output: Path) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert process.poll() is None, output.read_text()
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.001)


def steps_written(folder: Path) -> int:
    path = folder / "run" / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def saved(folder: Path) -> list[int]:
    """Steps whose save is whole: it goes on behind the loop."""
    place = folder / "run" / "checkpoints"
    return sorted(int(path.name) for path in place.iterdir() if path.name.isdigit()) if place.exists() else []


def final_bytes(folder: Path) -> dict[str, bytes]:
    place = folder / "run" / "checkpoints" / str(STEPS)
    trees = {name: ocp.StandardCheckpointer().restore(place / name) for name in ("parameters", "optimizer")}
    return {name: np.asarray(leaf).tobytes() for name, leaf in flat(trees).items()}


def assert_same_run(folder: Path, truth: Path) -> None:
    """Parameters and optimizer byte for byte; and every step's loss, hence every batch, once."""
    found, wanted = final_bytes(folder), final_bytes(truth)
    assert found.keys() == wanted.keys() and len(found) > 20
    assert [name for name in wanted if found[name] != wanted[name]] == []
    curves = [
        [(record["step"], record["loss"], record["gradient_norm"]) for record in read(place / "run" / "metrics.jsonl")]
        for place in (folder, truth)
    ]
    assert [step for step, _, _ in curves[0]] == list(range(1, STEPS + 1))
    assert curves[0] == curves[1]


@pytest.fixture(scope="module")
def truth(tokens: Path, tmp_path_factory: pytest.TempPathFactory, base_settings: dict[str, Any]) -> Path:
    """The run that nobody stopped."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    finish(run_of(base_settings, folder), folder)
    return folder


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 4))])
def test_kill_at_any_step_changes_nothing(
    seed: int, truth: Path, base_settings: dict[str, Any], tmp_path: Path
) -> None:
    settings = run_of(base_settings, tmp_path)
    chosen = random.Random(seed)
    at = chosen.randint(11, STEPS - 5)
    with trainer(settings, tmp_path) as (process, output):
        until(lambda: steps_written(tmp_path) >= at and saved(tmp_path), process, output)
        time.sleep(chosen.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        assert process.wait(LIMIT) == -signal.SIGKILL
    said = finish(settings, tmp_path)
    assert "going on from the checkpoint of step" in said
    assert_same_run(tmp_path, truth)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["phases", "doremi"])
def test_kill_in_a_curriculum_or_a_search_for_weights_changes_nothing(
    kind: str, domains: dict[str, Any], base_settings: dict[str, Any], tmp_path: Path
) -> None:
    settings = {**base_settings, "data": {**base_settings["data"], "sources": domains}}
    if kind == "phases":
        phases = [{"until": 0.4, "sequence_length": 8, "weights": {"easy": 1}}, {"until": 35}, {"until": 1}]
        phases[1] |= {"sequence_length": 16, "weights": {"easy": 1, "hard": 2}}
        settings["data"]["phases"] = phases
    else:
        finish(run_of(settings, tmp_path / "reference", steps=10), tmp_path / "reference")
        settings["objective"] = {"name": "doremi", "reference": str(tmp_path / "reference" / "run")}
    truth, killed = tmp_path / "truth", tmp_path / "killed"
    finish(run_of(settings, truth), truth)
    with trainer(run_of(settings, killed), killed) as (process, output):
        until(lambda: steps_written(killed) >= 31 and saved(killed), process, output)
        process.send_signal(signal.SIGKILL)
        assert process.wait(LIMIT) == -signal.SIGKILL
    assert "going on from the checkpoint of step" in finish(run_of(settings, killed), killed)
    assert_same_run(killed, truth)
    if kind == "doremi":
        assert (killed / "run" / "mixture.yml").read_text() == (truth / "run" / "mixture.yml").read_text()
        places = [folder / "run" / "checkpoints" / str(STEPS) / "objective" for folder in (truth, killed)]
        weights = [ocp.StandardCheckpointer().restore(place) for place in places]
        assert all(np.array_equal(weights[0][name], weights[1][name]) for name in ("now", "average", "excess"))


@pytest.mark.slow
def test_kill_during_saves_changes_nothing(truth: Path, base_settings: dict[str, Any], tmp_path: Path) -> None:
    """Killed while a checkpoint has its temporary name, at each of three saves, each time after a resume."""
    settings = run_of(base_settings, tmp_path)
    checkpoints = tmp_path / "run" / "checkpoints"
    caught = 0
    for save in (20, 30, 40):
        with trainer(settings, tmp_path) as (process, output):
            half_written, later = checkpoints / f"{save}.orbax-checkpoint-tmp", checkpoints / str(save + 10)
            until(lambda paths=(half_written, later): any(path.exists() for path in paths), process, output)
            process.send_signal(signal.SIGKILL)
            process.wait(LIMIT)
            caught += half_written.exists()
    assert caught, "no kill landed inside a save; the test proves nothing on this machine"
    finish(settings, tmp_path)
    assert_same_run(tmp_path, truth)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_saves_before_leaving(
    number: signal.Signals, truth: Path, base_settings: dict[str, Any], tmp_path: Path
) -> None:
    settings = run_of(base_settings, tmp_path, checkpoint_every=1000)
    with trainer(settings, tmp_path) as (process, output):
        until(lambda: steps_written(tmp_path) >= 7, process, output)
        process.send_signal(number)
        assert process.wait(LIMIT) == 128 + number
    stopped = steps_written(tmp_path)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [str(stopped)]
    assert f"saved step {stopped}; run the same command to go on" in output.read_text()
    assert "Traceback" not in output.read_text()
    finish(settings, tmp_path)
    assert_same_run(tmp_path, truth)


@pytest.mark.slow
def test_a_dead_prefetching_process_changes_nothing(truth: Path, base_settings: dict[str, Any], tmp_path: Path) -> None:
    settings = run_of(base_settings, tmp_path)
    settings = {**settings, "data": {**settings["data"], "workers": 1}}
    with trainer(settings, tmp_path) as (process, output):
        until(lambda: steps_written(tmp_path) >= 5, process, output)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for path in Path(f"/proc/{process.pid}/task").glob("*/children"):
            children += path.read_text().split()
        for child in set(children):
            os.kill(int(child), signal.SIGTERM)
        assert process.wait(LIMIT) == 0, output.read_text()
    assert "the trainer makes its batches itself" in output.read_text()
    assert_same_run(tmp_path, truth)


@pytest.mark.slow
def test_a_truncated_newest_checkpoint_falls_back_and_changes_nothing(
    truth: Path, base_settings: dict[str, Any], tmp_path: Path
) -> None:
    settings = run_of(base_settings, tmp_path)
    checkpoints = tmp_path / "run" / "checkpoints"
    with trainer(settings, tmp_path) as (process, output):
        until(lambda: (checkpoints / "30").exists(), process, output)
        process.send_signal(signal.SIGKILL)
        process.wait(LIMIT)
    before, newest = saved(tmp_path)[-2:]  # a third may be waiting for its deletion
    data = max((checkpoints / str(newest)).glob("parameters/**/d/*"), key=lambda path: path.stat().st_size)
    data.write_bytes(data.read_bytes()[:-10])
    said = finish(settings, tmp_path)
    assert f"checkpoint of step {newest} is damaged" in said
    assert f"going on from the checkpoint of step {before}" in said
    assert (tmp_path / "run" / "damaged" / str(newest)).is_dir()
    assert_same_run(tmp_path, truth)


@pytest.mark.slow
def test_a_full_disk_leaves_the_previous_checkpoint_and_training_goes_on(
    base_settings: dict[str, Any], tmp_path: Path
) -> None:
    """A limit on file size, set on the running process after its first checkpoint and lifted before its last."""
    import resource

    bigger = {**base_settings, "model": {**base_settings["model"], "hidden_size": 128}}
    settings = run_of(bigger, tmp_path, steps=3000, checkpoint_every=20)
    checkpoints = tmp_path / "run" / "checkpoints"
    with trainer(settings, tmp_path) as (process, output):
        until(lambda: (checkpoints / "20").exists(), process, output)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        until(lambda: output.read_text().count("training goes on") >= 2, process, output)
        said = output.read_text()
        assert "File too large" in said and "is still good" in said
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 143
    assert f"saved step {steps_written(tmp_path)}" in output.read_text()
