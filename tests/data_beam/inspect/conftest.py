"""A real run, small, over documents as bad as can be; and outcomes written as a run writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from data_beam.parts import WriteParts
from data_beam.pipeline import curate
from tests.data_beam.test_curation import prose, settings, write_jsonl

# Each would set window.ran, load something, end the page's own script, or hide what is there.
HOSTILE = (
    '<script>window.ran = 1</script></script><script>window.ran = 2</script><img src="http://example.invalid/a.png" '
    'onerror="window.ran = 3"><!-- <svg onload="window.ran = 4"> @DATA@ @SCRIPT@ \u2028 \u202egnp.exe\u202c '
    "zero\u200bwidth nul\0nul \ud800 \U0001f600 ]]> &lt;b&gt; ${window.ran = 5}"
)
QUESTION = "Which of the small boats that the harbour held in winter was the one the captain sold before the storm came"
WORD = "xylophone"


def records() -> list[dict[str, Any]]:
    """What is kept of it: 0 to 9, hostile, the original of the exact and of the near copy."""
    found: list[dict[str, Any]] = [
        {"text": prose(n), "created": f"2020-01-{n + 1:02d}T00:00:00Z", "path": f"sea/{n}.txt"} for n in range(10)
    ]
    found[0]["text"] += f"\nA {WORD} in the café, and 東京都 too."
    found[0]["scores"] = {"education": 2.5}
    words = prose(20).split(" ")
    changed = [*words[:60], "zeppelin", *words[61:]]
    found += [
        {"text": prose(21), "created": "2020-01-01T00:00:00Z", "path": "first.txt"},
        {"text": prose(21), "created": "2020-01-02T00:00:00Z", "path": "exact-copy.txt"},
        {"text": " ".join(words), "created": "2020-01-01T00:00:00Z", "path": "original.txt"},
        {"text": " ".join(changed), "created": "2020-01-02T00:00:00Z", "path": "near-copy.txt"},
        {"text": prose(22) + "\n" + HOSTILE, "path": "<script>window.ran = 6</script>"},
        {"text": "too short " + HOSTILE, "path": 'hostile"><script>window.ran = 7</script>'},
        {"text": prose(23) + "\n\U0001f600 " + QUESTION + "?", "path": "leak.txt"},
    ]
    return found


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspect")
    write_jsonl(folder / "a.jsonl", records())
    (folder / "b.jsonl").write_text("this is no JSON <script>window.ran = 8</script>\n")
    write_jsonl(folder / "quiz", [{"question": QUESTION}])
    inputs = [{"format": "jsonl", "paths": [f"{folder}/*.jsonl"], "name": "sea"}]
    report = curate(settings(folder / "out", inputs, decontamination={"paths": [str(folder / "quiz")]}))
    assert (report["read"], report["kept"], report["dropped"], report["dead"]) == (18, 13, 4, 1), report["reasons"]
    return folder / "out"


@pytest.fixture
def write_part() -> Callable[..., Path]:
    def write(folder: Path, outcomes: Iterable[Any], format: str = "jsonl.zst") -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        writer = WriteParts(str(folder), format)
        writer.start_bundle()
        for outcome in outcomes:
            assert not list(writer.process(outcome))
        [written] = writer.finish_bundle()
        return Path(written.value[0])

    return write
