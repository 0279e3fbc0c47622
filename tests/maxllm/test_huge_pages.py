"""Huge pages are asked for once, where the kernel gives them, and never against the user's own setting."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from maxllm import huge_pages


def test_only_where_the_kernel_leaves_it_to_the_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huge_pages, "KERNEL", tmp_path / "enabled")
    monkeypatch.setattr(huge_pages, "ACCELERATORS", (str(tmp_path / "nvidiactl"),))
    assert huge_pages.environment_for({}) == {}
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    assert huge_pages.environment_for({}) == {"GLIBC_TUNABLES": huge_pages.SETTING}
    assert huge_pages.environment_for({"GLIBC_TUNABLES": ""}) == {}
    (tmp_path / "nvidiactl").touch()
    assert huge_pages.environment_for({}) == {}
    (tmp_path / "nvidiactl").unlink()
    (tmp_path / "enabled").write_text("[always] madvise never\n")
    assert huge_pages.environment_for({}) == {}


def test_the_command_starts_again_once_with_the_same_arguments(tmp_path: Path) -> None:
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    script = tmp_path / "program.py"
    script.write_text(
        "import os, sys\nfrom pathlib import Path\nfrom maxllm import huge_pages\n"
        f"huge_pages.KERNEL, huge_pages.ACCELERATORS = Path({str(tmp_path / 'enabled')!r}), ()\n"
        "print(os.getpid(), flush=True)\nhuge_pages.start_again_with_huge_pages()\n"
        "print(os.environ['GLIBC_TUNABLES'], sys.argv[1:], flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script), "a b", "--c=d"], capture_output=True, text=True, check=True, env={"PATH": ""}
    )
    first, second, said = done.stdout.splitlines()
    assert first == second and said == f"{huge_pages.SETTING} ['a b', '--c=d']"


GIVEN_BACK = """
import resource
def once():
    data = bytearray(200_000_000)
    data[::4096] = bytes(len(data[::4096]))
once(); once()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    once()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the tunables are glibc's")
def test_what_is_freed_is_kept_and_not_mapped_anew() -> None:
    def faults(environment: dict[str, str]) -> int:
        command = [sys.executable, "-c", GIVEN_BACK]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)

    assert faults({"PATH": ""}) >= 5 * 100  # huge pages or small ones
    assert faults({"PATH": "", huge_pages.VARIABLE: huge_pages.SETTING}) < 50
