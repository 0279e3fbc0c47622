"""Our signatures are datasketch's, bit for bit, and estimate and collide as the theory says."""

import random

import datasketch
import numpy as np
import pytest

from data_beam.dedup.nodes import id_of, node_of, smallest_reachable
from data_beam.dedup.signature import MinHasher
from data_beam.document import Document
from data_beam.text.signals import Signals
from data_beam.text.words import normalised_words, word_hashes
from maxllm.config.dedup import FuzzyDedupConfig

HASHER = MinHasher(FuzzyDedupConfig())


def bands_shared(left: list[str], right: list[str], hasher: MinHasher = HASHER) -> int:
    keys = [hasher.band_keys(word_hashes(words)) for words in (left, right)]
    return len(set(keys[0]) & set(keys[1]))


@pytest.mark.parametrize(
    ("seed", "bands", "rows", "size"), [(1, 14, 8, 1), (1, 14, 8, 700), (7, 5, 3, 3000), (1, 450, 20, 70)]
)
def test_signatures_equal_datasketch_bit_for_bit(seed, bands, rows, size):
    hasher = MinHasher(FuzzyDedupConfig(seed=seed, bands=bands, rows=rows))
    shingles = np.random.default_rng(size).integers(0, 1 << 32, size, dtype=np.uint32)
    theirs = datasketch.MinHash(bands * rows, seed=seed, hashfunc=int, scheme="affine32")
    theirs.update_batch(shingles.tolist())
    np.testing.assert_array_equal(hasher.signature(shingles), theirs.hashvalues)


@pytest.mark.parametrize("overlap", [0.3, 0.6, 0.72, 0.9])
def test_equal_positions_estimate_the_jaccard_similarity(overlap):
    hasher = MinHasher(FuzzyDedupConfig(bands=128, rows=8))
    rng = np.random.default_rng(3)
    size = 4000
    shared = rng.integers(0, 1 << 32, int(size * overlap), dtype=np.uint32)
    left, right = (
        np.concatenate([shared, rng.integers(0, 1 << 32, (size - len(shared)) // 2, dtype=np.uint32)]) for _ in range(2)
    )
    estimate = (hasher.signature(left) == hasher.signature(right)).mean()
    assert abs(estimate - overlap) < 4 * np.sqrt(overlap * (1 - overlap) / 1024)


def test_bands_collide_as_often_as_the_theory_says():
    """1 - (1 - s^8)^14: 0.56 at a similarity of 0.7, 0.92 at 0.8 (the figures FineWeb gives)."""
    rng = np.random.default_rng(5)
    for similarity, expected in ((0.5, 0.053), (0.7, 0.565), (0.8, 0.924), (0.9, 0.9996)):
        found = 0
        for _ in range(400):
            shared = rng.integers(0, 1 << 32, int(400 * similarity), dtype=np.uint32)
            sides = []
            for _ in range(2):
                rest = rng.integers(0, 1 << 32, (400 - len(shared)) // 2, dtype=np.uint32)
                signature = HASHER.signature(np.concatenate([shared, rest]))
                sides.append({(band, *row) for band, row in enumerate(signature.reshape(14, 8).tolist())})
            found += bool(sides[0] & sides[1])
        assert abs(found / 400 - expected) < 0.1


def test_band_keys_agree_with_the_slow_twin():
    """Shingles by tuples, minima by Python's integers: two texts share a band key exactly where they share the rows."""
    rng = random.Random(2)
    words = [str(rng.randrange(500)) for _ in range(120)]
    edited = words[:60] + ["edited"] + words[61:]

    def rows(words: list[str]) -> list[tuple]:
        names = sorted({int(each) for each in HASHER.shingles(word_hashes(words))})
        mixed = []
        for value in names:
            value ^= value >> 16
            value = value * 0x85EBCA6B % 2**32
            value ^= value >> 13
            value = value * 0xC2B2AE35 % 2**32
            mixed.append(value ^ value >> 16)
        pairs = zip(HASHER._a[:, 0].tolist(), HASHER._b[:, 0].tolist(), strict=True)
        minima = [min((a * value + b) % 2**32 for value in mixed) for a, b in pairs]
        return [tuple(minima[i : i + 8]) for i in range(0, 112, 8)]

    expected = sum(left == right for left, right in zip(rows(words), rows(edited), strict=True))
    assert 0 < bands_shared(words, edited) == expected < 14


def test_case_and_punctuation_do_not_matter_and_short_texts_have_no_bands():
    text = "The quick brown fox jumps over the lazy dog near the old mill."
    assert bands_shared(normalised_words(text), normalised_words(text.upper().replace(" ", ", "))) == 14
    assert HASHER.band_keys(word_hashes(normalised_words("only four words here"))) == []
    assert len(set(HASHER.band_keys(word_hashes(normalised_words("five words are one shingle"))))) == 14


def test_nodes_sort_as_age_and_id_do():
    ages = ["2020", "2020-01-01", "2020-01-01 10:00", "2020-01-01T00:00:00Z", "2021"]
    documents = [Document(id, "", "s", age) for age in ages for id in ("0", "b", "~")]
    random.Random(1).shuffle(documents)
    assert sorted(documents, key=node_of) == sorted(documents, key=lambda document: document.age_key)
    assert [id_of(node_of(document)) for document in documents] == [document.id for document in documents]
    created = Document("1", "", "s", added="2024", created="1999")
    assert node_of(created) < node_of(documents[0])


def slow_components(edges: list[tuple[str, str]]) -> dict[str, str]:
    """Spread the smallest name along the edges until nothing changes."""
    label = {node: node for edge in edges for node in edge}
    changed = True
    while changed:
        changed = False
        for left, right in edges:
            low = min(label[left], label[right])
            if label[left] != low or label[right] != low:
                label[left] = label[right] = low
                changed = True
    return label


@pytest.mark.parametrize("seed", range(30))
def test_union_find_equals_its_slow_twin(seed):
    rng = random.Random(seed)
    nodes = [f"{i:03d}" for i in range(rng.choice([5, 50, 200]))]
    edges = [tuple(rng.sample(nodes, 2)) for _ in range(rng.randint(1, 200))]
    assert smallest_reachable(edges) == slow_components(edges)


def test_shingles_of_characters_take_them_as_they_are():
    """As NeMo Curator does: case and punctuation count, and languages without spaces have shingles."""
    hasher = MinHasher(FuzzyDedupConfig(unit="character", ngram=24, bands=20, rows=13))

    def shingles(text: str) -> set[int]:
        return set(hasher.shingles(hasher.hashes(Signals(text))).tolist())

    text = "The quick brown fox jumps over the lazy dog."
    assert len(shingles(text)) == len(text) - 23 == len({text[i : i + 24] for i in range(len(text) - 23)})
    assert len(shingles(text + " " + text)) == len({(text + " " + text)[i : i + 24] for i in range(2 * len(text) - 22)})
    assert not shingles(text) & shingles(text.upper())
    assert len(shingles("日本語の文章には空白がないので文字で数えるほかはないのである")) == 30 - 23
    assert not shingles("too short") and shingles("\ud800" * 24)
