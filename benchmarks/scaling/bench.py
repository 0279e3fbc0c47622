"""`maxllm curate` as a whole on more documents and more worker processes: time, memory, what lies between phases.

python benchmarks/scaling/bench.py                       # 100 MB and 1 GB of text, 1 and 2 workers; writes RESULTS.md
python benchmarks/scaling/bench.py --megabytes 5 20 --results first-look.md

A gigabyte takes about six minutes with one worker and four with two, on a quiet machine.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
sys.path.insert(0, str(REPOSITORY))

import generated  # noqa: E402

from data_beam.dedup.groups import HELD  # noqa: E402

FILE = 8_000_000  # characters of text in a file
EVERY = 0.5  # seconds between looks at the processes' memory
# A run on text: Gopher + C4 + FineWeb, exact and near duplicates.
SETTINGS = ("extract.enabled=false", "language.enabled=false", "code.enabled=false", "decontamination.enabled=false")
MB = 1e6


@dataclass
class Run:
    """What one run took. Bytes, seconds."""

    megabytes: int
    workers: int
    documents: int = 0
    text: int = 0
    wall: float = 0.0
    cpu: float = 0.0
    main: int = 0  # peak of the process that was started, where the local runner holds what lies between stages
    worker: int = 0  # peak of the largest worker process
    total: int = 0  # peak of all together, at one time
    kept: int = 0
    between: dict[str, int] = field(default_factory=dict)  # files left by each phase
    phases: dict[str, float] = field(default_factory=dict)  # seconds at which each ended


def measure(source: Path, folder: Path, run: Run) -> Run:
    """One run in processes of its own, looked at from outside."""
    out = folder / "out"
    config = folder / "text.yml"
    config.write_text(f"kind: curate\ninputs: [{{format: jsonl, name: text, paths: ['{source}/*.jsonl']}}]\n")
    command = [sys.executable, "-m", "maxllm.cli.main", "curate", str(config), f"output.path={out}", *SETTINGS]
    command += ["--", "--direct_num_workers", str(run.workers)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    began = time.monotonic()
    cpu: dict[int, float] = {}
    workers: set[int] = set()
    with (folder / "log").open("w") as log:
        process = psutil.Popen(command, env=environment, stdout=log, stderr=log)
        while process.poll() is None:
            look(process, run, cpu, workers)
            for path in out.glob(".staging/*/*.json"):
                run.phases.setdefault(path.stem, time.monotonic() - began)
            sizes(out, run)
            time.sleep(EVERY)
    run.wall = time.monotonic() - began
    if process.returncode:
        raise SystemExit((folder / "log").read_text()[-3000:])
    run.cpu = sum(cpu.values())
    report = json.loads((out / "report.json").read_text())
    run.kept = report["kept"]
    assert report["read"] == run.documents
    return run


def look(root: psutil.Process, run: Run, cpu: dict[int, float], workers: set[int]) -> None:
    """Adds what the processes hold now. PSS: a page that several share counts once."""
    held: dict[int, int] = {}
    for process in [root, *root.children(recursive=True)]:
        try:
            held[process.pid] = process.memory_full_info().pss
            used = process.cpu_times()
            cpu[process.pid] = used.user + used.system
            if process.pid != root.pid and "sdk_worker_main" in " ".join(process.cmdline()):
                workers.add(process.pid)
        except psutil.Error:
            continue
    run.main = max(run.main, held.get(root.pid, 0))
    run.worker = max([run.worker, *(held[pid] for pid in workers & set(held))])
    run.total = max(run.total, sum(held.values()))


def sizes(out: Path, run: Run) -> None:
    """Bytes of the files of each phase: OUT/.staging/RUN/PHASE-xxxxxxxxxxxx/..."""
    found: dict[str, int] = {}
    for path in out.glob(".staging/*/*/**/*"):
        try:
            if path.is_file():
                place = path.relative_to(out / ".staging").parts[1:]
                phase = re.sub(r"-[0-9a-f]{12}$", "", place[0])
                name = f"{phase}/{place[1]}" if len(place) > 2 else phase
                found[name] = found.get(name, 0) + path.stat().st_size
        except OSError:
            continue  # moved meanwhile
    for name, size in found.items():
        run.between[name] = max(run.between.get(name, 0), size)


def render(runs: list[Run], args: argparse.Namespace) -> str:
    def row(run: Run) -> str:
        cells = [
            f"{run.text / MB:,.0f} MB",
            f"{run.documents:,}",
            str(run.workers),
            f"{run.wall:.0f}",
            f"{run.cpu:.0f}",
            f"{run.documents / run.wall:,.0f}",
            f"{run.documents / run.cpu:,.0f}",
            f"{run.main / MB:,.0f}",
            f"{run.worker / MB:,.0f}" if run.worker else "-",
            f"{run.total / MB:,.0f}",
        ]
        return "| " + " | ".join(cells) + " |"

    small, large = min(run.megabytes for run in runs), max(run.megabytes for run in runs)
    said = []
    for workers in args.workers:
        ends = [next(run for run in runs if (run.megabytes, run.workers) == (size, workers)) for size in (small, large)]
        first, last = ends
        if first is last:
            continue
        times, more = last.cpu / first.cpu, last.documents / first.documents
        growth = (last.main - first.main) / (last.documents - first.documents)
        said += [
            f"- {workers} worker{'s' * (workers > 1)}: {more:.1f} times the documents take {times:.1f} times the CPU "
            f"and {last.wall / first.wall:.1f} times the time;",
            f"  the main process holds {growth:,.0f} bytes more for each document more"
            + (f"; a worker peaks at {first.worker / MB:,.0f} and {last.worker / MB:,.0f} MB." if last.worker else "."),
        ]
    biggest = [run for run in runs if run.megabytes == large]
    if len(biggest) > 1:
        one, more = biggest[0], biggest[-1]
        said.append(f"- {more.workers} workers instead of {one.workers}: {one.wall / more.wall:.2f} times as fast.")
    table = "\n".join(row(run) for run in runs)
    last = biggest[-1]
    between = "\n".join(
        f"| {name} | {size / MB:,.1f} MB | {size / last.documents:,.1f} | {100 * size / last.text:.1f} % |"
        for name, size in sorted(last.between.items())
    )
    phases = ", ".join(f"{name} {end:.0f} s" for name, end in sorted(last.phases.items(), key=lambda item: item[1]))
    sizes_given = " ".join(map(str, args.megabytes))
    given = f"--megabytes {sizes_given} --workers {' '.join(map(str, args.workers))} --seed {args.seed}"
    return f"""# Scaling of `maxllm curate`

Written by `bench.py` on {datetime.date.today()}: `python benchmarks/scaling/bench.py {given}`
on {os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}; load {os.getloadavg()[2]:.1f}.

{args.about}
One document in twenty is a near duplicate of another. The whole program: read JSON lines ({FILE // 10**6} MB a file),
Gopher + C4 + FineWeb, exact duplicates, MinHash (14 x 8), write, report; on Beam's local runner. Settings:
`{" ".join(SETTINGS)}`.

| text | documents | workers | s | CPU s | documents/s | per CPU s | MB main | MB a worker | MB all |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
{table}

Memory is the peak of proportional set sizes, looked at every {EVERY} s: a page that n processes share counts 1/n in
each. With one worker everything happens in one process ("main"); with more, "main" is the runner: it reads and computes
nothing, and holds what goes from one stage to the next.

{chr(10).join(said)}

What the phases leave in files ({last.text / MB:,.0f} MB of text, {last.workers} workers), and when they end:
{phases}.

| phase | size | bytes a document | of the text |
| --- | ---: | ---: | ---: |
{between}

The local runner keeps what it groups in memory, keys and names of documents, and hands a worker its share of the
groups in one piece: both grow with the number of documents. Texts are never grouped; what a worker holds
of them is one document, and of names {HELD:,}. On Dataflow, Flink or Spark the grouping is the cluster's, on disk.
A file of the input is read by one worker: many files, not one, keep many workers busy.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[100, 1000], help="of text")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--shared", type=Path, default=REPOSITORY.parent / "shared" / "data", help="for web pages")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, default=HERE / "RESULTS.md")
    args = parser.parse_args()
    texts = generated.real_texts(args.shared)
    args.about = (
        f"{len(texts):,} real texts (web pages, docstrings; {sum(map(len, texts)) / MB:.1f} MB) over and over, "
        f"{generated.EXCHANGED:.0%} of the words exchanged each time."
    )
    runs = []
    with tempfile.TemporaryDirectory(prefix="maxllm-scaling-") as name:
        for megabytes in args.megabytes:
            source = Path(name) / f"{megabytes}" / "in"
            documents = generated.write(texts, source, megabytes * 1_000_000, FILE, args.seed)
            text = sum(path.stat().st_size for path in source.iterdir())
            for workers in args.workers:
                folder = Path(name) / f"{megabytes}" / f"{workers}"
                folder.mkdir()
                runs.append(measure(source, folder, Run(megabytes, workers, documents, text)))
                print(runs[-1], flush=True)
    args.results.write_text(render(runs, args))
    print(args.results.read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
