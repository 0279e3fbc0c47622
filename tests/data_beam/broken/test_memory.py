"""Files that unpack to far more than they are: reading one takes bounded memory, and what comes of it says why.

Peaks are of a child process that reads one file, over what it has after its imports: Linux' VmHWM, as `ru_maxrss`
begins with what the parent process has.
"""

from __future__ import annotations

import gzip
import json
import runpy
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest

corpus = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "corpus.py")))

# The default of inputs.max_bytes: a document, its bytes and its decoded record may be held at once.
MAX_BYTES = 20_000_000
BOUND = 10 * MAX_BYTES + 64_000_000
CHILD = """
import json, re, sys
import pyarrow.parquet, data_beam.io.html, data_beam.io.parquet, data_beam.io.warc
from data_beam.io import source
from maxllm.config.curate import InputConfig
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
before = peak()
config = InputConfig(format=sys.argv[1], paths=[sys.argv[2]])
said, documents = set(), 0
for work in source.format_module(config).list_work(config):
    for item in source.read(config, work):
        documents += hasattr(item, "text")
        if not hasattr(item, "text"):
            said.add(item.error if hasattr(item, "error") else item.drop.reason)
print(json.dumps({"peak": peak() - before, "documents": documents, "said": sorted(said)}))
"""


def read(format: str, path: Path) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, format, str(path)], capture_output=True, text=True, timeout=280, check=True
    )
    return json.loads(done.stdout)


def gzip_bomb(path: Path, size: int) -> None:
    path.write_bytes(corpus.bomb(size))


def zstd_bomb(path: Path, size: int) -> None:
    """A frame of nothing but blocks that say: this byte 128 KiB times. RFC 8878, section 3.1.1.2."""
    block = 128 << 10
    head = b"\x28\xb5\x2f\xfd" + b"\x00" + b"\x58"  # no content size, no checksum; a window of 2 MiB
    blocks = size // block
    rle = ((block << 3) | (1 << 1)).to_bytes(3, "little") + b"x"
    last = ((block << 3) | (1 << 1) | 1).to_bytes(3, "little") + b"x"
    path.write_bytes(head + rle * (blocks - 1) + last)


def long_line(path: Path, size: int) -> None:
    with open(path, "wb") as stream:
        stream.write(b'{"text": "')
        for _ in range(size >> 20):
            stream.write(b"x" * (1 << 20))
        stream.write(b'"}\n{"text": "after it"}\n')


def html_bomb(path: Path, size: int) -> None:
    path.write_bytes(corpus.bomb(size))


def body_bomb(path: Path, size: int) -> None:
    body = corpus.bomb(size)
    path.write_bytes(corpus.record(corpus.response(body, b"Content-Encoding: gzip\r\n")) + corpus.ONE)


def member_bomb(path: Path, size: int) -> None:
    """A gzip member whose record says how long it is, and is."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    head = f"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: {size}\r\n\r\n".encode()
    parts = [compressor.compress(head + b"HTTP/1.1 200 OK\r\n\r\n")]
    left = size - len(b"HTTP/1.1 200 OK\r\n\r\n")
    while left:
        step = min(left, 1 << 20)
        parts.append(compressor.compress(bytes(step)))
        left -= step
    path.write_bytes(
        b"".join([*parts, compressor.compress(b"\r\n\r\n"), compressor.flush()]) + gzip.compress(corpus.ONE)
    )


def parquet_bomb(path: Path, size: int) -> None:
    """One long value, kept once, in every row."""
    text = "y" * (size // 40)
    table = pyarrow.table({"text": pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 40), [text])})
    pyarrow.parquet.write_table(table, path, store_schema=False)  # comes back as plain text


CASES = {
    "gzip": ("jsonl", "a.jsonl.gz", gzip_bomb, 0),
    "zstd": ("jsonl", "a.jsonl.zst", zstd_bomb, 0),
    "line": ("jsonl", "a.jsonl", long_line, 1),
    "html": ("html", "a.html.gz", html_bomb, 0),
    "body": ("warc", "a.warc", body_bomb, 1),
    "member": ("warc", "a.warc.gz", member_bomb, 1),
    "parquet": ("parquet", "a.parquet", parquet_bomb, 0),
}


def check(name: str, folder: Path, size: int) -> None:
    format, file, make, documents = CASES[name]
    make(folder / file, size)
    stored = (folder / file).stat().st_size
    found = read(format, folder / file)
    print(f"{name}: {stored / 1e6:.1f} MB stored, {size / 1e6:.0f} MB inside, peak {found['peak'] / 1e6:.0f} MB")
    assert found["documents"] == documents and found["said"] == ["read.max_bytes"]
    assert found["peak"] < (30 * size // 40 if name == "parquet" else BOUND)


@pytest.mark.parametrize("name", ["zstd", "body"])
def test_a_small_bomb_is_refused_in_bounded_memory(name, tmp_path):
    check(name, tmp_path, 400 << 20)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [(name, 100 << 20 if name == "line" else 1 << 30) for name in CASES])
def test_a_gigabyte_is_refused_in_bounded_memory(name, size, tmp_path):
    check(name, tmp_path, size)
