"""What remote workers need: this program itself, as one wheel that names its own dependencies.

A worker's `pip` installs the wheel and what it asks for (the base and `data` requirements of this installation), on
top of Beam's own container. For big runs a container that has all of it (`--sdk_container_image`) starts faster.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import tempfile
import zipfile
from importlib.metadata import distribution
from pathlib import Path

from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions, WorkerOptions

PACKAGES = ("maxllm", "data_beam")


def add_worker_package(options: PipelineOptions) -> None:
    """Stages the wheel, unless the options say themselves what workers get."""
    setup = options.view_as(SetupOptions)
    own = (setup.setup_file, setup.requirements_file, setup.extra_packages)
    if any(own) or options.view_as(WorkerOptions).sdk_container_image:
        return
    setup.extra_packages = [worker_wheel(tempfile.mkdtemp(prefix="maxllm-worker-"))]


def worker_wheel(folder: str) -> str:
    """Writes the wheel of what a worker runs; gives its path. The same bytes for the same code."""
    version = distribution("maxllm").version
    name = f"maxllm_worker-{version}"
    files: dict[str, bytes] = {}
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None and spec.origin is not None
        root = Path(spec.origin).parent
        for path in sorted(root.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                files[f"{package}/{path.relative_to(root).as_posix()}"] = path.read_bytes()
    info = f"{name}.dist-info"
    requires = "".join(f"Requires-Dist: {line}\n" for line in requirements())
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: maxllm-worker\nVersion: {version}\n{requires}".encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: maxllm\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = "".join(f"{path},sha256={_digest(data)},{len(data)}\n" for path, data in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    wheel = Path(folder) / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            archive.writestr(zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
    return str(wheel)


def requirements() -> list[str]:
    """The base requirements of this installation and those of its `data` extra, without the condition."""
    found = []
    for line in distribution("maxllm").requires or []:
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        if not marker or marker in ("extra == 'data'", 'extra == "data"'):
            found.append(requirement)
    return sorted(found)


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
