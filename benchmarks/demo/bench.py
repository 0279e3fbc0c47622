"""How long `maxllm demo` takes on a clean run directory, and how much memory its processes hold together.

Writes RESULTS.md beside itself.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

HERE = Path(__file__).parent


def proportional_memory(root: psutil.Process) -> int:
    """Bytes held by a process and all below it; a page shared by n of them counts once (PSS)."""
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "demo"
        # An empty compilation cache too: a newcomer has none.
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(Path(folder) / "cache")}
        began = time.monotonic()
        demo = psutil.Popen([sys.executable, "-m", "maxllm.cli.main", "demo", f"run_dir={run_dir}"], env=environment)
        peak = 0
        while demo.poll() is None:
            peak = max(peak, proportional_memory(demo))
            time.sleep(1)
        seconds = time.monotonic() - began
        if demo.returncode:
            return demo.returncode
        stages = {
            path.stem: json.loads(path.read_text())
            for path in sorted((run_dir / "stages").glob("*.json"), key=lambda p: p.stat().st_mtime)
        }
        evaluation = (run_dir / "train" / "eval" / "report.md").read_text()
        again = time.monotonic()
        subprocess.run([sys.executable, "-m", "maxllm.cli.main", "demo", f"run_dir={run_dir}"], check=True)
        again = time.monotonic() - again
    rows = "\n".join(f"| {name} | {m['seconds']:.0f} | {m['summary']} |" for name, m in stages.items())
    (HERE / "RESULTS.md").write_text(
        f"""# The demo, measured

`python benchmarks/demo/bench.py` · {datetime.date.today()} · {os.cpu_count()} cores ({platform.machine()}),
Python {platform.python_version()}; empty run directory, empty compilation cache.

**{seconds:.0f} s, {peak / 1e9:.2f} GB** at most held by all its processes together (asked: 360 s, 6 GB).
Run again with everything done: {again:.1f} s.

| stage | s | what it did |
|---|---|---|
{rows}

## Its evaluation

{evaluation}
"""
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
