"""The last thing a run writes: what it counted and which files it wrote."""

from __future__ import annotations

import json
from typing import Any

from data_beam.output import MANIFEST, write_bytes


def write_manifest(folder: str, read: int, summary: dict[str, Any], **files: list[str]) -> None:
    """`files`: paths by folder name. They are inputs so that this waits until all of them are written."""
    names = {
        name: sorted(f"{name}/{path.replace(chr(92), '/').rsplit('/', 1)[-1]}" for path in paths)
        for name, paths in files.items()
    }
    manifest = {"read": read, **summary, "files": names}
    write_bytes(f"{folder}/{MANIFEST}", json.dumps(manifest).encode())


def assert_conserved(manifest: dict[str, Any]) -> None:
    """in = kept + dropped + dead. Raises RuntimeError."""
    kept, dropped, dead = (sum(manifest[name].values()) for name in ("kept", "dropped", "dead"))
    if manifest["read"] != kept + dropped + dead:
        raise RuntimeError(
            f"{manifest['read']} documents were read, but {kept} kept + {dropped} dropped + {dead} dead "
            f"= {kept + dropped + dead}: documents were lost or repeated, so the output was not put in place"
        )
