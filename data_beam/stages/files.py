"""Lists and items that stages read when a worker starts, from wherever Beam's file systems reach."""

from __future__ import annotations

import glob
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path

from maxllm.config.errors import UserError


def expand(pattern: str, setting: str) -> list[str]:
    """Paths that a glob stands for, in order; a path without wildcards is itself."""
    if not any(character in pattern for character in "*?["):
        return [pattern]
    if "://" in pattern:
        from apache_beam.io.filesystems import FileSystems

        found = [each.path for each in FileSystems.match([pattern])[0].metadata_list]
    else:
        found = glob.glob(pattern, recursive=True)
    if not found:
        raise UserError(f"{setting}: nothing matches {pattern}; give the path or glob of existing files.")
    return sorted(found)


def read_lines(path: str, setting: str) -> Iterator[str]:
    """Lines of a UTF-8 text file, `.gz` decompressed, without their ends. `setting` is named in the error."""
    try:
        if "://" in path:
            from apache_beam.io.filesystems import FileSystems

            with FileSystems.open(path) as stream:
                data = stream.read()
        else:
            data = Path(path).read_bytes()
        # FileSystems decompresses by extension; a local file comes as it is.
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{setting}: {path} cannot be read ({error}); give the path of an existing file.") from error
    yield from io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", errors="replace", newline=None).read().split("\n")
