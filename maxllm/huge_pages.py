"""Huge pages for what a process on a CPU computes with, and none of them given back between steps."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "GLIBC_TUNABLES"
# One arena, on the heap alone, never trimmed: a second one could not hold large arrays and would map each anew.
SETTING = (
    "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776"
)
KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")
# NVIDIA's driver, TPUs: there the host's memory holds checkpoints on their way out, and should go back.
ACCELERATORS = ("/dev/nvidiactl", "/dev/accel0", "/dev/vfio/0")


def environment_for(current: Mapping[str, str]) -> dict[str, str]:
    """What a process that computes on a CPU wants in its environment besides `current`.

    Nothing, unless the kernel gives huge pages to who asks (`madvise`) and nobody has set the C library's tunables yet.
    Nothing beside an accelerator either.
    """
    if any(map(os.path.exists, ACCELERATORS)):
        return {}
    try:
        return {VARIABLE: SETTING} if VARIABLE not in current and "[madvise]" in KERNEL.read_text() else {}
    except OSError:
        return {}


def start_again_with_huge_pages() -> None:
    """The same command in the same process once more, with memory that is asked for in huge pages; once.

    XLA on a CPU gives its buffers back after each step and asks for them again. With pages of 4 KiB that is 354,000
    page faults in a step of 100 million parameters, 6 % of its time; with huge pages 1,300, and none where they are
    kept: a virtual machine whose host takes free memory back within seconds spent 1.5 s of a step of 8 on 760 of them.
    The process is larger by its temporaries. The C library reads the setting when a process starts and never again. An
    empty GLIBC_TUNABLES in the environment leaves it as it is.
    """
    if more := environment_for(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **more})
