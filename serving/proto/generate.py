"""Regenerate the protobuf modules: `python -m serving.proto.generate`, in any environment that has uv.

The generator comes in a throw-away environment, since grpcio-tools holds protobuf to its own version, and is an old
one: what it writes loads under every newer runtime (tried: protobuf 6.33 and 7.36).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

GENERATOR = "grpcio-tools==1.62.3"  # protobuf 4.25: the last whose code refuses no newer runtime by its version
SOURCE = "serving/proto/orchestrator.proto"


def main() -> int:
    root = Path(__file__).resolve().parents[2]
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv) if uv.exists() else "uv", "run", "--no-project", "--isolated", "--with", GENERATOR, "python"]
    command += ["-m", "grpc_tools.protoc", "--proto_path=."]
    command += ["--python_out=.", "--pyi_out=.", "--grpc_python_out=.", SOURCE]
    return subprocess.run(command, cwd=root).returncode


if __name__ == "__main__":
    sys.exit(main())
