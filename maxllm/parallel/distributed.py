"""One job of many processes: how they find each other, which rows of a batch each one feeds, what they see.

Who starts the processes says so in the environment, looked at in this order:
  JAX_COORDINATOR_ADDRESS=host:port, JAX_NUM_PROCESSES, JAX_PROCESS_ID   set by hand or by any launcher
  SLURM_*                                                                `srun`
  a TPU in this machine                                                  JAX asks the TPU's own metadata
and otherwise there is one process.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from rich.table import Table

from maxllm.config.errors import UserError

EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


class Job(NamedTuple):
    """What `jax.distributed.initialize` is told. `local_device_ids`: None = every device of the machine."""

    coordinator_address: str
    num_processes: int
    process_id: int
    local_device_ids: list[int] | None = None


def initialize(timeout_s: int = 300) -> None:
    """Join the other processes if there are any. Call before anything else asks JAX for devices; twice does no harm.

    Raises UserError if the environment is incomplete or process 0 does not answer within `timeout_s` seconds.
    """
    if jax.distributed.is_initialized():
        return
    job = find_job(os.environ)
    if job is None and not _tpu_here(os.environ):
        return
    if job is None:
        jax.distributed.initialize(initialization_timeout=timeout_s)
        return
    who = f"process {job.process_id} of {job.num_processes}"
    print(
        f"{who}: meeting the others at {job.coordinator_address}, for up to {timeout_s} s", file=sys.stderr, flush=True
    )
    if job.process_id:
        _wait_for(job.coordinator_address, timeout_s, who)
    jax.distributed.initialize(**job._asdict(), cluster_detection_method="deactivate", initialization_timeout=timeout_s)


def _wait_for(address: str, timeout_s: int, who: str) -> None:
    """Raises UserError if nobody listens at `address` in time: JAX itself would end the process with a stack dump."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"{who}: process 0 did not answer at {address} within {timeout_s} s ({error}); check that it runs "
                    "and that its port can be reached from here"
                ) from None
            time.sleep(1)


def find_job(environment: Mapping[str, str]) -> Job | None:
    """The job that `environment` describes, or None. Raises UserError if half of it is there."""
    explicit = {
        name: environment.get(name) for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    }
    if any(explicit.values()):
        missing = [name for name, value in explicit.items() if not value]
        if missing:
            raise UserError(f"the environment sets {_set(explicit)} but not {' and '.join(missing)}; set all three")
        address, count, index = explicit.values()
        if ":" not in address or not count.isdigit() or not index.isdigit() or int(index) >= int(count):
            raise UserError(
                f"JAX_COORDINATOR_ADDRESS={address} JAX_NUM_PROCESSES={count} JAX_PROCESS_ID={index}: want host:port, "
                "a number of processes, and a process from 0 to that number - 1"
            )
        return Job(address, int(count), int(index))
    return _slurm_job(environment)


def _set(values: Mapping[str, str | None]) -> str:
    return " and ".join(name for name, value in values.items() if value)


def _slurm_job(environment: Mapping[str, str]) -> Job | None:
    """The step `srun` started this process in.

    JAX's own detection gives every SLURM process one device, its local rank, which with one task per node leaves
    all but the first GPU idle; here a task that is alone on its node has the whole node.
    """
    # Without a step (an `salloc` shell, an `sbatch` script before `srun`) this process is alone, whatever SLURM_NTASKS
    # says, and would wait for the others for ever.
    names = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID")
    if any(name not in environment for name in names) or int(environment["SLURM_STEP_NUM_TASKS"]) == 1:
        return None
    first = _first_host(environment["SLURM_STEP_NODELIST"])
    # As JAX: a port of the ephemeral range, the same for all, different for jobs that share a node.
    port = int(environment["SLURM_JOB_ID"]) % 4096 + 65535 - 4095
    alone = all(count.startswith("1(") or count == "1" for count in _tasks_per_node(environment))
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    own = alone or (visible and "," not in visible)  # --gpus-per-task=1 hides the others already
    return Job(
        f"{first}:{port}",
        int(environment["SLURM_STEP_NUM_TASKS"]),
        int(environment["SLURM_PROCID"]),
        None if own else [int(environment["SLURM_LOCALID"])],
    )


def _tasks_per_node(environment: Mapping[str, str]) -> list[str]:
    return environment.get("SLURM_STEP_TASKS_PER_NODE", "").split(",")


def _first_host(node_list: str) -> str:
    """`node[003-007,9],other` -> `node003`."""
    match = re.match(r"([^,\[]+)(?:\[([^,\-\]]+))?", node_list)
    return (match[1] + (match[2] or "")) if match else node_list


def _tpu_here(environment: Mapping[str, str]) -> bool:
    platforms = environment.get("JAX_PLATFORMS", "tpu")
    return "tpu" in platforms and (Path("/dev/accel0").exists() or _vfio_tpu())


def _vfio_tpu() -> bool:
    """Newer TPU machines show their chips as VFIO devices, as other accelerators may; libtpu tells them apart."""
    if not any(entry.name.isdigit() for entry in Path("/dev/vfio").glob("*")):
        return False
    import importlib.util

    return importlib.util.find_spec("libtpu") is not None


def device_table(mesh: Mesh) -> Table:
    """One row for each kind of device: how many, in how many processes, with how much memory each."""
    axes = [f"{axis}={size}" for axis, size in mesh.shape.items() if size != 1]
    table = Table(title=f"mesh {' x '.join(axes) or 'of one device'}")
    for column in ("devices", "kind", "platform", "processes", "memory each"):
        table.add_column(column)
    groups: dict[tuple[str, str], list[Any]] = {}
    for device in mesh.devices.flat:
        groups.setdefault((device.device_kind, device.platform), []).append(device)
    for (kind, platform), devices in groups.items():
        processes = len({device.process_index for device in devices})
        table.add_row(str(len(devices)), kind, platform, str(processes), _memory(devices))
    return table


def _memory(devices: list[Any]) -> str:
    local = [device for device in devices if device.process_index == jax.process_index()]
    limit = ((local[0].memory_stats() or {}) if local else {}).get("bytes_limit")
    return f"{limit / 2**30:.0f} GiB" if limit else "the host's"
