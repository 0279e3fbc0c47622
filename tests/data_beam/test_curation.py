"""A whole run: everything read is kept, dropped with a reason, or a dead letter, whatever is thrown at it."""

from __future__ import annotations

import gzip
import io
import json
import random
import re
from pathlib import Path

import pyarrow.parquet
import pytest
import zstandard

from data_beam.pipeline import curate
from data_beam.report.summary import assert_conserved
from data_beam.stages import extract
from maxllm.config.curate import CurateConfig
from maxllm.config.errors import UserError

WORDS = (
    "the of and to that have with be harbour tide boat north wind morning water light stone road market people "
    "under over small great found river winter summer letters carried slowly early against between"
).split()


def prose(seed: int, words: int = 220) -> str:
    """Sentences no two seeds share five words of in a row, often; enough for the rules to be content."""
    generator = random.Random(seed)
    sentences = []
    for _ in range(words // 11):
        chosen = generator.sample(WORDS, 10) + [f"mark{seed}x{generator.randrange(100)}"]
        sentences.append(" ".join(chosen).capitalize() + ".")
    return "\n".join(" ".join(sentences[start : start + 3]) for start in range(0, len(sentences), 3))


def html(text: str) -> str:
    return f"<html><body><article><p>{text}</p></article></body></html>"


def write_jsonl(path: Path, records: list[dict]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def settings(path: Path, inputs: list[dict], **sections) -> CurateConfig:
    tree = {
        "inputs": inputs,
        "extract": {"extractor": "resiliparse", "timeout_seconds": 3},
        "language": {"min_confidence": 0.2},
        "quality": {"c4": {"enabled": False}, "fineweb": {"enabled": False}, "repetition": {"enabled": False}},
        "fuzzy_dedup": {"rounds": 1},
        "output": {"path": str(path)},
    }
    return CurateConfig(**{**tree, **sections})


def read_output(folder: Path) -> list[dict]:
    """As any other program would."""
    records = []
    for path in sorted(folder.iterdir()):
        with zstandard.ZstdDecompressor().stream_reader(path.read_bytes()) as stream:
            records += [json.loads(line) for line in io.TextIOWrapper(stream, encoding="utf-8")]
    return records


def small_input(folder: Path, count: int = 30) -> list[dict]:
    folder.mkdir(exist_ok=True)
    records = [{"text": prose(n), "created": f"2020-01-{n % 28 + 1:02d}T00:00:00Z"} for n in range(count)]
    records.append({"text": prose(3).replace("\n", "  "), "created": "2019-01-01T00:00:00Z"})  # older copy of 3
    records.append({"text": prose(5) + "\nOne more line at the end of it.", "created": "2021-01-01T00:00:00Z"})
    records.append({"text": "too short"})
    for part in range(3):
        write_jsonl(folder / f"{part}.jsonl", records[part::3])
    return [{"format": "jsonl", "paths": [f"{folder}/*.jsonl"], "name": "sea"}]


def kept(folder: Path) -> list[tuple[str, str]]:
    return sorted((record["id"], record["text"]) for record in read_output(folder / "documents"))


def test_the_oldest_copy_stays_and_every_drop_has_its_reason(tmp_path):
    report = curate(settings(tmp_path / "out", small_input(tmp_path / "in")))
    assert (report["read"], report["kept"], report["dropped"], report["dead"]) == (33, 30, 3, 0)
    assert report["reasons"] == {
        "exact_dedup.duplicate": 1,
        "fuzzy_dedup.near_duplicate": 1,
        "gopher.word_count": 1,
    }
    rejected = {record["metadata"]["drop_reason"]: record for record in read_output(tmp_path / "out" / "rejected")}
    assert rejected["exact_dedup.duplicate"]["created"] == "2020-01-04T00:00:00Z"  # the newer of the two
    assert rejected["fuzzy_dedup.near_duplicate"]["created"] == "2021-01-01T00:00:00Z"
    assert rejected["gopher.word_count"]["metadata"]["drop_value"] == 2
    stays = {record["id"] for record in read_output(tmp_path / "out" / "documents")}
    assert rejected["exact_dedup.duplicate"]["metadata"]["drop_value"] in stays
    assert report["funnel"][-1]["out"] == 30 and report["sources"]["sea"]["documents"] == 30


def test_a_run_survives_everything_broken_and_says_what_it_skipped(tmp_path, monkeypatch):
    monkeypatch.setitem(extract.EXTRACTORS, "resiliparse", "tests.data_beam.test_child:page")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    folder = tmp_path / "in"
    folder.mkdir()
    lines = "".join(json.dumps({"text": prose(n, 2000)}) + "\n" for n in range(100, 140)).encode()
    broken = gzip.compress(lines)
    (folder / "broken.jsonl.gz").write_bytes(broken[: len(broken) * 2 // 3])
    (folder / "bits.jsonl").write_bytes(
        b'{"text": "\xff\xfe\xfa"}\nnot json at all\n' + json.dumps({"text": prose(1)}).encode()
    )
    payload = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + html(prose(2)).encode()
    head = "WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a.org/{}\r\nContent-Length: {}\r\n\r\n"
    records = [gzip.compress(head.format(n, len(payload)).encode() + payload + b"\r\n\r\n") for n in range(2)]
    (folder / "cut.warc.gz").write_bytes(records[0] + records[1][:-100])
    pages = folder / "pages"
    pages.mkdir()
    (pages / "good.html").write_text(html(prose(3)))
    (pages / "hangs.html").write_text(html("tarpit " + prose(4)))
    (pages / "noise.html").write_bytes(random.Random(0).randbytes(20_000))
    (pages / "line.html").write_bytes(b"<p>" + b"x" * 50_000_000)
    (pages / "after.html").write_text(html(prose(6)))
    inputs = [
        {"format": "jsonl", "paths": [f"{folder}/*.jsonl*"]},
        {"format": "warc", "paths": [f"{folder}/cut.warc.gz"]},
        {"format": "html", "paths": [str(pages)]},
    ]
    report = curate(settings(tmp_path / "out", inputs))
    assert report["read"] == report["kept"] + report["dropped"] + report["dead"]
    dead = {record["where"].rsplit("/", 1)[-1]: record for record in read_output(tmp_path / "out" / "dead")}
    assert "truncated" in dead["broken.jsonl.gz"]["error"]
    assert {"bits.jsonl:1", "bits.jsonl:2"} <= set(dead)
    assert "truncated" in dead["cut.warc.gz:1"]["error"]
    assert "no encoding" in dead["noise.html"]["error"]
    assert dead["hangs.html"]["stage"] == "extract" and "killed" in dead["hangs.html"]["error"]
    assert report["reasons"]["read.max_bytes"] == 1
    texts = " ".join(record["text"] for record in read_output(tmp_path / "out" / "documents"))
    assert all(f"mark{n}x" in texts for n in (1, 2, 3, 6, 100, 110)) and "mark4x" not in texts


@pytest.mark.parametrize(("page", "reason"), [("<p></p>", "extract.empty"), (html(prose(1)), None)])
def test_the_last_page_of_a_bundle_is_not_forgotten(tmp_path, page, reason):
    """Extraction works one page ahead; the last one has nothing after it."""
    (tmp_path / "one.html").write_text(page)
    config = settings(
        tmp_path / "out",
        [{"format": "html", "paths": [str(tmp_path / "one.html")]}],
        exact_dedup={"enabled": False},
        fuzzy_dedup={"enabled": False},
    )
    report = curate(config)
    assert (report["kept"], report["reasons"]) == ((0, {reason: 1}) if reason else (1, {}))


def test_lost_or_repeated_documents_fail_the_run():
    summary = {"kept": {"a": 5, "b": 2}, "dropped": {"x": 1}, "dead": {"read": 1}}
    with pytest.raises(RuntimeError, match="10 documents were read, but 7 kept"):
        assert_conserved(10, summary)


@pytest.mark.timeout(180)
def test_worker_processes_give_the_same_documents(tmp_path):
    """Through Beam's portable path, so that nothing can rely on shared memory."""
    inputs = small_input(tmp_path / "in")
    one = curate(settings(tmp_path / "one", inputs))
    two = curate(settings(tmp_path / "two", inputs), ["--direct_num_workers", "2"])
    assert kept(tmp_path / "one") == kept(tmp_path / "two")
    for name in ("fingerprint", "read", "reasons", "samples", "funnel", "languages", "lengths"):
        assert one[name] == two[name]


@pytest.mark.slow
@pytest.mark.parametrize("extractor", ["trafilatura", "resiliparse"])
@pytest.mark.parametrize("workers", [2, 3])
def test_worker_processes_give_the_same_default_corpus(tmp_path, workers, extractor):
    inputs = [{"format": "python-docs", "limit": 60}, {"format": "python-source", "limit": 60}]
    sections = {"extract": {"extractor": extractor}}
    curate(settings(tmp_path / "one", inputs, **sections))
    curate(settings(tmp_path / "many", inputs, **sections), ["--direct_num_workers", str(workers)])
    assert kept(tmp_path / "one") == kept(tmp_path / "many") and len(kept(tmp_path / "one")) > 50


def test_the_report_opens_offline_and_repeats_the_numbers(tmp_path):
    inputs = small_input(tmp_path / "in")
    (tmp_path / "in" / "evil.jsonl").write_text(json.dumps({"text": "<script>alert(1)</script> <b>short"}))
    report = curate(settings(tmp_path / "out", inputs))
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    page = (tmp_path / "out" / "report.html").read_text()
    assert not re.search(r"(?:src|href)\s*=|@import|url\(|<script", page)
    assert "&lt;script&gt;" in page
    for number in (report["read"], report["kept"], report["dropped"]):
        assert f">{number:,}<" in page
    assert all(reason in page for reason in report["reasons"])


def test_parquet_comes_out_and_goes_in_again(tmp_path):
    inputs = small_input(tmp_path / "in")
    first = curate(settings(tmp_path / "out", inputs, output={"path": str(tmp_path / "out"), "format": "parquet"}))
    (path,) = (tmp_path / "out" / "documents").iterdir()
    table = pyarrow.parquet.read_table(path)
    assert table.num_rows == first["kept"] == 30 and table.column_names[:2] == ["id", "text"]
    again = curate(settings(tmp_path / "again", [{"format": "parquet", "paths": [str(path)]}]))
    assert again["kept"] == 30 and list(again["sources"]) == ["sea"]
    records = read_output(tmp_path / "again" / "documents")
    assert {record["metadata"]["original_id"] for record in records} == set(table["id"].to_pylist())


def test_settings_that_cannot_work_are_sentences(tmp_path):
    with pytest.raises(UserError, match="inputs is empty"):
        curate(CurateConfig())
    with pytest.raises(UserError, match="nothing matches"):
        curate(settings(tmp_path / "out", [{"format": "jsonl", "paths": [f"{tmp_path}/nowhere/*"]}]))
    with pytest.raises(UserError, match="gcp"):
        curate(settings(tmp_path / "out", [{"format": "jsonl", "paths": ["gs://bucket/*.jsonl"]}]))
    with pytest.raises(ValueError, match="two inputs are called jsonl"):
        CurateConfig(inputs=[{"format": "jsonl", "paths": ["a"]}, {"format": "jsonl", "paths": ["b"]}])
    with pytest.raises(ValueError, match="paths is empty"):
        CurateConfig(inputs=[{"format": "warc"}])


def test_nothing_personal_is_in_the_report_or_the_logs(tmp_path, caplog):
    inputs = small_input(tmp_path / "in")
    secret = "Write to jane.roe@private-firm.com"
    write_jsonl(
        tmp_path / "in" / "personal.jsonl", [{"text": f"{secret}."}, {"text": prose(77) + f"\n{secret} today."}]
    )
    report = curate(settings(tmp_path / "out", inputs, pii={"enabled": True}))
    assert report["kept"] == 31
    written = "".join(path.read_text() for path in (tmp_path / "out").glob("report.*"))
    texts = "".join(
        record["text"] for name in ("documents", "rejected") for record in read_output(tmp_path / "out" / name)
    )
    assert "jane.roe" not in written + texts + caplog.text and texts.count("|||EMAIL_ADDRESS|||") == 2


def test_what_decontamination_found_is_reported_by_benchmark(tmp_path):
    inputs = small_input(tmp_path / "in")
    items = [{"question": prose(3).replace("\n", " ")}, {"question": prose(500)}, {"question": "why"}]
    write_jsonl(tmp_path / "sea_test.jsonl", items)
    report = curate(
        settings(tmp_path / "out", inputs, decontamination={"paths": [str(tmp_path / "sea_test.jsonl")]}),
    )
    (row,) = report["contamination"]["benchmarks"].values()
    assert (row["items"], row["too_short"], row["items_found"], row["documents_dropped"]) == (3, 1, 1, 2)
    assert report["reasons"]["decontamination.ngram_overlap"] == 2  # the document and its older copy
    assert json.loads((tmp_path / "out" / "contamination.json").read_text()) == report["contamination"]
    assert "most of an item" in (tmp_path / "out" / "report.html").read_text()
    rejected = [record["metadata"] for record in read_output(tmp_path / "out" / "rejected")]
    assert sum("contamination" in metadata for metadata in rejected) == 2


def test_other_thresholds_decide_by_what_was_stored(tmp_path):
    inputs = small_input(tmp_path / "in")
    measured = settings(
        tmp_path / "tagged",
        inputs,
        signals={"store": True, "decide": False},
        exact_dedup={"enabled": False},
        fuzzy_dedup={"enabled": False},
    )
    assert curate(measured)["kept"] == 33  # nothing is dropped
    again = [{"format": "documents", "paths": [f"{tmp_path}/tagged/documents/*"]}]
    directly = curate(settings(tmp_path / "direct", inputs))
    decided = curate(settings(tmp_path / "decided", again))
    assert decided["reasons"] == directly["reasons"]
    records = read_output(tmp_path / "decided" / "documents")
    assert all("signals" not in record["metadata"] for record in records)
    assert kept(tmp_path / "decided") == kept(tmp_path / "direct")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("workers", [pytest.param(2, marks=pytest.mark.slow)])
def test_every_phase_at_once_is_the_same_on_any_number_of_workers(tmp_path, workers):
    inputs = small_input(tmp_path / "in", 80)
    shared = prose(900, 90)
    more = [{"text": prose(1000 + n) + "\n" + shared, "url": f"http://a.org/{n % 9}?utm_source={n}"} for n in range(20)]
    write_jsonl(tmp_path / "in" / "more.jsonl", more)
    sections = {
        **{name: {"enabled": True} for name in ("pii", "line_dedup", "substring_dedup", "semantic_dedup")},
        "exact_dedup": {"url": True},
    }

    def run(name: str, *beam_args: str) -> dict:
        output = {"path": str(tmp_path / name), "source": "{source}/{language}"}
        return curate(settings(tmp_path / name, inputs, **sections, output=output), beam_args)

    one, many = run("one"), run("many", "--direct_num_workers", str(workers))
    assert kept(tmp_path / "one") == kept(tmp_path / "many") and one["reasons"] == many["reasons"]
    assert one["reasons"]["exact_dedup.url"] == 11 and list(one["sources"]) == ["sea/en"]
    cuts = [record["metadata"].get("removed_characters", {}) for record in read_output(tmp_path / "one" / "documents")]
    assert sum(bool(cut) for cut in cuts) == 8  # of the nine that share a passage the oldest keeps it
