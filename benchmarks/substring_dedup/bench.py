"""What exact substrings cost: CPU time for hashes and anchors, and bytes through each shuffle, on real texts.

python benchmarks/substring_dedup/bench.py --data ../shared/data        # writes RESULTS.md beside this file

Bytes are keys and values as the steps hand them over, without a runner's own framing and compression.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import json
import os
import sys
import time
from collections import defaultdict
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent.parent
sys.path.insert(0, str(REPOSITORY))

from data_beam.dedup.pieces import pieces_of  # noqa: E402
from data_beam.dedup.substring import settle  # noqa: E402
from data_beam.dedup.winnow import blocks, unpack  # noqa: E402

N = 50
# Time, separator, id, place in the run: what a document is called.
NAME = 20 + 1 + 32 + 18


def texts_of(data: Path) -> list[str]:
    """Web pages, abstracts, and books in pieces of 5,000 characters."""
    found = []
    for name in ("corpus/c4_demo", "quality/dclm_majority_data", "corpus/academic_scitldr_abstracts"):
        with gzip.open(data / f"{name}.jsonl.gz", "rt") as file:
            found += [json.loads(line)["text"] for line in file]
    for path in sorted((data / "corpus" / "gutenberg").iterdir()):
        with gzip.open(path, "rt") as file:
            book = file.read()
        found += [book[start : start + 5000] for start in range(0, len(book), 5000)]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=shared, help="the folder of shared gold data")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "RESULTS.md")
    args = parser.parse_args()
    texts = texts_of(args.data)
    pieces_of("warm")
    started = time.process_time()
    found = [blocks(pieces_of(text), N) for text in texts]
    hashing = time.process_time() - started
    groups: dict[bytes, list[tuple[str, bytes]]] = defaultdict(list)
    for number, (packed, _) in enumerate(found):
        for anchor, block in packed:
            groups[anchor].append((f"{number:06d}\x1f{number:06d}", block))
    started = time.process_time()
    spans = [span for members in groups.values() for span in settle(members)]
    settling = time.process_time() - started
    pieces = sum(len(pieces_of(text).hashes) for text in texts)
    size = sum(len(text.encode()) for text in texts)
    records = sum(len(members) for members in groups.values())
    first = sum(8 + NAME + len(block) for members in groups.values() for _, block in members)
    grams = sum(len(unpack(block).hashes) for members in groups.values() for _, block in members)
    repeated = sum(len(members) for members in groups.values() if len(members) > 1)
    local = sum(bool(len(spans)) for _, spans in found)
    last = sum(NAME - 21 + len(packed) for _, packed in spans) + local * (NAME - 21 + 8)
    lines = [
        "# Exact substrings: what they cost",
        "",
        f"Written by `bench.py` on {datetime.date.today()}: `python benchmarks/substring_dedup/bench.py`",
        f"on {os.cpu_count()} shared x86-64 cores. {len(texts):,} texts, {size / 1e6:.1f} MB: C4 and DCLM web",
        "pages, abstracts, Gutenberg books in pieces of 5,000 characters. CPU time of one process; no Beam in it.",
        "",
        "| | |",
        "|---|---:|",
        f"| tokens (bytes of text each) | {pieces:,} ({size / pieces:.2f}) |",
        f"| tokens, hashes, anchors | {size / 1e6 / hashing:.1f} MB per CPU-second |",
        f"| settling all anchors | {size / 1e6 / settling:.1f} MB per CPU-second |",
        f"| anchors a token | {records / pieces:.3f} |",
        f"| anchors that another place has too | {100 * repeated / records:.1f} % |",
        f"| first shuffle, by anchor | {first / pieces:.1f} bytes a token, {first / size:.2f} a byte of text |",
        f"| last shuffle, spans by document | {last / pieces:.2f} bytes a token |",
        f"| if each {N}-token run were shuffled by itself | {grams * (16 + NAME + 4) / pieces:.1f} bytes a token |",
        "",
    ]
    args.results.write_text("\n".join(lines))
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
