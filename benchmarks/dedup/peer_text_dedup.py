"""Runs in text-dedup's environment: FOLDER/documents.jsonl in, FOLDER/text_dedup.json out.

Its command, as a user calls it; time is the whole process's less that of the same command on ten documents.
"""

from __future__ import annotations

import json
import pickle
import resource
import subprocess
import sys
from pathlib import Path

FOLDER = Path(sys.argv[1])
SETTINGS = "--column text --ngram 5 --num_perm 112 --b 14 --r 8 --min_length 5 --num_proc 1 --debug --batch_size 1000"


def run(documents: Path, out: Path) -> float:
    """Processor seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    source = ["--path", "json", "--data_files", str(documents), "--split", "train", "--cache_dir", f"{out}_cache"]
    command = [sys.executable, "-m", "text_dedup.minhash", *source, "--output", str(out), *SETTINGS.split()]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    rows = [json.loads(line) for line in (FOLDER / "documents.jsonl").open()]
    slim = FOLDER / "slim.jsonl"
    slim.write_text("".join(json.dumps({"id": row["id"], "text": row["text"]}) + "\n" for row in rows))
    few = FOLDER / "few.jsonl"
    few.write_text("".join(line + "\n" for line in slim.read_text().splitlines()[:10]))
    start = run(few, FOLDER / "text_dedup_few")
    seconds = run(slim, FOLDER / "text_dedup") - start
    with (FOLDER / "text_dedup" / "uf.pkl").open("rb") as stream:
        union = pickle.load(stream)  # noqa: S301  written by the command above
    parent = union if isinstance(union, dict) else union.parent
    found = {rows[int(place)]["id"]: int(union.find(place)) for place in list(parent)}
    result = {"seconds": {"command": seconds}, "clusters": {"text-dedup": found}}
    (FOLDER / "text_dedup.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
