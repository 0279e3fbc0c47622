"""`make bench`: runs the measurements one after the other; each writes its own RESULTS.md.

Peers (datatrove, PyTorch, transformers) are installed by name into throw-away environments by the scripts that need
them. Machines are shared and noisy: every ratio is taken side by side in one run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    known = sorted(path.parent.name for path in HERE.glob("*/bench.py"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; all when absent")
    names = parser.parse_args().names or known
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"no benchmark called {', '.join(unknown)}; there are {', '.join(known)}")
    failed = []
    for name in names:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, str(HERE / name / "bench.py")]).returncode:
            failed.append(name)
    print(f"failed: {', '.join(failed)}" if failed else "results: benchmarks/*/RESULTS.md")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
