"""Processes find each other by what launched them, and each feeds the rows that its devices hold."""

from __future__ import annotations

import jax
import pytest

from maxllm.config.errors import UserError
from maxllm.config.train import MeshConfig
from maxllm.parallel.distributed import Feed, Job, device_table, feed_of, find_job
from maxllm.parallel.mesh import make_mesh


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
    with pytest.raises(UserError, match="batch_size 12 is not divisible by mesh.data x mesh.fsdp = 8"):
        feed_of(make_mesh(MeshConfig(fsdp=8)), 12)


def test_the_device_table_says_what_there_is() -> None:
    from rich.console import Console

    console = Console(width=120, record=True, file=open("/dev/null", "w"))
    console.print(device_table(make_mesh(MeshConfig(data=2, fsdp=4))))
    text = console.export_text()
    assert "data=2 x fsdp=4 x tensor=1" in text and str(len(jax.devices())) in text and "cpu" in text
