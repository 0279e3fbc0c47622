"""MinHash dedup against datatrove and text-dedup: who finds which planted copies, what is merged wrongly, how fast.

python benchmarks/dedup/bench.py                       # 3,000 documents, writes RESULTS.md beside this file
python benchmarks/dedup/bench.py --documents 20000 --texts pages.jsonl.gz --results big.md
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
sys.path += [str(REPOSITORY), str(HERE.parent / "curation")]

import corpus  # noqa: E402  benchmarks/curation's: where real texts come from
import planted  # noqa: E402
import report  # noqa: E402

PEERS = {
    "datatrove": ("peer_datatrove.py", ("datatrove[processing,io]==0.10.1", "spacy")),
    "text_dedup": ("peer_text_dedup.py", ("text-dedup==0.4.0", "setuptools")),
}


def make_environment(folder: Path, packages: tuple[str, ...]) -> Path:
    """A peer in an environment of its own; its pins are not ours."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *packages], check=True)
    return folder / "bin" / "python"


def run(python: Path | str, script: str, folder: Path, result: str) -> dict[str, Any]:
    # One thread each: NumPy's and BLAS' pools would blur what a core does.
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HF_DATASETS_OFFLINE": "1"}
    print(f"   {script} ...", flush=True)
    environment = {**os.environ, **threads, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([str(python), str(HERE / script), str(folder)], check=True, env=environment)
    return json.loads((folder / f"{result}.json").read_text())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=3000)
    parser.add_argument("--texts", type=Path, nargs="+", help="JSON lines to take documents from, not docstrings")
    parser.add_argument("--seed", type=int, default=1)
    for name in PEERS:
        parser.add_argument(f"--{name.replace('_', '-')}-python", type=Path, help="of an environment that has it")
    parser.add_argument("--results", type=Path, default=HERE / "RESULTS.md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="maxllm-dedup-") as name:
        folder = Path(name)
        texts = corpus.from_files(args.texts) if args.texts else corpus.docstrings()
        rows = planted.build(texts, args.documents, args.seed)
        digest = corpus.write(rows, folder / "documents.jsonl")
        (folder / "planted.json").write_text("[]")
        sides = {}
        for peer, (script, packages) in PEERS.items():
            python = getattr(args, f"{peer}_python") or make_environment(folder / f"{peer}_environment", packages)
            sides[peer] = run(python, script, folder, peer)
        sides["ours"] = run(sys.executable, "ours.py", folder, "ours")
    options = f"--documents {args.documents} --seed {args.seed}"
    if args.texts:
        options += " --texts " + " ".join(path.name for path in args.texts)
    heading = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python "
        f"{platform.python_version()}; load while it ran {os.getloadavg()[1]:.1f}",
        "command": f"python benchmarks/dedup/bench.py {options}",
        "texts": ", ".join(path.name for path in args.texts) if args.texts else "docstrings of installed packages",
        "digest": digest,
    }
    text = report.render(rows, sides, heading)
    args.results.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
