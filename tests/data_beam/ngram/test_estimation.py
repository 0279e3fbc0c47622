"""Beam's model is the one that Kneser-Ney's definition gives, worked out n-gram by n-gram."""

from __future__ import annotations

import json
import math
import random
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_beam.ngram.block import Block
from data_beam.ngram.counts import adjusted, count_ngrams, statistics
from data_beam.ngram.discounts import discounts
from data_beam.ngram.estimate import Unigrams, interpolate, kept_ngrams, weigh
from data_beam.ngram.training import train
from maxllm.config.errors import UserError
from maxllm.config.perplexity import NgramConfig

FALLBACK = (0.5, 1.0, 1.5)
Ngram = tuple[str, ...]


class Twin:
    """Modified Kneser-Ney by its definition: slow and obvious."""

    def __init__(self, lines: list[list[str]], order: int, prune: list[int]) -> None:
        self.order = order
        self.raw: Counter[Ngram] = Counter()
        for words in lines:
            sentence = ("<s>", *words, "</s>")
            for n in range(1, order + 1):
                for start in range(len(sentence) - n + 1):
                    self.raw[sentence[start : start + n]] += 1
        del self.raw[("<s>",)]
        before: dict[Ngram, set[str]] = defaultdict(set)
        for ngram in self.raw:
            before[ngram[1:]].add(ngram[0])
        self.count = {g: count if len(g) == order or g[0] == "<s>" else len(before[g]) for g, count in self.raw.items()}
        self.count[("<s>",)] = self.count[("<unk>",)] = 0
        self.kept = {g for g in self.count if self.raw[g] > prune[len(g) - 1] or g in {("<s>",), ("</s>",), ("<unk>",)}}
        self.vocabulary = sum(len(g) == 1 for g in self.kept) - 1
        self.discount = {}
        for n in range(1, order + 1):
            of_counts = Counter(count for g, count in self.count.items() if len(g) == n)
            self.discount[n] = discounts([of_counts[k] for k in (1, 2, 3, 4)], n, FALLBACK)[0]
        self.following: dict[Ngram, list[Ngram]] = defaultdict(list)
        for g in self.count:
            self.following[g[:-1]].append(g)

    def d(self, g: Ngram) -> float:
        return self.discount[len(g)][min(self.count[g], 3)]

    def gamma(self, context: Ngram) -> float:
        """The probability that is left for shorter contexts; 1 after what nothing follows."""
        total = sum(self.count[g] for g in self.following[context])
        if not total:
            return 1.0
        used = sum(self.count[g] - self.d(g) for g in self.following[context] if g in self.kept)
        return 1 - used / total

    def p(self, word: str, context: Ngram) -> float:
        if word == "<s>":
            return 1.0
        lower = self.p(word, context[1:]) if context else 1 / self.vocabulary
        ngram = (*context, word)
        if not self.following[context]:
            return lower
        total = sum(self.count[g] for g in self.following[context])
        own = (self.count[ngram] - self.d(ngram)) / total if ngram in self.kept else 0.0
        return own + self.gamma(context) * lower

    def model(self) -> dict[Ngram, tuple[float, float]]:
        return {g: (math.log10(self.p(g[-1], g[:-1])), math.log10(self.gamma(g))) for g in self.kept}


def read_arpa(path: Path) -> dict[Ngram, tuple[float, float]]:
    model = {}
    for line in path.read_text().splitlines():
        fields = line.split("\t")
        if len(fields) > 1:
            ngram = tuple(fields[1].split(" "))
            assert ngram not in model, "every n-gram once"
            model[ngram] = (float(fields[0]), float(fields[2]) if len(fields) > 2 else 0.0)
    return model


def write_documents(path: Path, lines: list[list[str]]) -> str:
    """A few lines a document, in JSON lines."""
    texts = ["\n".join(map(" ".join, lines[start : start + 7])) for start in range(0, len(lines), 7)]
    path.write_text("".join(json.dumps({"id": str(n), "text": text}) + "\n" for n, text in enumerate(texts)))
    return str(path)


def some_lines(count: int, seed: int) -> list[list[str]]:
    draw = random.Random(seed)
    words = [f"w{n}" for n in range(60)]
    weights = [1 / (n + 1) for n in range(60)]
    return [draw.choices(words, weights, k=draw.randint(1, 12)) for _ in range(count)]


def without_beam(lines: list[list[str]], order: int, prune: list[int]) -> dict[Ngram, tuple[float, float]]:
    """The pipeline's parts for one worker, one after the other."""
    block = count_ngrams(lines, order)
    by_order = {each.order: each for each in adjusted([block], order, prune)}
    single = by_order.pop(1)
    special = np.array([[len(single.words)], [len(single.words) + 1]], np.int32)
    columns = tuple(np.append(column, [0, 0]) for column in single.columns)
    single = Block([*single.words, "<unk>", "<s>"], np.concatenate([single.ids, special]), columns)
    found = {n: statistics(each.columns[0], kept_ngrams(each, prune[n - 1])) for n, each in by_order.items()}
    kept = kept_ngrams(single, prune[0])
    found[1] = statistics(single.columns[0], kept)
    given_up = {n: discounts((s.n1, s.n2, s.n3, s.n4), n, FALLBACK)[0] for n, s in found.items()}
    unigrams = Unigrams.of(found[1], given_up[1])
    single = single.take(kept)
    words = [single.words[place] for place in single.ids[:, 0]]
    p = unigrams.probabilities(single)
    p[words.index("<s>")] = 1.0
    weighed = [weigh([each], given_up[n], prune[n - 1]) for n, each in by_order.items() if len(each)]
    asked = Block(words, np.arange(len(words), dtype=np.int32)[:, None], (p,))
    blocks = interpolate([ngrams for ngrams, _ in weighed], [contexts for _, contexts in weighed], [asked])
    backoff = {}
    for _, contexts in weighed:
        if contexts.order == 1:
            backoff |= zip((contexts.words[i] for i in contexts.ids[:, 0]), contexts.columns[0], strict=True)
    model = {(word,): (math.log10(x), math.log10(backoff.get(word, 1.0))) for word, x in zip(words, p, strict=True)}
    for each in blocks:
        for row, x, b in zip(each.ids, *each.columns, strict=True):
            model[tuple(each.words[place] for place in row)] = (math.log10(x), math.log10(b))
    return model


def assert_same(ours: dict, expected: dict, tolerance: float) -> None:
    assert ours.keys() == expected.keys()
    for ngram, (p, backoff) in expected.items():
        assert ours[ngram][0] == pytest.approx(min(p, 0), abs=tolerance), ngram
        assert ours[ngram][1] == pytest.approx(backoff, abs=tolerance), ngram


@pytest.mark.parametrize(("order", "prune", "shards"), [(1, [], 2), (4, [], 3), (3, [1, 1, 2], 4)])
def test_beam_gives_the_defined_probabilities_to_a_billionth(tmp_path, order, prune, shards):
    lines = some_lines(150, seed=order)
    config = NgramConfig(
        documents=[write_documents(tmp_path / "in.jsonl", lines)],
        output=str(tmp_path / "out"),
        order=order,
        prune=prune,
        shards=shards,
        discount_fallback=list(FALLBACK),
    )
    description = train(config)
    twin = Twin(lines, order, config.prune_thresholds())
    ours = read_arpa(tmp_path / "out" / "model.arpa")
    assert_same(ours, twin.model(), 1e-9)
    assert description["ngrams"] == [sum(len(g) == n for g in twin.kept) for n in range(1, order + 1)]
    assert description["words"] == sum(map(len, lines)) and description["lines"] == len(lines)


words = st.sampled_from(["a", "b", "c", "dd", "é", "<", "s>"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(words, min_size=1, max_size=6), min_size=1, max_size=12), st.integers(2, 4), st.integers(0, 2))
def test_any_text_gives_the_defined_probabilities(lines, order, threshold):
    prune = [0] + [threshold] * (order - 1)
    assert_same(without_beam(lines, order, prune), Twin(lines, order, prune).model(), 1e-9)


@pytest.mark.parametrize("prune", [[0, 0, 0], [0, 1, 2]])
def test_probabilities_after_any_context_sum_to_one(prune):
    lines = some_lines(60, seed=9)
    model = without_beam(lines, 3, prune)
    vocabulary = [g[0] for g in model if len(g) == 1 and g[0] != "<s>"]

    def p(word: str, context: Ngram) -> float:
        """As a reader of the ARPA file has it."""
        if (*context, word) in model:
            return 10 ** model[(*context, word)][0]
        return 10 ** model.get(context, (0, 0.0))[1] * p(word, context[1:])

    for context in [(), ("<s>",), *[g for g in model if len(g) < 3 and g[-1] != "</s>"][:40]]:
        assert sum(p(word, context) for word in vocabulary) == pytest.approx(1, abs=1e-9), context


def test_discounts_by_hand():
    # Y = 10 / (10 + 2 * 4) = 5/9; D1 = 1 - 2 Y 4/10, D2 = 2 - 3 Y 2/4, D3 = 3 - 4 Y 1/2
    assert discounts((10, 4, 2, 1), 2, None) == (pytest.approx((0, 5 / 9, 7 / 6, 17 / 9)), False)
    assert discounts((10, 4, 2, 0), 2, None)[0][3] == 3  # nothing has the count 4: all of it is discounted


def test_discounts_that_cannot_be_had_fall_back_or_say_so():
    assert discounts((10, 0, 2, 1), 2, FALLBACK) == ((0.0, *FALLBACK), True)
    assert discounts((1, 1, 9, 1), 2, FALLBACK) == ((0.0, *FALLBACK), True)  # D2 = 2 - 3 / 3 * 9 < 0
    with pytest.raises(UserError, match="no 2-gram has the adjusted count 2.*discount_fallback"):
        discounts((10, 0, 2, 1), 2, None)
