"""Processes find each other by what launched them, and each feeds the rows that its devices hold."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import pytest
import yaml

from maxllm.config import resolve
from maxllm.config.errors import UserError
from maxllm.config.parallel import MeshConfig
from maxllm.config.train import TrainConfig
from maxllm.parallel.distributed import Job, device_table, find_job
from maxllm.parallel.mesh import Feed, feed_of, make_mesh
from maxllm.train import loop
from maxllm.train.metrics import read


def explicit(address: str = "10.0.0.1:1234", count: str = "4", index: str = "2") -> dict[str, str]:
    return {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": count, "JAX_PROCESS_ID": index}


def slurm(
    nodes: str = "gpu[003-006,9],other", tasks: str = "4", per_node: str = "1(x4)", **more: str
) -> dict[str, str]:
    return {
        "SLURM_JOB_ID": "4097",
        "SLURM_STEP_NODELIST": nodes,
        "SLURM_STEP_NUM_TASKS": tasks,
        "SLURM_STEP_TASKS_PER_NODE": per_node,
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "0",
        **more,
    }


def test_alone_when_nothing_says_otherwise() -> None:
    assert find_job({}) is None


def test_explicit_coordinator() -> None:
    assert find_job(explicit()) == Job("10.0.0.1:1234", 4, 2)
    assert find_job(explicit() | slurm()) == Job("10.0.0.1:1234", 4, 2)


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"JAX_COORDINATOR_ADDRESS": "a:1"}, "JAX_NUM_PROCESSES and JAX_PROCESS_ID"),
        (explicit(index="4"), "JAX_PROCESS_ID=4"),
        (explicit(count="four"), "JAX_NUM_PROCESSES=four"),
        (explicit(address="host"), "host:port"),
    ],
)
def test_a_half_said_job_is_one_sentence(environment: dict[str, str], named: str) -> None:
    with pytest.raises(UserError, match=named):
        find_job(environment)


def test_slurm_task_alone_on_its_node_has_all_its_devices() -> None:
    assert find_job(slurm()) == Job("gpu003:61441", 4, 3, None)
    assert find_job(slurm(nodes="single,other")).coordinator_address == "single:61441"


def test_slurm_tasks_that_share_a_node_share_its_devices() -> None:
    shared = slurm(per_node="8(x2)", tasks="16", SLURM_LOCALID="5")
    assert find_job(shared).local_device_ids == [5]
    # --gpus-per-task=1: the scheduler has hidden the others' already.
    assert find_job(shared | {"CUDA_VISIBLE_DEVICES": "5"}).local_device_ids is None


def test_slurm_shell_is_no_job() -> None:
    """In `salloc`, SLURM_NTASKS says 4 and no other process will ever come."""
    environment = slurm()
    del environment["SLURM_STEP_NODELIST"]
    assert find_job(environment | {"SLURM_NTASKS": "4"}) is None
    assert find_job(slurm(tasks="1", per_node="1")) is None


def test_one_process_feeds_every_row() -> None:
    for mesh in (MeshConfig(fsdp=8), MeshConfig(data=2, fsdp=2, tensor=2), MeshConfig(data=1, fsdp=1, tensor=8)):
        assert feed_of(make_mesh(mesh), 16) == Feed(0, 1)


def test_a_batch_that_does_not_divide_is_one_sentence() -> None:
    with pytest.raises(UserError, match="batch_size 12 is not divisible by mesh.fsdp = 8"):
        feed_of(make_mesh(MeshConfig(fsdp=8)), 12)


def test_the_device_table_says_what_there_is() -> None:
    from rich.console import Console

    console = Console(width=120, record=True, file=open("/dev/null", "w"))
    console.print(device_table(make_mesh(MeshConfig(data=2, fsdp=4))))
    text = console.export_text()
    assert "data=2 x fsdp=4" in text and str(len(jax.devices())) in text and "cpu" in text


# Two real processes over loopback, four CPU devices each ------------------------------------------


def two_trainers(config: Path):
    """`maxllm train` twice, each with four simulated devices."""
    return trainers(config, 2, 4)


@contextmanager
def trainers(config: Path, count: int, devices: int) -> Iterator[list[tuple[subprocess.Popen[str], Path]]]:
    """`maxllm train` `count` times, each with so many simulated devices."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with ExitStack() as stack:
        processes = []
        for index in range(count):
            environment = {
                **os.environ,
                **explicit(f"127.0.0.1:{port}", str(count), str(index)),
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
                "PYTHONUNBUFFERED": "1",
            }
            output = config.parent / f"output-{index}.txt"
            process = subprocess.Popen(
                [sys.executable, "-m", "maxllm.cli.main", "train", str(config)],
                env=environment,
                stdout=stack.enter_context(output.open("w")),
                stderr=subprocess.STDOUT,
                text=True,
            )
            stack.callback(process.kill)
            processes.append((process, output))
        yield processes


@pytest.fixture
def config(base_settings: dict[str, Any], tmp_path: Path) -> Path:
    train = {**base_settings["train"], "run_dir": str(tmp_path / "run"), "steps": 20, "log_every": 1}
    path = tmp_path / "train.yml"
    path.write_text(yaml.safe_dump({**base_settings, "mesh": {"data": 2, "fsdp": 4}, "train": train}))
    return path


def said(processes: list[tuple[subprocess.Popen[str], Path]]) -> str:
    return "\n".join(output.read_text() for _, output in processes)


@pytest.mark.network
def test_two_processes_train_as_one(config: Path, tmp_path: Path) -> None:
    with two_trainers(config) as processes:
        assert [process.wait(280) for process, _ in processes] == [0, 0], said(processes)
    run = tmp_path / "run"
    two = read(run / "metrics.jsonl")
    assert [record["step"] for record in two] == list(range(1, 21))
    assert "2" in processes[0][1].read_text() and "step 20/20" not in processes[1][1].read_text()

    # A damaged newest checkpoint: both fall back to the one before, and come to the same bits again.
    newest = run / "checkpoints" / "20"
    wanted = json.loads((newest / "meta" / "metadata").read_text())["fingerprints"]
    data = max(newest.glob("parameters/**/d/*"), key=lambda path: path.stat().st_size)
    data.write_bytes(data.read_bytes()[:-10])
    with two_trainers(config) as processes:
        assert [process.wait(280) for process, _ in processes] == [0, 0], said(processes)
    assert "checkpoint of step 20 is damaged" in processes[0][1].read_text()
    assert json.loads((newest / "meta" / "metadata").read_text())["fingerprints"] == wanted

    # One process of eight devices goes on from what two wrote, and started alone it says the same.
    shutil.rmtree(newest)
    resumed = loop.train(resolve(TrainConfig, config).config)
    assert resumed["held_out_loss"] == pytest.approx(two[-1]["held_out_loss"], rel=1e-5)
    alone = loop.train(resolve(TrainConfig, config, [f"train.run_dir={tmp_path / 'alone'}"]).config)
    assert alone["held_out_loss"] == pytest.approx(two[-1]["held_out_loss"], rel=1e-5)


@pytest.mark.network
def test_a_row_may_lie_on_two_processes(config: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load(config.read_text()) | {"mesh": {"context": 8}}
    settings["train"] |= {"steps": 6}
    config.write_text(yaml.safe_dump(settings))
    with two_trainers(config) as processes:
        assert [process.wait(280) for process, _ in processes] == [0, 0], said(processes)
    loop.train(resolve(TrainConfig, config, [f"train.run_dir={tmp_path / 'alone'}", "mesh.context=1"]).config)
    two, one = (read(tmp_path / run / "metrics.jsonl") for run in ("run", "alone"))
    assert [record["loss"] for record in two] == pytest.approx([record["loss"] for record in one], rel=1e-5)
    assert two[-1]["held_out_loss"] == pytest.approx(one[-1]["held_out_loss"], rel=1e-5)


@pytest.mark.network
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "mesh",
    [
        {"fsdp": 8},
        {"data": 2, "fsdp": 2, "tensor": 2},
        {"fsdp": 8, "zero": 1},
        {"data": 2, "fsdp": 4, "compress": "int8"},
    ],
    ids=str,
)
def test_a_mesh_over_two_hosts_is_one_process_and_its_checkpoint_restores_on_one_and_four(
    mesh: dict[str, Any], config: Path, tmp_path: Path
) -> None:
    settings = yaml.safe_load(config.read_text())
    accumulation = 1 if mesh.get("fsdp") == 8 and "zero" not in mesh else 2
    settings["data"]["batch_size"], settings["schedule"] = 8 * accumulation, {"warmup_steps": 0}
    settings["mesh"], settings["train"] = mesh, settings["train"] | {"steps": 4, "accumulation_steps": accumulation}
    config.write_text(yaml.safe_dump(settings))

    def losses(folder: str) -> list[float]:
        return [record["loss"] for record in read(tmp_path / folder / "metrics.jsonl")]

    with two_trainers(config) as processes:
        assert [process.wait(280) for process, _ in processes] == [0, 0], said(processes)
    loop.train(resolve(TrainConfig, config, [f"train.run_dir={tmp_path / 'alone'}"]).config)
    assert losses("run") == pytest.approx(losses("alone"), rel=1e-5)

    # Two more steps by one process, and by four: of the same checkpoint.
    shutil.copytree(tmp_path / "run", tmp_path / "four")
    loop.train(resolve(TrainConfig, config, ["train.steps=6"]).config)
    settings["train"] |= {"steps": 6, "run_dir": str(tmp_path / "four")}
    config.write_text(yaml.safe_dump(settings))
    with trainers(config, 4, 2) as processes:
        assert [process.wait(280) for process, _ in processes] == [0] * 4, said(processes)
    assert len(losses("four")) == 6 and losses("four") == pytest.approx(losses("run"), rel=1e-5)


@pytest.mark.network
@pytest.mark.parametrize("kind", ["phases", "doremi"])
def test_two_processes_go_through_a_curriculum_or_search_for_weights_as_one(
    kind: str, config: Path, tmp_path: Path, domains: dict[str, Any]
) -> None:
    settings = yaml.safe_load(config.read_text())
    settings["data"]["sources"] = domains
    settings["train"] |= {"steps": 8}
    if kind == "phases":
        phases = [{"until": 0.4, "sequence_length": 16, "weights": {"easy": 1, "hard": 1}}, {"until": 1}]
        settings["data"]["phases"] = phases
    else:
        config.write_text(yaml.safe_dump(settings))
        loop.train(resolve(TrainConfig, config, [f"train.run_dir={tmp_path / 'reference'}"]).config)
        settings["objective"] = {"name": "doremi", "reference": str(tmp_path / "reference")}
    config.write_text(yaml.safe_dump(settings))
    with two_trainers(config) as processes:
        assert [process.wait(280) for process, _ in processes] == [0, 0], said(processes)
    two = read(tmp_path / "run" / "metrics.jsonl")
    loop.train(resolve(TrainConfig, config, [f"train.run_dir={tmp_path / 'alone'}"]).config)
    one = read(tmp_path / "alone" / "metrics.jsonl")
    compared = [name for name in one[-1] if name in ("loss", "weight", "held_out_loss") or "domain_weight" in name]
    assert len(compared) == (3 if kind == "phases" else 6)
    for left, right in zip(two, one, strict=True):
        for name in right.keys() & set(compared):  # the held-out loss is the last step's alone
            assert left[name] == pytest.approx(right[name], rel=1e-4)
    if kind == "doremi":
        weights = [json.loads((tmp_path / run / "doremi.json").read_text())["weights"] for run in ("run", "alone")]
        assert weights[0] == pytest.approx(weights[1], abs=1e-4)


@pytest.mark.network
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_of_two_stops_both_after_the_same_step(
    config: Path, tmp_path: Path, number: signal.Signals
) -> None:
    settings = yaml.safe_load(config.read_text())
    settings["train"] |= {"steps": 100_000, "checkpoint_every": 100_000}
    config.write_text(yaml.safe_dump(settings))
    metrics = tmp_path / "run" / "metrics.jsonl"
    with two_trainers(config) as processes:
        deadline = time.monotonic() + 200
        while not metrics.exists() or metrics.read_text().count("\n") < 5:
            assert time.monotonic() < deadline and processes[0][0].poll() is None, said(processes)
            time.sleep(0.05)
        processes[1][0].send_signal(number)
        codes = [process.wait(100) for process, _ in processes]
    assert codes == [143, 128 + number], said(processes)
    stopped = read(metrics)[-1]["step"]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [str(stopped)]
    meta = json.loads((tmp_path / "run" / "checkpoints" / str(stopped) / "meta" / "metadata").read_text())
    assert meta["next_batch"] == stopped


def test_a_process_that_finds_no_coordinator_says_so() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = (
        "from maxllm.config.errors import UserError\n"
        "from maxllm.parallel import distributed\n"
        "try: distributed.initialize(timeout_s=1)\n"
        "except UserError as error: print(error)"
    )
    environment = {**os.environ, **explicit(f"127.0.0.1:{port}", "2", "1")}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=100)
    assert f"process 1 of 2: process 0 did not answer at 127.0.0.1:{port} within 1 s" in result.stdout, result


def test_a_job_of_one_process_meets_itself() -> None:
    """The small case of the network tests: the coordinator starts, one process joins it and leaves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = (
        "import jax\n"
        "from maxllm.parallel import distributed\n"
        "distributed.initialize(timeout_s=60); distributed.initialize()\n"
        "print(jax.process_count(), jax.distributed.is_initialized())"
    )
    environment = {**os.environ, **explicit(f"127.0.0.1:{port}", "1", "0")}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=200)
    assert "1 True" in result.stdout, result
