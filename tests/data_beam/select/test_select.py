"""Selection keeps what it says, in proportion, the same on every run and worker."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import xxhash

from data_beam.document import Document
from data_beam.select.age import age_weight, check_age
from data_beam.select.copies import copies, label_of, weight_of
from data_beam.select.dsir import bucket_counts, gumbel, log_ratio, score, words_of
from data_beam.select.run import select
from data_beam.text.words import ngram_hashes, word_hashes
from maxllm.config.errors import UserError
from maxllm.config.select import AgeConfig, AttributeConfig, DsirConfig, SelectConfig
from tests.data_beam.test_curation import prose, read_output

CHEMISTRY = "acid base salt water heat ion bond metal oxide react solution mole".split()


def document(number: int, text: str, source: str = "web", created: str | None = None, **metadata) -> dict:
    id = xxhash.xxh3_128_hexdigest(f"{source} {number}".encode())
    added = "2024-01-01T00:00:00Z"
    return {"id": id, "text": text, "source": source, "added": added, "created": created, "metadata": metadata}


def chemistry(seed: int, words: int = 150) -> str:
    draw = np.random.default_rng(seed)
    return " ".join(draw.choice(CHEMISTRY, words))


def write(path: Path, records: list[dict]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Two sources, a fifth of each about chemistry; a target about nothing else."""
    folder = tmp_path_factory.mktemp("corpus")
    records = [
        document(n, chemistry(n) if n % 5 == 0 else prose(n), source, topic="chemistry" if n % 5 == 0 else "sea")
        for source in ("web", "books")
        for n in range(100)
    ]
    paths = [write(folder / f"{part}.jsonl", records[part::3]) for part in range(3)]
    target = write(folder / "target.jsonl", [document(n, chemistry(1000 + n), "target") for n in range(20)])
    return paths, target, records


def settings(corpus, path: Path, **sections) -> SelectConfig:
    paths, target, _ = corpus
    tree = {"documents": paths, "output": {"path": str(path)}, **sections}
    if "dsir" in tree:
        tree["dsir"] = {"target": [target], **tree["dsir"]}
    return SelectConfig(**tree)


def ids(folder: Path) -> list[str]:
    return sorted(record["id"] for record in read_output(folder / "documents"))


def slow_dsir(records: list[dict], target: list[str], config: DsirConfig) -> set[str]:
    """Loops and dictionaries, as the paper has it."""

    def grams(text: str) -> Counter:
        hashes = word_hashes(words_of(text)).tolist()
        found = [int(ngram_hashes(np.array([one], np.uint64), 1)[0]) for one in hashes]
        found += [int(ngram_hashes(np.array(two, np.uint64), 2)[0]) for two in zip(hashes, hashes[1:], strict=False)]
        return Counter(value % config.buckets for value in found)

    wanted: Counter = Counter()
    for text in target:
        wanted.update(grams(text))
    kept = set()
    keys = {record["source"] if config.level == "source" else "*" for record in records}
    for key in keys:
        group = [record for record in records if key in ("*", record["source"])]
        raw: Counter = Counter()
        for record in group:
            raw.update(grams(record["text"]))

        def importance(record: dict, raw: Counter = raw) -> float:
            total = 0.0
            for bucket, times in grams(record["text"]).items():
                p_target = wanted[bucket] / wanted.total() + 1e-8
                p_raw = raw[bucket] / raw.total() + 1e-8
                total += times * float(np.log(p_target) - np.log(p_raw))
            return total + gumbel(record["id"], config.seed)

        ranked = sorted(group, key=importance)
        kept |= {record["id"] for record in ranked[int((1 - config.fraction) * len(ranked)) :]}
    return kept


@pytest.mark.parametrize(("level", "fraction"), [("source", 0.2), ("document", 0.5)])
def test_dsir_selects_what_the_slow_loops_select(tmp_path, corpus, level, fraction):
    _, _, records = corpus
    config = settings(corpus, tmp_path / "out", dsir={"level": level, "fraction": fraction, "buckets": 512})
    report = select(config)
    expected = slow_dsir(records, [chemistry(1000 + n) for n in range(20)], config.dsir)
    assert set(ids(tmp_path / "out")) == expected and report["kept"] == len(expected) == 200 * fraction
    assert report["reasons"] == {"dsir.less_important": 200 - len(expected)}
    topics = Counter(record["metadata"]["topic"] for record in read_output(tmp_path / "out" / "documents"))
    assert topics["chemistry"] == 40  # the target's documents come first
    if level == "source":
        assert report["sources"]["web"]["documents"] == report["sources"]["books"]["documents"] == 20


@pytest.mark.timeout(180)
def test_worker_processes_select_the_same(tmp_path, corpus):
    sections = {
        "dsir": {"fraction": 0.3},
        "attributes": [{"key": "topic", "weights": {"sea": 0.5, "chemistry": 1.5}}],
    }
    one = select(settings(corpus, tmp_path / "one", **sections))
    two = select(settings(corpus, tmp_path / "two", **sections), ["--direct_num_workers", "2"])
    assert ids(tmp_path / "one") == ids(tmp_path / "two") and one["reasons"] == two["reasons"]
    assert one["copies"] == two["copies"] > 0
    assert len(ids(tmp_path / "one")) == one["kept"] + one["copies"] == len(set(ids(tmp_path / "one")))


def test_short_documents_are_not_selected_and_a_missing_target_is_a_sentence(tmp_path, corpus):
    paths, target, _ = corpus
    short = write(tmp_path / "short.jsonl", [document(n, "acid base", "short") for n in range(4)])
    config = SelectConfig(
        documents=[*paths, short], dsir={"target": [target], "fraction": 1.0}, output={"path": str(tmp_path / "out")}
    )
    report = select(config)
    assert report["reasons"] == {"dsir.too_short": 4} and report["kept"] == 200
    with pytest.raises(UserError, match="dsir.target: nothing matches"):
        select(SelectConfig(documents=paths, dsir={"target": [f"{tmp_path}/nowhere"]}))
    with pytest.raises(UserError, match="documents is empty"):
        select(SelectConfig())


def test_sampling_follows_importance():
    """Gumbel top-1 of three documents, over many seeds, is a draw in proportion to importance."""
    config = DsirConfig(buckets=64, min_words=0)
    target, raw = np.ones(64, np.int64), np.ones(64, np.int64)
    buckets = [int(np.argmax(bucket_counts([word], DsirConfig(buckets=64, ngram=1)))) for word in ("one", "two", "six")]
    assert len(set(buckets)) == 3
    target[buckets[0]], target[buckets[1]] = 8, 4
    ratio = log_ratio(target, raw)
    importance = np.exp([ratio[bucket] for bucket in buckets])
    documents = [Document(f"id{n}", word, "s", "") for n, word in enumerate(("one", "two", "six"))]
    wins = Counter()
    for seed in range(3000):
        seeded = config.model_copy(update={"seed": seed})
        wins[int(np.argmax([score(each, ratio, seeded) for each in documents]))] += 1
    expected = importance / importance.sum()
    for place in range(3):
        bound = 4 * np.sqrt(expected[place] * (1 - expected[place]) / 3000)
        assert abs(wins[place] / 3000 - expected[place]) < bound


def test_copies_are_as_many_as_expected_and_fixed_by_id_and_seed():
    drawn = [copies(f"document {n}", 1.3, 0) for n in range(4000)]
    assert set(drawn) == {1, 2} and abs(np.mean(drawn) - 1.3) < 4 * np.sqrt(0.21 / 4000)
    assert drawn == [copies(f"document {n}", 1.3, 0) for n in range(4000)]
    assert drawn != [copies(f"document {n}", 1.3, 1) for n in range(4000)]
    assert copies("x", 0.0, 0) == 0 and copies("x", 2.0, 0) == 2


def test_attributes_fine_grained_and_grouped():
    quality = AttributeConfig(key="scores.quality", edges=[0.3, 0.7], weights={"0": 0, "1": 1, "2": 2})
    domain = AttributeConfig(
        key="domain", groups={"technical": ["Science", "Computers"]}, weights={"technical": 1.5, "Games": 0.5}
    )
    kind = AttributeConfig(key="scores.kind", weights={"news": 3.0}, default=0.25)

    def weigh(attribute: AttributeConfig, **metadata) -> float:
        return weight_of(Document("i", "t", "s", "", metadata=metadata), [attribute])

    assert [weigh(quality, scores={"quality": value}) for value in (0.29, 0.3, 0.69, 0.7)] == [0, 1, 1, 2]
    assert weigh(quality) == 1.0  # no score
    assert [weigh(domain, domain=name) for name in ("Science", "Computers", "Games", "Pets")] == [1.5, 1.5, 0.5, 1.0]
    assert weigh(kind, scores={"kind": {"news": 0.6, "opinion": 0.4}}) == 3.0 and weigh(kind) == 0.25
    both = Document("i", "t", "s", "", metadata={"domain": "Science", "scores": {"quality": 0.9}})
    assert weight_of(both, [quality, domain]) == 3.0
    assert label_of(None, quality) is None and label_of(True, quality) == "True"
    with pytest.raises(ValueError, match="is in two groups"):
        AttributeConfig(key="d", groups={"a": ["x"], "b": ["x"]}, weights={})
    with pytest.raises(ValueError, match="must ascend"):
        AttributeConfig(key="d", edges=[2, 1], weights={})


def test_age_cuts_weighs_and_is_counted(tmp_path):
    years = {"2015": 4, "2019": 6, "2023": 10}
    records = [
        document(int(year) * 100 + n, prose(n), created=f"{year}-06-0{n % 9 + 1}T00:00:00Z")
        for year, count in years.items()
        for n in range(count)
    ]
    records.append({**document(1, prose(50)), "added": ""})
    path = write(tmp_path / "in.jsonl", records)
    config = SelectConfig(
        documents=[path],
        age={"since": "2016", "before": "2023-06-05", "weights": {2019: 2.0}, "undated": "drop"},
        output={"path": str(tmp_path / "out")},
    )
    report = select(config)
    newer = sum(record["created"] is not None and record["created"] >= "2023-06-05" for record in records)
    assert report["reasons"] == {"age.newer": newer, "age.older": 4, "age.undated": 1}
    assert report["copies"] == 6 and report["kept"] == 6 + 10 - newer
    assert report["years"] == {"2019": 6, "2023": 10 - newer}
    twice = [record for record in read_output(tmp_path / "out" / "documents") if record["metadata"].get("copy")]
    assert len(twice) == 6 and all(record["metadata"]["group"] == record["metadata"]["copy_of"] for record in twice)


def test_half_life_and_dates():
    old = Document("i", "t", "s", "2024-01-01", created="2015-01-01T00:00:00Z")
    config = AgeConfig(half_life_years=5, reference="2025-01-01")
    assert age_weight(old, config) == pytest.approx(0.25, rel=1e-3)
    assert age_weight(Document("i", "t", "s", "no date"), config) == 1.0
    assert check_age(old, AgeConfig(since="2015-01-02")) and not check_age(old, AgeConfig(since="2015-01-01"))
    with pytest.raises(ValueError, match="set age.reference"):
        AgeConfig(half_life_years=2)
    with pytest.raises(ValueError, match="is not a date"):
        AgeConfig(since="last year")
