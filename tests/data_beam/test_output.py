"""Output is whole or not there; killing a run, at any moment, neither loses nor repeats a document."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from apache_beam.io.filesystems import FileSystems

from data_beam import phases
from data_beam.output import Output
from data_beam.pipeline import curate
from maxllm.config.errors import UserError
from tests.data_beam.test_curation import kept, read_output, settings, small_input


@pytest.fixture
def runs(monkeypatch):
    """The jobs that really ran: filter, duplicates and write make a run."""
    counted = []
    run = phases.run
    monkeypatch.setattr(phases, "run", lambda *args: counted.append(1) or run(*args))
    return counted


def test_the_same_config_again_does_nothing_and_force_does_it_again(tmp_path, runs):
    config = settings(tmp_path / "out", small_input(tmp_path / "in"))
    first = curate(config)
    modified = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert curate(config) == first and len(runs) == 3
    assert modified == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    again = curate(config, force=True)
    assert len(runs) == 6 and {**again, "seconds": 0} == {**first, "seconds": 0}


def test_another_config_or_other_inputs_do_not_overwrite_unasked(tmp_path):
    inputs = small_input(tmp_path / "in")
    curate(settings(tmp_path / "out", inputs))
    before = kept(tmp_path / "out")
    with pytest.raises(UserError, match="another config or other inputs"):
        curate(settings(tmp_path / "out", inputs, exact_dedup={"enabled": False}))
    (tmp_path / "in" / "more.jsonl").write_text(json.dumps({"text": "more"}))
    with pytest.raises(UserError, match="--force"):
        curate(settings(tmp_path / "out", inputs))
    assert kept(tmp_path / "out") == before
    report = curate(settings(tmp_path / "out", inputs), force=True)
    assert report["read"] == 34 and kept(tmp_path / "out") == before


@pytest.mark.parametrize("moves", [pytest.param(0, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)])
def test_killed_while_files_move_into_place(tmp_path, monkeypatch, runs, moves):
    inputs = small_input(tmp_path / "in")
    curate(settings(tmp_path / "out", inputs, exact_dedup={"enabled": False}))  # what lies there already
    config = settings(tmp_path / "out", inputs)
    commit, rename, moved = Output.commit, FileSystems.rename, []

    def killed(sources, targets):
        if len(moved) == moves:
            raise KeyboardInterrupt
        moved.append(targets)
        rename(sources, targets)

    def interrupted_commit(*args):
        monkeypatch.setattr(FileSystems, "rename", staticmethod(killed))
        commit(*args)

    monkeypatch.setattr(Output, "commit", interrupted_commit)
    with pytest.raises(KeyboardInterrupt):
        curate(config, force=True)
    monkeypatch.setattr(Output, "commit", commit)
    monkeypatch.setattr(FileSystems, "rename", staticmethod(rename))
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    report = curate(config)
    assert len(runs) == 6  # the work was done; only the moves were left
    assert report["kept"] == 30 == len(read_output(tmp_path / "out" / "documents"))
    assert len(read_output(tmp_path / "out" / "rejected")) == 3
    assert not (tmp_path / "out" / ".staging").exists()


@pytest.mark.parametrize("killed", [1, 2, 3])
def test_a_run_killed_at_any_boundary_of_its_phases_reuses_those_that_are_done(tmp_path, monkeypatch, runs, killed):
    inputs = small_input(tmp_path / "in")
    config = settings(tmp_path / "out", inputs)
    run = phases.run

    def killed_in(*args):
        run(*args)
        if len(runs) == killed:
            raise KeyboardInterrupt

    monkeypatch.setattr(phases, "run", killed_in)
    with pytest.raises(KeyboardInterrupt):
        curate(config)
    assert len(runs) == killed and not (tmp_path / "out" / "documents").exists()
    report = curate(config)
    assert len(runs) == 3 and report["kept"] == 30 == len(read_output(tmp_path / "out" / "documents"))
    assert not (tmp_path / "out" / ".staging").exists()
    curate(settings(tmp_path / "whole", inputs))
    assert kept(tmp_path / "out") == kept(tmp_path / "whole")


@pytest.mark.timeout(240)
def test_a_killed_process_run_again_loses_and_repeats_nothing(tmp_path):
    inputs = small_input(tmp_path / "in", 300)
    config = settings(tmp_path / "out", inputs)
    path = tmp_path / "curate.yml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "maxllm.cli.main", "curate", str(path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    _wait_for(lambda: list(tmp_path.glob("out/.staging/*")))
    time.sleep(0.5)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out" / "_SUCCESS").exists() and not (tmp_path / "out" / "documents").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "300 of 303 documents kept" in done.stdout and "kept 300 " in done.stderr
    records = read_output(tmp_path / "out" / "documents")
    assert len(records) == len({record["id"] for record in records}) == 300
    assert not (tmp_path / "out" / ".staging").exists()
    bad = subprocess.run([*command, "output.format=xml"], capture_output=True, text=True)
    assert bad.returncode == 2 and "Traceback" not in bad.stderr and "output.format" in bad.stderr


def _wait_for(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the run did not begin"
        time.sleep(0.02)


def test_an_output_folder_knows_only_whole_results(tmp_path):
    output = Output(str(tmp_path / "out"), "f" * 64)
    assert output.finished() is None
    run = Path(output.new_run())
    assert run != Path(output.new_run())
    (run / "documents").mkdir()
    (run / "documents" / "part-0").write_text("x")
    with pytest.raises(RuntimeError, match="is gone"):
        output.commit({f"documents/part-{n}": str(run / "documents" / f"part-{n}") for n in (0, 1)}, ["documents"])
    assert output.finished() is None
