"""Curation against datatrove: the same rules, MinHash parameters and documents, in documents per CPU-second.

python benchmarks/curation/bench.py                    # 3,000 documents, writes RESULTS.md beside this file
python benchmarks/curation/bench.py --documents 600 --results first-look.md
python benchmarks/curation/bench.py --texts pages.jsonl.gz abstracts.jsonl.gz
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
sys.path.insert(0, str(REPOSITORY))

import corpus  # noqa: E402
import report  # noqa: E402

PEER = ("datatrove[processing,io]==0.10.1", "spacy")


def make_environment(folder: Path) -> Path:
    """datatrove in an environment of its own; its pins are not ours."""
    python = folder / "peer" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(folder / "peer")], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PEER], check=True)
    return python


def run(python: Path | str, script: str, folder: Path) -> dict[str, Any]:
    # One thread each: NumPy's and BLAS' pools would blur what a core does.
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment = {**os.environ, **threads, "PYTHONPATH": str(REPOSITORY)}
    print(f"   {script} ...", flush=True)
    subprocess.run([str(python), str(HERE / script), str(folder)], check=True, env=environment)
    name = {"peer_datatrove.py": "datatrove", "ours.py": "ours"}[script]
    return json.loads((folder / f"{name}.json").read_text())


def machine() -> str:
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor() or platform.machine(),
    )
    return f"{model}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def shown(args: argparse.Namespace) -> list[str]:
    """The arguments that change the figures; folders are this machine's own affair."""
    texts = ["--texts", *(path.name for path in args.texts)] if args.texts else []
    return ["--documents", str(args.documents), "--seed", str(args.seed), *texts]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=3000)
    parser.add_argument("--texts", type=Path, nargs="+", help="JSON lines to take documents from, not docstrings")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--peer-python", type=Path, help="of an environment that has datatrove; made when absent")
    parser.add_argument("--results", type=Path, default=HERE / "RESULTS.md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="maxllm-curation-") as name:
        folder = Path(name)
        python = args.peer_python or make_environment(folder)
        texts = corpus.from_files(args.texts) if args.texts else corpus.docstrings()
        rows = corpus.build(texts, args.documents, args.seed)
        digest = corpus.write(rows, folder / "documents.jsonl")
        planted = [(row["id"], row["of"]) for row in rows if row["of"]]
        (folder / "planted.json").write_text(json.dumps(planted))
        peer = run(python, "peer_datatrove.py", folder)
        ours = run(sys.executable, "ours.py", folder)
    heading = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "command": "python benchmarks/curation/bench.py " + " ".join(shown(args)),
        "texts": ", ".join(path.name for path in args.texts) if args.texts else "docstrings of installed packages",
        "digest": digest,
    }
    text = report.render(rows, peer, ours, heading)
    args.results.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
