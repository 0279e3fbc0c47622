"""The whole pipeline over all broken files at once: nothing crashes it, counts add up, reasons can be read back."""

from __future__ import annotations

import json
import runpy
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_beam.document import Document
from data_beam.io.documents import read_documents
from data_beam.pipeline import curate
from maxllm.config.curate import CurateConfig

corpus = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "corpus.py")))


def config_of(root: Path, out: Path, **settings) -> CurateConfig:
    inputs = [
        {"format": format, "paths": [str(root / format)], "max_bytes": corpus.MAX_BYTES} for format in corpus.FORMATS
    ]
    inputs.append({**inputs[1], "format": "hf", "name": "hf", "paths": [str(root / "parquet" / "nested_lists")]})
    items = root / "items.jsonl"
    items.write_text(json.dumps({"text": "the tide is out and the harbour sleeps for the whole long night"}) + "\n")
    tree = {
        "inputs": inputs,
        "language": {"min_confidence": 0.0},
        "quality": {name: {"enabled": False} for name in ("gopher", "repetition", "c4", "fineweb")},
        "decontamination": {"paths": [str(items)]},
        "output": {"path": str(out)},
    }
    return CurateConfig.model_validate(tree | settings)


@pytest.mark.parametrize(
    ("format", "extractor"),
    [("parquet", "resiliparse"), pytest.param("jsonl.zst", "trafilatura", marks=pytest.mark.slow)],
)
def test_read_is_kept_and_dropped_and_dead(tmp_path, format, extractor):
    root, out = tmp_path / "in", tmp_path / "out"
    corpus.write_all(root)
    settings = {"extract": {"extractor": extractor}, "output": {"path": str(out), "format": format}}
    report = curate(config_of(root, out, **settings))
    assert report["read"] == report["kept"] + report["dropped"] + report["dead"] > 500
    kept = [each for path in sorted((out / "documents").iterdir()) for each in read_documents(str(path))]
    assert len(kept) == report["kept"] and all(isinstance(each, Document) for each in kept)
    assert len({each.id for each in kept}) == len(kept)
    rejected = [each for path in sorted((out / "rejected").iterdir()) for each in read_documents(str(path))]
    assert Counter(each.metadata["drop_reason"] for each in rejected) == report["reasons"]
    assert {"read.max_bytes", "exact_dedup.duplicate"} <= set(report["reasons"]), report["reasons"]
    dead = [letter for path in (out / "dead").iterdir() for letter in _lines(path)]
    assert len(dead) == report["dead"] and all(letter["where"] and letter["error"] for letter in dead)
    text = (out / "report.html").read_text()
    assert "read.max_bytes" in text
    json.loads((out / "report.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} in report.json"))


def test_malformed_web_archives_go_through_the_whole_pipeline(tmp_path, shared_data):
    """Samples of WARC, WET and ARC files, some broken on purpose: each record is kept, dropped or dead."""
    inputs = [{"format": "warc", "paths": [str(shared_data / "web" / "warc")]}]
    report = curate(config_of(tmp_path, tmp_path / "out", inputs=inputs, extract={"extractor": "resiliparse"}))
    assert report["read"] == report["kept"] + report["dropped"] + report["dead"] > 60
    assert report["dead"] > 3 and report["kept"] > 10, (report["reasons"], report["dead_stages"])


def _lines(path: Path) -> list[dict]:
    from data_beam.io.files import chunks, lines

    return [json.loads(line) for line in lines(chunks(str(path)), 1 << 20)]
