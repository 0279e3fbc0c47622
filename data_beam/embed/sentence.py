"""An encoder of the sentence-transformers layout (modules.json beside weights and tokenizer), by its own library.

It reads as much of a text as its model does (256 tokens for all-MiniLM-L6-v2) and says nothing of the rest. On a
processor texts go one at a time: a batch gains little there, and padding would make a vector depend, in its last
digits, on what else was in the batch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from apache_beam.io.filesystems import FileSystems


class SentenceEncoder:
    def __init__(self, folder: str) -> None:
        from sentence_transformers import SentenceTransformer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        # The context must stay until the weights are read.
        with tempfile.TemporaryDirectory(prefix="maxllm-encoder-") as scratch:
            self.model = SentenceTransformer(local(folder, scratch), local_files_only=True)
        self.batch = 1 if self.model.device.type == "cpu" else 32

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        clean = [text.encode("utf-8", "replace").decode() for text in texts]
        return self.model.encode(clean, batch_size=self.batch, convert_to_numpy=True, show_progress_bar=False)


def local(folder: str, scratch: str) -> str:
    """The folder itself, or a copy of it where it lies on another file system than this machine's."""
    if Path(folder).is_dir():
        return folder
    root = folder.rstrip("/")
    for metadata in FileSystems.match([root + "/**"])[0].metadata_list:
        target = Path(scratch) / metadata.path[len(root) + 1 :]
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileSystems.open(metadata.path) as source:
            target.write_bytes(source.read())
    return scratch
