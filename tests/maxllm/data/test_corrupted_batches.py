"""A corrupted batch is a function of (data, seed, step) alone, for every objective."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from maxllm.batch import Batch
from maxllm.config import resolve
from maxllm.config.errors import UserError
from maxllm.config.train import OBJECTIVES, TrainConfig
from maxllm.data.corruption import FUNCTIONS, example_row, make_corruption
from maxllm.data.loader import Loader
from maxllm.tokenizer import Tokenizer

ENCODER = {"architecture": "encoder", "positions": "learned", "tie_embeddings": True}
PAIR = {"architecture": "encoder_decoder", "positions": "relative"}
EXTRA = {
    "replaced_token": {"encoder": {"head": "replaced", "generator_factor": 0.25}},
    "masked_lm": {"encoder": {"head": "next_sentence", "type_vocab_size": 2}},
}


def config_of(tokens, name: str, **data: Any) -> TrainConfig:
    architecture = next(kind for kind, names in OBJECTIVES.items() if name in names)
    positions = {"encoder": ENCODER, "encoder_decoder": PAIR}.get(architecture, {})
    tree = {
        "model": {"vocab_size": 1280, **positions, **EXTRA.get(name, {})},
        "data": {"sources": {"all": {"path": str(tokens)}}, "sequence_length": 128, "batch_size": 8, **data},
        "objective": {"name": name, "next_sentence": name == "masked_lm"},
    }
    return resolve(TrainConfig, tree=tree).config


def loader_of(config: TrainConfig, tokens, **more: Any) -> Loader:
    tokenizer = Tokenizer.load(tokens / "tokenizer")
    corruption = make_corruption(config, tokenizer)
    return Loader(config.data, tokenizer_fingerprint=tokenizer.fingerprint, corruption=corruption, **more)


def loader_fingerprint(tokens) -> str:
    return Tokenizer.load(tokens / "tokenizer").fingerprint


def fields(batch) -> dict[str, np.ndarray]:
    if isinstance(batch, Batch):
        return {name: value for name, value in batch._asdict().items() if value is not None}
    return {f"{side}.{name}": x for side in batch._fields for name, x in fields(getattr(batch, side)).items()}


def same(a, b) -> bool:
    a, b = fields(a), fields(b)
    return a.keys() == b.keys() and all(np.array_equal(a[n], b[n]) and a[n].dtype == b[n].dtype for n in a)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_going_on_and_hosts_change_nothing(tokens, name):
    config = config_of(tokens, name)
    loader = loader_of(config, tokens)
    batches = {k: loader.batch(k) for k in range(2, 6)}
    fresh = loader_of(config, tokens)
    for k, batch in zip(range(3, 6), fresh.iterate(3), strict=False):
        assert same(batch, batches[k])
    parts = [fields(loader_of(config, tokens, host_index=i, host_count=4).batch(5)) for i in range(4)]
    joined = {field: np.concatenate([part[field] for part in parts]) for field in parts[0]}
    assert all(np.array_equal(joined[field], value) for field, value in fields(batches[5]).items())
    assert not same(batches[2], batches[3])

    other = loader_of(config_of(tokens, name, seed=7), tokens)
    held_out = loader_of(config, tokens, split="held_out")
    assert not same(other.batch(2), batches[2]) and same(held_out.batch(0), held_out.batch(0))
    row = {field: (x.shape[1:], x.dtype) for field, x in fields(example_row(config)).items()}
    got = {field: (x.shape[1:], x.dtype) for field, x in fields(batches[2]).items() if "domains" not in field}
    assert row == got  # what a plan compiles for


def test_every_epoch_is_corrupted_anew(tokens):
    config = config_of(tokens, "replaced_token")
    loader, plain = loader_of(config, tokens), Loader(config.data, tokenizer_fingerprint=loader_fingerprint(tokens))
    found: dict[bytes, list[bytes]] = {}
    for k in range(2 * plain.steps_per_epoch):
        for row, weights in zip(plain.batch(k).tokens, loader.batch(k).weights, strict=True):
            found.setdefault(row.tobytes(), []).append(weights.tobytes())
    twice = [masks for masks in found.values() if len(masks) > 1]
    assert len(twice) > 50 and sum(len(set(masks)) > 1 for masks in twice) > 0.95 * len(twice)


@pytest.mark.parametrize("name", ["masked_lm", "span_corruption"])
def test_phases_of_other_lengths_are_corrupted_in_theirs(tokens, name):
    config = config_of(tokens, name, phases=[{"until": 0.5, "sequence_length": 32}, {"until": 1}])
    loader = loader_of(config, tokens, steps=20)
    shapes = [next(iter(fields(loader.batch(k)).values())).shape for k in (0, 9, 10, 19)]
    assert shapes[0] == shapes[1] and shapes[2] == shapes[3] and shapes[0][1] < shapes[2][1]
    assert shapes[0][0] == 4 * shapes[2][0]


@pytest.mark.slow
def test_worker_processes_corrupt_alike(tokens):
    config = config_of(tokens, "ul2")
    loader, working = loader_of(config, tokens), loader_of(config_of(tokens, "ul2", workers=1), tokens)
    batches = working.iterate(1)
    assert all(same(next(batches), loader.batch(k)) for k in (1, 2))


def test_a_vocabulary_without_room_for_marks_is_refused(tokens):
    tokenizer = Tokenizer.load(tokens / "tokenizer")
    tight = config_of(tokens, "span_corruption")
    tight = tight.model_copy(update={"model": tight.model.model_copy(update={"vocab_size": tokenizer.vocab_size + 2})})
    with pytest.raises(UserError, match="objective.name span_corruption: the tokenizer has no sentinels.*vocab_size="):
        make_corruption(tight, tokenizer)


@pytest.mark.parametrize(
    "tree, words",
    [
        ({"objective": {"name": "masked_lm"}}, "is not for model.architecture decoder"),
        ({"objective": {"name": "prefix_lm"}, "mesh": {"context": 2}}, "mesh.context=1"),
        ({"objective": {"name": "prefix_lm"}, "mesh": {"stage": 2}}, "has no pipeline"),
        ({"objective": {"next_sentence": True}}, "goes with objective.name masked_lm"),
        (
            {"model": ENCODER, "objective": {"name": "replaced_token"}},
            "0.25",
        ),
    ],
)
def test_objectives_that_cannot_be_are_refused_in_a_sentence(tree, words):
    with pytest.raises(UserError, match=words):
        resolve(TrainConfig, tree=tree)


def test_without_a_name_an_architecture_learns_what_it_is_for():
    models = ({}, ENCODER, PAIR)
    found = [resolve(TrainConfig, tree={"model": model}).config.objective.name for model in models]
    assert found == ["causal_lm", "masked_lm", "span_corruption"]
