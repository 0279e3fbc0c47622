"""Curation against datatrove and dolma: the same rules, parameters and documents, in documents per CPU-second.

python benchmarks/curation/bench.py                    # docstrings and web pages, writes RESULTS.md beside this file
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
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
sys.path.insert(0, str(REPOSITORY))

import corpus  # noqa: E402
import report  # noqa: E402

PEERS = {"datatrove": ("datatrove[processing,io]==0.10.1", "spacy"), "dolma": ("dolma==1.2.1",)}


def make_environment(folder: Path, packages: tuple[str, ...]) -> Path:
    """A peer in an environment of its own; its pins are not ours."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    # For dolma pip looks for minutes for versions that go together; uv takes seconds.
    subprocess.run([python, "-m", "pip", "install", "--quiet", "uv"], check=True)
    subprocess.run([python, "-m", "uv", "pip", "install", "--quiet", "--python", python, *packages], check=True)
    return Path(python)


def run(python: Path | str, script: str, folder: Path, result: str) -> dict[str, Any]:
    # One thread each: NumPy's and BLAS' pools would blur what a core does.
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
    environment = {**os.environ, **threads, "PYTHONPATH": str(REPOSITORY)}
    print(f"   {script} ...", flush=True)
    subprocess.run([str(python), str(HERE / script), str(folder)], check=True, env=environment)
    return json.loads((folder / f"{result}.json").read_text())


def measure(title: str, texts: Iterable[str], folder: Path, python: dict[str, Path], args: Any) -> report.Corpus:
    """Every program on one corpus, datatrove and dolma first: ours also works on their words."""
    print(title, flush=True)
    folder.mkdir()
    rows = corpus.build(texts, args.documents, args.seed)
    digest = corpus.write(rows, folder / "documents.jsonl")
    sides = {peer: run(python[peer], f"peer_{peer}.py", folder, peer) for peer in PEERS}
    return report.Corpus(title, digest, rows, {**sides, "ours": run(sys.executable, "ours.py", folder, "ours")})


def machine() -> str:
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor() or platform.machine(),
    )
    python = platform.python_version()
    return f"{model}, {os.cpu_count()} cores, {platform.system()}, Python {python}; load {os.getloadavg()[1]:.1f}"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def shown(args: argparse.Namespace) -> list[str]:
    """The arguments that change the figures; folders are this machine's own affair."""
    texts = ["--texts", *(path.name for path in args.texts)] if args.texts else []
    return ["--documents", str(args.documents), "--seed", str(args.seed), *texts]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=3000, help="at most, of each corpus")
    parser.add_argument("--texts", type=Path, nargs="+", help="JSON lines to take documents from instead")
    parser.add_argument("--shared", type=Path, default=REPOSITORY.parent / "shared" / "data", help="for web pages")
    parser.add_argument("--seed", type=int, default=1)
    for peer in PEERS:
        parser.add_argument(f"--{peer}-python", type=Path, help="of an environment that has it; made when absent")
    parser.add_argument("--results", type=Path, default=HERE / "RESULTS.md")
    args = parser.parse_args()
    if args.texts:
        sources: dict[str, Iterable[str]] = {"texts": corpus.from_files(args.texts)}
    else:
        sources = {"docstrings": corpus.docstrings(), "web": list(corpus.web(args.shared))}
    if not sources.get("web", True):
        print(f"{args.shared} is absent: web pages are not measured")
        del sources["web"]
    with tempfile.TemporaryDirectory(prefix="maxllm-curation-") as name:
        folder = Path(name)
        given = {peer: getattr(args, f"{peer}_python") for peer in PEERS}
        python = {peer: given[peer] or make_environment(folder / f"{peer}-venv", PEERS[peer]) for peer in PEERS}
        corpora = [measure(title, texts, folder / title, python, args) for title, texts in sources.items()]
    heading = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "command": "python benchmarks/curation/bench.py " + " ".join(shown(args)),
    }
    text = report.render(corpora, heading)
    args.results.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
