"""SemDeDup on Beam drops what a slow twin of the authors' program drops, whatever the workers."""

import gzip
import json
import math
import random

import apache_beam as beam
import numpy as np
import pytest
import xxhash
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pipeline import PipelineVisitor
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from data_beam.dedup.semantic import SemanticDuplicates, closest_before, duplicates
from data_beam.document import Document
from data_beam.embed import hashing
from data_beam.embed.fixed import SCALE, fixed, pack
from maxllm.config.dedup_text import SemanticDedupConfig


def corpus(size: int = 120) -> list[Document]:
    """Random texts of four subjects; a third of them are copies with up to a fifth of the words replaced."""
    rng = random.Random(7)
    subjects = [[f"{subject}{i}" for i in range(60)] for subject in ("sea", "law", "sun", "art")]
    texts: list[list[str]] = []
    for _ in range(size):
        if texts and rng.random() < 0.33:
            words = list(rng.choice(texts))
            for _ in range(rng.randint(1, 10)):
                words[rng.randrange(len(words))] = rng.choice(subjects[0])
        else:
            words = rng.choices(rng.choice(subjects), k=50)
        texts.append(words)
    rows = [
        Document(f"{i:03d}", " ".join(words), "test", str(2000 + rng.randrange(9))) for i, words in enumerate(texts)
    ]
    return [*rows, Document("empty", "", "test", "1999"), Document("blank", " \n", "test", "1999")]


def slow_twin(documents: list[Document], config: SemanticDedupConfig) -> list[list[str]]:
    """Lists and whole numbers; every pair of a cluster. Good for up to 256 documents a cluster (no sample is drawn)."""
    vectors = {}
    for document in documents:
        values = hashing.encode([document.text])[0].tolist()
        length = math.sqrt(math.fsum(value * value for value in values))
        if length:
            vectors["\x1f".join(document.age_key)] = [round(value * (SCALE / length)) for value in values]

    def dot(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True))

    def drawn(name, seed):
        return xxhash.xxh3_64_intdigest(name.encode(), seed=seed) >> 1

    count = config.clusters or math.isqrt(len(vectors))
    slots: dict[int, list[str]] = {}
    for name in vectors:
        slots.setdefault(drawn(name, config.seed + 1) % count, []).append(name)
    centres = [vectors[min(slots[slot], key=lambda name: drawn(name, config.seed))] for slot in sorted(slots)]

    def assigned():
        clusters: dict[int, list[tuple[int, str]]] = {}
        for name, vector in vectors.items():
            scores = [dot(vector, centre) for centre in centres]
            clusters.setdefault(scores.index(max(scores)), []).append((max(scores), name))
        return clusters

    for _ in range(config.iterations):
        for number, members in assigned().items():
            total = [sum(column) for column in zip(*(vectors[name] for _, name in members), strict=True)]
            length = math.sqrt(dot(total, total))
            centres[number] = [round(value * (SCALE / length)) for value in total]
    drops = []
    for members in assigned().values():
        sign = {"oldest": 0, "hard": 1, "easy": -1}[config.keep]
        ordered = [name for _, name in sorted(members, key=lambda member: (sign * member[0], member[1]))]
        for place, name in enumerate(ordered):
            cosines = [
                dot(vectors[name], vectors[other])
                / math.sqrt(dot(vectors[name], vectors[name]) * dot(vectors[other], vectors[other]))
                for other in ordered[:place]
            ]
            if cosines and max(cosines) > 1 - config.eps:
                closest = ordered[cosines.index(max(cosines))].split("\x1f")[1]
                drops.append([name.split("\x1f")[1], "semantic_dedup.near_meaning", f"{closest} {max(cosines):.3f}"])
    return sorted(drops)


def on_beam(folder, documents: list[Document], config: SemanticDedupConfig, *options: str) -> list[list[str]]:
    folder.mkdir(exist_ok=True)
    pipeline = beam.Pipeline(runner=FnApiRunner(), options=PipelineOptions(list(options)))
    (
        pipeline
        | beam.Create(documents, reshuffle=False)
        | SemanticDuplicates(config)
        | beam.MapTuple(lambda id, drop: json.dumps([id, drop.reason, drop.value]))
        | beam.io.WriteToText(str(folder / "out"))
    )
    pipeline.run().wait_until_finish()
    return sorted(json.loads(line) for path in folder.glob("out*") for line in path.read_text().splitlines())


@pytest.mark.parametrize("keep", ["oldest", "hard", "easy"])
def test_what_is_dropped_is_what_the_slow_twin_drops(tmp_path, keep):
    config = SemanticDedupConfig(keep=keep, iterations=2, clusters=5, eps=0.3)
    documents = corpus(50)
    expected = slow_twin(documents, config)
    assert 5 < len(expected) < 40
    random.Random(1).shuffle(documents)
    assert on_beam(tmp_path, documents, config) == expected


WORKERS = [
    pytest.param((), id="one worker"),
    pytest.param(("--direct_num_workers=2", "--direct_running_mode=multi_threading"), id="two threads"),
    pytest.param(
        ("--direct_num_workers=2", "--direct_running_mode=multi_processing"), id="processes", marks=pytest.mark.network
    ),
]


@pytest.mark.parametrize("options", WORKERS[1:])
@pytest.mark.parametrize("max_cluster", [50_000, 12])
def test_the_result_is_the_same_on_any_number_of_workers(tmp_path, options, max_cluster):
    config = SemanticDedupConfig(eps=0.3, clusters=3, max_cluster=max_cluster, iterations=1)
    documents = corpus()
    one = on_beam(tmp_path / "one", documents, config)
    random.Random(2).shuffle(documents)
    assert on_beam(tmp_path / "other", documents, config, *options) == one
    assert one


def test_clusters_above_the_limit_are_split_and_equal_texts_still_meet_unless_hash_parts_them(tmp_path):
    documents = corpus()
    whole = on_beam(tmp_path / "whole", documents, SemanticDedupConfig(eps=0.3, clusters=1, iterations=1))
    split = on_beam(
        tmp_path / "split", documents, SemanticDedupConfig(eps=0.3, clusters=1, iterations=1, max_cluster=60)
    )
    ids, found = ({row[0] for row in rows} for rows in (whole, split))
    assert found <= ids and len(found) > 0.8 * len(ids)


def test_members_are_compared_with_all_before_them_dropped_or_not():
    """A chain at 20 degrees a step: each is near its neighbours only, and all but the first go."""
    angles = np.deg2rad([0, 20, 40, 60])
    rows = fixed(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    members = [(f"2000\x1f{name}", 0, pack(row)) for name, row in zip("abcd", rows, strict=True)]
    found = {id: drop.value for id, drop in duplicates(members, SemanticDedupConfig(eps=0.1))}
    assert found == {"b": "a 0.940", "c": "b 0.940", "d": "c 0.940"}


def test_which_of_a_pair_stays():
    rows = [pack(row) for row in fixed(np.array([[1.0, 0.0], [1.0, 0.01], [1.0, 0.02]]))]
    members = list(zip(("2002\x1fa", "2001\x1fb", "2000\x1fc"), (300, 100, 200), rows, strict=True))
    dropped = {
        keep: {id for id, _ in duplicates(members, SemanticDedupConfig(keep=keep))}
        for keep in ("oldest", "hard", "easy")
    }
    assert dropped == {"oldest": {"a", "b"}, "hard": {"a", "c"}, "easy": {"b", "c"}}


def test_the_closest_before_is_found_across_blocks():
    rng = np.random.default_rng(5)
    vectors = fixed(rng.normal(size=(700, 16)))
    vectors[650] = vectors[3]
    best, which = closest_before(vectors)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = np.triu(unit @ unit.T + 2, 1) - 2
    np.testing.assert_allclose(best[1:], cosines.max(axis=0)[1:], atol=1e-6)
    assert which[1:].tolist() == cosines.argmax(axis=0)[1:].tolist()
    assert best[0] == -2 and which[650] == 3


def test_edited_copies_of_real_texts_are_found_and_other_texts_stay(tmp_path, shared_data):
    with gzip.open(shared_data / "corpus" / "c4_demo.jsonl.gz", "rt") as file:
        texts = [json.loads(line)["text"] for line in file][:150]
    rng = random.Random(3)
    documents = [Document(f"{i:03d}", text, "c4", "2000") for i, text in enumerate(texts)]
    for i in range(0, 150, 5):
        words = texts[i].split()
        for place in rng.sample(range(len(words)), len(words) // 50):
            words[place] = "edited"
        documents.append(Document(f"copy{i:03d}", " ".join(words), "c4", "2001"))
    found = on_beam(tmp_path, documents, SemanticDedupConfig(clusters=5, iterations=3))
    assert {(id, value.split()[0]) for id, _, value in found if id.startswith("copy")} == {
        (f"copy{i:03d}", f"{i:03d}") for i in range(0, 150, 5)
    }
    assert sum(not id.startswith("copy") for id, _, _ in found) <= 2


def test_no_text_is_shuffled():
    pipeline = beam.Pipeline(runner=FnApiRunner())
    pipeline | beam.Create(corpus(), reshuffle=False) | SemanticDuplicates(SemanticDedupConfig())
    declared = []

    class Groupings(PipelineVisitor):
        def visit_transform(self, node):
            if isinstance(node.transform, beam.GroupByKey):
                declared.extend(str(each.element_type) for each in node.inputs)

    pipeline.visit(Groupings())
    assert len(declared) > 10
    assert not [each for each in declared if "Document" in each or "Any" in each], declared
