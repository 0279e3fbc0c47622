"""An output folder that is either whole or not there.

A run writes below OUT/.staging, phase by phase (data_beam/phases.py). Only when all are done are the files moved to
their places, and `_SUCCESS` is written when all are. Killed before that: nothing happened, the next run of the same
config goes on; killed while moving, it finishes the moves. Renames may be copies (object stores).
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterable
from typing import Any

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from maxllm.config.errors import UserError

logger = logging.getLogger("maxllm.progress")
STAGING = ".staging"
SUCCESS = "_SUCCESS"


def write_bytes(path: str, data: bytes) -> None:
    """Whole or not at all."""
    part = f"{path}.{uuid.uuid4().hex[:8]}.part"
    with FileSystems.create(part, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
        stream.write(data)
    FileSystems.rename([part], [path])


def read_json(path: str) -> Any:
    """The file's content, or None when there is no such file."""
    if not FileSystems.exists(path):
        return None
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
        return json.loads(stream.read())


def make_folder(path: str) -> None:
    try:
        FileSystems.mkdirs(path)
    except OSError:  # BeamIOError is one; it is there already, or the store has no folders
        pass


def files_below(folder: str) -> list[str]:
    try:
        matched = FileSystems.match([FileSystems.join(folder, "**")])
    except BeamIOError:
        return []
    return sorted(metadata.path for metadata in matched[0].metadata_list)


class Output:
    """The folder of one verb's results."""

    def __init__(self, path: str, fingerprint: str) -> None:
        self.path = path.rstrip("/")
        self.fingerprint = fingerprint

    def join(self, *parts: str) -> str:
        return FileSystems.join(self.path, *parts)

    def finished(self) -> str | None:
        """The fingerprint of the run whose results are here, whole; None when there are none."""
        success = read_json(self.join(SUCCESS))
        return success["fingerprint"] if success else None

    def is_done(self, verb: str, force: bool) -> bool:
        """Whether the results are here already, of this config and inputs. With `force` never, and a run begins anew.

        Raises UserError when another run's results would have to go.
        """
        if force:
            self.discard_staging()
            return False
        finished = self.finished()
        if finished and finished != self.fingerprint:
            raise UserError(
                f"{self.path} holds the finished output of another config or other inputs; "
                f"give another output, or --force to replace it"
            )
        if finished:
            logger.info(
                "%s: %s is finished, from the same config and inputs: nothing to do again (--force does it anew)",
                verb,
                self.path,
            )
        return finished is not None

    def new_run(self) -> str:
        """A staging folder that no other run, dead or alive, writes to."""
        folder = self.join(STAGING, f"{self.fingerprint[:16]}-{uuid.uuid4().hex[:12]}")
        make_folder(folder)
        return folder

    def commit(self, moves: dict[str, str], folders: Iterable[str]) -> None:
        """Moves files into place: name below the output -> where it is now. What else `folders` held is removed.

        Can be repeated until it is done.
        """
        wanted = {self.join(*name.split("/")): staged for name, staged in sorted(moves.items())}
        _delete([path for path in (self.join(SUCCESS),) if FileSystems.exists(path)])
        for folder in folders:
            _delete([path for path in files_below(self.join(folder)) if path not in wanted])
            make_folder(self.join(folder))
        for target, staged in wanted.items():
            if FileSystems.exists(staged):  # else a killed commit moved it already
                FileSystems.rename([staged], [target])
        missing = [target for target in wanted if not FileSystems.exists(target)]
        if missing:
            raise RuntimeError(f"{missing[0]} was written and is gone; run again with --force")
        write_bytes(self.join(SUCCESS), json.dumps({"fingerprint": self.fingerprint}).encode())
        self.discard_staging()

    def discard_staging(self) -> None:
        if FileSystems.exists(self.join(STAGING)) or files_below(self.join(STAGING)):
            _delete([self.join(STAGING)])


def _delete(paths: list[str]) -> None:
    if paths:
        FileSystems.delete(paths)
