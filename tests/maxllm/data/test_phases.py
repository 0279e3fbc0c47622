"""Mixtures and lengths that change over training, against one that counts along step by step."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from maxllm.config.errors import UserError
from maxllm.config.train import DataConfig
from maxllm.data.dataset import Dataset, read_documents
from maxllm.data.loader import Loader
from maxllm.data.mixture import Mixture, shuffled
from maxllm.data.packing import PackedSource
from maxllm.data.phases import resolve
from maxllm.tokenizer import Tokenizer

PHASES = [
    {"until": 0.25, "sequence_length": 32, "weights": {"snippets": 3, "docs": 1}},
    {"until": 11, "sequence_length": 64, "weights": {"snippets": 1, "code": 1, "docs": 2}},
    {"until": 1},
]
STEPS = 20


@pytest.fixture(scope="module")
def fingerprint(tokens) -> str:
    return Tokenizer.load(tokens / "tokenizer").fingerprint


@pytest.fixture()
def config(tokens) -> DataConfig:
    names = {"code": 0.5, "docs": 0.3, "snippets": 0.2}
    return DataConfig(
        sources={name: {"path": str(tokens), "source": name, "weight": weight} for name, weight in names.items()},
        sequence_length=128,
        batch_size=4,
        seed=1,
        phases=PHASES,
    )


@pytest.fixture()
def loader(config, fingerprint) -> Loader:
    return Loader(config, tokenizer_fingerprint=fingerprint, steps=STEPS)


def same(a, b) -> bool:
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None or y is not None]
    return all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in pairs)


def slow_batches(config: DataConfig, steps: int):
    """Every batch in order, by counting: each source hands out the parts of a packed row until it is used up, then
    takes the next one in its epoch's order; a new phase starts every source on a fresh packed row."""
    names = sorted(config.sources)
    dataset = Dataset(config.sources[names[0]].path)
    whole = {}
    for name in names:
        source = PackedSource(dataset, dataset.shards("train", name), config.sequence_length)
        whole[name] = source
    taken = dict.fromkeys(names, 0)  # packed rows
    step = 0
    for first, length, rows, weights in resolve(config, STEPS):
        ends = [phase.first for phase in resolve(config, STEPS) if phase.first > first] or [steps]
        parts: dict[str, list] = {name: [] for name in names}
        position = 0
        while step < min(ends[0], steps):
            batch = []
            for _ in range(rows):
                (source,), _ = Mixture(weights).locate(np.array([position]))
                name = names[source]
                if not parts[name]:
                    key = (config.seed, "train", name)
                    (row,) = shuffled(np.array([taken[name]]), len(whole[name]), key).tolist()
                    taken[name] += 1
                    tokens = whole_row(whole[name], row, config.sequence_length)
                    parts[name] = [tokens[start : start + length] for start in range(0, len(tokens), length)]
                batch.append((name, parts[name].pop(0)))
                position += 1
            yield batch
            step += 1


def whole_row(source: PackedSource, row: int, length: int) -> list[tuple[int, int, int]]:
    """(token, target, which document's) of each position of a packed row."""
    from maxllm.batch import empty_batch

    batch = empty_batch(1, length)
    source.fill(batch, [0], [row])
    fields = (batch.tokens, batch.targets, batch.segment_ids)
    return list(zip(*(field[0].tolist() for field in fields), strict=True))


def test_every_batch_is_the_slow_one(config, loader):
    for k, slow in enumerate(slow_batches(config, STEPS)):
        batch = loader.batch(k)
        assert batch.tokens.shape == (len(slow), len(slow[0][1]))
        for row, (name, tokens) in enumerate(slow):
            assert loader.names[batch.domains[row, 0]] == name
            assert batch.tokens[row].tolist() == [token for token, _, _ in tokens]
            assert batch.targets[row].tolist() == [target for _, target, _ in tokens]
            segments, seen = batch.segment_ids[row].tolist(), [segment for _, _, segment in tokens]
            starts = [i for i in range(len(seen)) if i == 0 or seen[i] != seen[i - 1]]
            numbers = [sum(start <= i for start in starts) if seen[i] else 0 for i in range(len(seen))]
            assert segments == numbers  # the same cuts between documents, counted from 1 in each row
            position = [i - max(start for start in starts if start <= i) for i in range(len(seen))]
            assert batch.positions[row].tolist() == [p if s else 0 for p, s in zip(position, seen, strict=True)]


def test_a_phase_has_its_length_its_share_and_the_same_tokens_a_step(loader):
    assert [tuple(phase[:3]) for phase in loader.phases] == [(0, 32, 16), (5, 64, 8), (11, 128, 4)]
    shapes = [loader.batch(k).tokens.shape for k in range(STEPS)]
    assert shapes == [(16, 32)] * 5 + [(8, 64)] * 6 + [(4, 128)] * 9
    rows = {name: [0, 0, 0] for name in loader.names}
    for k in range(STEPS):
        for domain in loader.batch(k).domains[:, 0]:
            rows[loader.names[domain]][0 if k < 5 else 1 if k < 11 else 2] += 1
    assert rows == {"code": [0, 12, 18], "docs": [20, 24, 11], "snippets": [60, 12, 7]}


def test_nothing_is_seen_twice_before_its_source_is_exhausted(config, fingerprint, tokens):
    """Across three lengths and mixtures: the targets seen are a part of the source's, each as often as there."""
    long = config.model_copy(update={"batch_size": 2})
    loader = Loader(long, tokenizer_fingerprint=fingerprint, steps=STEPS)
    assert max(loader.epochs_before(STEPS).values()) < 1
    for number, name in enumerate(loader.names):
        seen: Counter = Counter()
        for k in range(STEPS):
            batch = loader.batch(k)
            real = (batch.segment_ids > 0) & (batch.domains == number)
            seen.update(zip(batch.tokens[real].tolist(), batch.targets[real].tolist(), strict=True))
        whole: Counter = Counter()
        for _, _, ids in read_documents(tokens, "train", name):
            whole.update(zip(ids[:-1].tolist(), ids[1:].tolist(), strict=True))
        assert seen and seen <= whole
        assert loader.epochs_before(STEPS)[name] > 0


def test_an_epoch_in_short_rows_holds_every_next_token_once(tokens, fingerprint):
    """All lengths cut the same packing: eight rows of 16 are a row of 128."""
    source = {"path": str(tokens), "source": "snippets"}
    config = DataConfig(
        sources={"snippets": source},
        sequence_length=128,
        batch_size=1,
        phases=[{"until": 7, "sequence_length": 16}, {"until": 1, "sequence_length": 32}],
    )
    loader = Loader(config, tokenizer_fingerprint=fingerprint, steps=1000)
    seen: Counter = Counter()
    for k in range(loader.steps_per_epoch):
        batch = loader.batch(k)
        real = batch.segment_ids > 0
        seen.update(zip(batch.tokens[real].tolist(), batch.targets[real].tolist(), strict=True))
    whole: Counter = Counter()
    for _, _, ids in read_documents(tokens, "train", "snippets"):
        whole.update(zip(ids[:-1].tolist(), ids[1:].tolist(), strict=True))
    assert seen == whole
    assert loader.epochs_before(loader.steps_per_epoch) == {"snippets": 1.0}


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_together_make_the_batch_of_one_in_every_phase(config, fingerprint, loader, hosts):
    parts = [
        Loader(config, tokenizer_fingerprint=fingerprint, host_index=i, host_count=hosts, steps=STEPS)
        for i in range(hosts)
    ]
    for k in (0, 4, 5, 10, 11, 19):
        fields = zip(*(part.batch(k) for part in parts), strict=True)
        assert same(loader.batch(k), [None if x[0] is None else np.concatenate(x) for x in fields])
        assert all(part.document_ids(k) == loader.document_ids(k) for part in parts)


@pytest.mark.parametrize("start", [3, 5, 9])
def test_going_on_in_the_middle_of_any_phase_gives_the_same_batches(config, fingerprint, loader, start):
    fresh = Loader(config, tokenizer_fingerprint=fingerprint, steps=STEPS)
    for k, batch in zip(range(start, 13), fresh.iterate(start), strict=False):
        assert same(batch, loader.batch(k))


def test_one_phase_is_no_phase(config, fingerprint):
    plain = Loader(config.model_copy(update={"phases": []}), tokenizer_fingerprint=fingerprint)
    alone = DataConfig.model_validate(config.model_dump() | {"phases": [{"until": 1.0}]})
    alone = Loader(alone, tokenizer_fingerprint=fingerprint, steps=STEPS)
    assert all(same(plain.batch(k), alone.batch(k)) for k in (0, 7))


def test_the_held_out_split_knows_no_phases(config, fingerprint):
    held_out = Loader(config, tokenizer_fingerprint=fingerprint, split="held_out")
    assert held_out.batch(0).tokens.shape == held_out.batch(19).tokens.shape == (4, 128)


def test_a_source_without_weight_is_left_out(config, fingerprint):
    sources = {**config.model_dump()["sources"], "absent": {"path": "nowhere", "weight": 0}}
    with_it = DataConfig.model_validate(config.model_dump() | {"sources": sources, "phases": []})
    without = config.model_copy(update={"phases": []})
    left, right = (Loader(each, tokenizer_fingerprint=fingerprint) for each in (with_it, without))
    assert left.names == right.names and same(left.batch(3), right.batch(3))


@pytest.mark.parametrize(
    ("phases", "named"),
    [
        ([{"until": 0.01}, {"until": 1}], "phases.0 ends at step 0"),
        ([{"until": 0.5}, {"until": 10}, {"until": 1}], "phases.1 ends at step 10 and begins at step 10"),
        ([{"until": 0.5}], "ends at step 10 of 20; let the last one say `until: 1`"),
    ],
)
def test_phases_that_do_not_cover_the_run_are_a_sentence(config, phases, named):
    with pytest.raises(UserError, match=named):
        resolve(DataConfig.model_validate(config.model_dump() | {"phases": phases}), STEPS)


@pytest.mark.parametrize(
    ("phase", "named"),
    [
        ({"until": 1, "sequence_length": 48}, "phases.0.sequence_length 48 does not divide data.sequence_length 128"),
        ({"until": 1, "weights": {"cod": 1}}, "phases.0.weights names cod, which is none of data.sources"),
        ({"until": 1, "weights": {"code": 0}}, "positive for at least one"),
        ({"until": 2.5}, "neither a share up to 1 nor a whole number"),
    ],
)
def test_a_phase_that_cannot_be_is_a_sentence(config, phase, named):
    with pytest.raises(ValueError, match=named):
        DataConfig.model_validate(config.model_dump() | {"phases": [phase]})
