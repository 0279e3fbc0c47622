"""A family's model made anew at its golden folder's size, and trained for a few steps on real tokens in bfloat16."""

from __future__ import annotations

import collections
import functools
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax

from maxllm.config.errors import UserError
from maxllm.config.model import ModelConfig
from maxllm.config.train import TrainConfig
from maxllm.convert import hf
from maxllm.data.corruption import make_corruption
from maxllm.data.dataset import Dataset, read_documents
from maxllm.data.loader import Loader
from maxllm.data.masked import RATE
from maxllm.families.checks import Cell
from maxllm.models import create
from maxllm.objectives.replaced_token import DETECTION_WEIGHT
from maxllm.parallel.mesh import place_batch, single_device_mesh
from maxllm.tokenizer import Tokenizer
from maxllm.train.assembly import assemble, train_step
from maxllm.train.state import create_state

STEPS = 50
LENGTH = 32
ROWS = 32
ROOM = 64  # ids after the tokenizer's, for the marks of objectives
# How much of the way from the first step's loss (words begin at ln(vocabulary), or above) to that of who knows nothing
# but the tokens' frequencies the mean of the last ten has to have gone.
WAY = {"decoder": 0.8, "encoder": 0.4, "encoder_decoder": 0.4}
COUNTED = 1_000_000  # tokens, for their frequencies
COLUMNS = ("objective", "loss at first", f"after {STEPS} steps", "bound", "of frequencies")


class Curve(NamedTuple):
    objective: str
    losses: list[float]  # nats, of each step
    frequencies: float  # the loss of who knows these alone

    @property
    def last(self) -> float:
        """Mean of the last ten steps: batches differ."""
        return sum(self.losses[-10:]) / 10


def settings(model: ModelConfig, tokens: Path, vocabulary: int) -> TrainConfig:
    """Training for the model's own objective, in bfloat16. Raises UserError or ValidationError where there is none."""
    size, packed = vocabulary + ROOM, _packed(tokens)
    changes: dict[str, Any] = {"vocab_size": size + -size % 64, "max_positions": max(2 * LENGTH, packed)}
    objective: dict[str, Any] = {}
    if model.encoder.head == "replaced" and model.architecture == "encoder":
        changes["encoder"] = model.encoder.model_dump() | {"generator_factor": 0.5}
        objective = {"name": "replaced_token"}
    if model.encoder.head == "next_sentence" and model.architecture == "encoder":
        objective = {"name": "masked_lm", "next_sentence": True}
    return TrainConfig(
        model=model.model_dump() | changes,
        data={
            "sources": {"toy": {"path": str(tokens)}},
            "sequence_length": packed,
            "batch_size": ROWS * LENGTH // packed,
            "phases": [] if packed == LENGTH else [{"until": 1, "sequence_length": LENGTH}],
        },
        optimizer={"learning_rate": 1e-2},
        schedule={"warmup_steps": 5},
        compute={"dtype": "bfloat16"},
        train={"steps": STEPS},
        **({"objective": objective} if objective else {}),
    )


def _packed(tokens: Path) -> int:
    """The shortest length that the tokens are packed for and that rows of LENGTH can be cut from."""
    lengths = Dataset(tokens).description["sequence_lengths"]
    fitting = [length for length in lengths if length % LENGTH == 0 and ROWS * LENGTH % length == 0]
    if not fitting:
        raise UserError(
            f"{tokens} is packed for sequences of {lengths}; toy training wants {LENGTH} or twice, 4, 8 ..."
        )
    return min(fitting)


def train(model: ModelConfig, tokens: str | Path) -> Curve:
    """The loss at each of STEPS steps of ROWS x LENGTH tokens, on one device; `tokens`: of `maxllm tokenize`."""
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
    return Curve(config.objective.name, losses, _of_frequencies(config.objective.name, Path(tokens)))


@functools.cache
def _entropy(tokens: Path) -> float:
    """Of the first tokens' frequencies, nats."""
    counts: collections.Counter[int] = collections.Counter()
    for _, _, ids in read_documents(tokens, "train"):
        counts.update(ids.tolist())
        if counts.total() > COUNTED:
            break
    return -sum(n / counts.total() * math.log(n / counts.total()) for n in counts.values())


def _of_frequencies(objective: str, tokens: Path) -> float:
    """ELECTRA's detector then knows only how many tokens are masked."""
    detection = -RATE * math.log(RATE) - (1 - RATE) * math.log(1 - RATE)
    return _entropy(tokens) + (DETECTION_WEIGHT * detection if objective == "replaced_token" else 0.0)


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
    """A row: objective, first and last loss, the bound of the last, and what that is made of."""
    first, last = curve.losses[0], curve.last
    bound = first - WAY[architecture] * (first - curve.frequencies)
    failure = ""
    if not all(map(math.isfinite, curve.losses)):
        failure = f"the loss of step {1 + next(i for i, x in enumerate(curve.losses) if not math.isfinite(x))} is nan"
    elif last > bound:
        failure = f"{last:.2f} is left of {first:.2f}, and {bound:.2f} may be"
    shown = [curve.objective, f"{first:.2f}", f"{last:.2f}", f"{bound:.2f}", f"{curve.frequencies:.2f}"]
    found = dict(zip(COLUMNS, map(Cell, shown), strict=True))
    return found | {COLUMNS[2]: Cell(shown[2], failure)}
