"""A family's model made anew at its golden folder's size, and trained for a few steps on real tokens in bfloat16."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import jax

from maxllm.config.model import ModelConfig
from maxllm.config.train import TrainConfig
from maxllm.convert import hf
from maxllm.data.corruption import make_corruption
from maxllm.data.loader import Loader
from maxllm.families.checks import Cell
from maxllm.models import create
from maxllm.parallel.mesh import place_batch, single_device_mesh
from maxllm.tokenizer import Tokenizer
from maxllm.train.assembly import assemble, train_step
from maxllm.train.state import create_state

STEPS = 50
LENGTH = 32
ROOM = 64  # ids after the tokenizer's, for the marks of objectives
# Of the first step's loss, what may be left of the mean of the last ten. Words begin at ln(vocabulary), or above.
LEFT = {"decoder": 0.7, "encoder": 0.85, "encoder_decoder": 0.85}
COLUMNS = ("objective", "loss at first", f"after {STEPS} steps", "bound")


class Curve(NamedTuple):
    objective: str
    losses: list[float]  # nats, of each step

    @property
    def last(self) -> float:
        """Mean of the last ten steps: batches differ."""
        return sum(self.losses[-10:]) / 10


def settings(model: ModelConfig, tokens: Path, vocabulary: int) -> TrainConfig:
    """Training for the model's own objective, in bfloat16. Raises UserError or ValidationError where there is none."""
    size = vocabulary + ROOM
    changes: dict[str, Any] = {"vocab_size": size + -size % 64, "max_positions": 2 * LENGTH}
    objective: dict[str, Any] = {}
    if model.encoder.head == "replaced" and model.architecture == "encoder":
        changes["encoder"] = model.encoder.model_dump() | {"generator_factor": 0.5}
        objective = {"name": "replaced_token"}
    if model.encoder.head == "next_sentence" and model.architecture == "encoder":
        objective = {"name": "masked_lm", "next_sentence": True}
    return TrainConfig(
        model=model.model_dump() | changes,
        data={"sources": {"toy": {"path": str(tokens)}}, "sequence_length": LENGTH, "batch_size": 32},
        optimizer={"learning_rate": 1e-2},
        schedule={"warmup_steps": 5},
        compute={"dtype": "bfloat16"},
        train={"steps": STEPS},
        **({"objective": objective} if objective else {}),
    )


def train(model: ModelConfig, tokens: str | Path) -> Curve:
    """The loss at each of STEPS steps, on one device. `tokens`: what `maxllm tokenize` wrote, packed for LENGTH."""
    tokenizer = Tokenizer.load(Path(tokens) / "tokenizer")
    config = settings(model, Path(tokens), tokenizer.vocab_size)
    mesh, parts = single_device_mesh(), assemble(config)
    loader = Loader(
        config.data,
        tokenizer_fingerprint=tokenizer.fingerprint,
        steps=STEPS,
        corruption=make_corruption(config, tokenizer),
    )
    made = create(config.model, config.compute, mesh, config.train.seed)
    state = create_state(made, parts.optimizer, mesh, scaling=parts.scaling)[1]
    step, losses = train_step(config, parts, mesh), []
    for number in range(STEPS):
        state, metrics = step(state, place_batch(loader.batch(number), mesh))
        losses.append(float(jax.device_get(metrics["loss"])))
    return Curve(config.objective.name, losses)


def learns(folder: Path, tokens: str | Path) -> dict[str, Cell] | None:
    """A row of the second table; None for a model with a head of classes, which has no objective of pretraining."""
    model = hf.load_config(folder)
    if model.labels:
        return None
    try:
        return cells(train(model, tokens), model.architecture)
    except Exception as error:  # whatever it is, the table shows it
        return dict.fromkeys(COLUMNS, Cell("", f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"))


def cells(curve: Curve, architecture: str) -> dict[str, Cell]:
    """A row: objective, first and last loss, and what is left of the first."""
    first, last, bound = curve.losses[0], curve.last, LEFT[architecture]
    failure = ""
    if not all(map(math.isfinite, curve.losses)):
        failure = f"the loss of step {1 + next(i for i, x in enumerate(curve.losses) if not math.isfinite(x))} is nan"
    elif last > bound * first:
        failure = f"{last:.2f} is left of {first:.2f}, and {bound:.0%} may be"
    shown = Cell(curve.objective), Cell(f"{first:.2f}"), Cell(f"{last:.2f}", failure), Cell(f"{bound * first:.2f}")
    return dict(zip(COLUMNS, shown, strict=True))
