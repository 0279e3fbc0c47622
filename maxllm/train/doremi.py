"""DoReMi in a run: the frozen reference beside the proxy, and the mixture that comes out.

The reference is a second set of parameters, run forward beside the proxy. Its losses could be computed once and kept
(the rows are known in advance), but that is a second data format which has to be sharded, checked and kept in step with
every packing, to save one of five forward passes' worth: a step costs that of an ordinary one (3 forward passes' worth)
and a forward pass of either model.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import yaml
from flax import nnx
from jax.sharding import Mesh

from maxllm.batch import Batch
from maxllm.config.errors import UserError
from maxllm.config.train import DataConfig, ObjectiveConfig, TrainConfig
from maxllm.objectives import doremi
from maxllm.tokenizer import Tokenizer
from maxllm.train.checkpoint import load_any
from maxllm.train.metrics import Record
from maxllm.train.state import TrainState
from maxllm.train.step import Adapt, Metrics, micro_batches, sum_over
from maxllm.train.trees import fingerprints

MIXTURE = "mixture.yml"
REPORT = "doremi.json"


def uniform(data: DataConfig) -> DataConfig:
    """`data` drawn from all domains alike, as Algorithm 1 does for the proxy; its own weights are the reference's."""
    alike = {name: s.model_copy(update={"weight": float(s.weight > 0)}) for name, s in data.sources.items()}
    return data.model_copy(update={"sources": alike})


class Reference:
    """A trained model, frozen. Raises UserError unless it is there, whole, and has the run's tokenizer."""

    def __init__(self, config: TrainConfig, tokenizer: Tokenizer, mesh: Mesh) -> None:
        path = config.objective.reference or ""
        model, its_tokenizer, shape = load_any(path, mesh=mesh, dtype=config.compute.dtype)
        if its_tokenizer.fingerprint != tokenizer.fingerprint:
            raise UserError(f"objective.reference {path} has another tokenizer than the data; train it on the same")
        if shape.max_positions < config.data.sequence_length:
            raise UserError(
                f"objective.reference {path} knows {shape.max_positions} positions, fewer than data.sequence_length "
                f"{config.data.sequence_length}"
            )
        self.structure, self.parameters = nnx.split(model)

    @property
    def fingerprint(self) -> str:
        """SHA-256 that stands for every bit of the parameters."""
        prints = fingerprints({"reference": self.parameters})
        return hashlib.sha256(json.dumps(prints, sort_keys=True).encode()).hexdigest()


def make_adapt(
    structure: nnx.GraphDef,
    reference: nnx.GraphDef,
    names: Sequence[str],
    config: ObjectiveConfig,
    accumulation_steps: int,
) -> Adapt:
    """The part of a step before its gradients. `names`: of the domains. `frozen` is the reference's parameters.

    Reports `domain_weight/NAME` (alpha), `excess_loss/NAME` (lambda, nats per token) and `weight`.
    """

    def adapt(state: TrainState, batch: Batch, frozen: Any) -> tuple[Batch, doremi.DomainWeights, Metrics]:
        def found_in(batch: Batch) -> Any:
            proxy = nnx.merge(structure, state.parameters)
            return doremi.excess(proxy, nnx.merge(reference, frozen), batch, len(names))

        found = sum_over(found_in, micro_batches(batch, accumulation_steps))
        weights = doremi.update(
            state.objective, found, state.step, step_size=config.step_size, smoothing=config.smoothing
        )
        reported = {"weight": batch.weights.sum()}
        for place, name in enumerate(names):
            reported[f"domain_weight/{name}"] = weights.now[place]
            reported[f"excess_loss/{name}"] = weights.excess[place]
        return doremi.reweighted(batch, weights, found), weights, reported

    return adapt


def write(
    folder: Path, config: TrainConfig, names: Sequence[str], weights: doremi.DomainWeights, records: Sequence[Record]
) -> dict[str, float]:
    """mixture.yml, a `base:` for other runs, and doremi.json, how it came about. Returns the weights by name.

    `records`: of metrics.jsonl; at most some 1000 of their steps go into the trajectory.
    """
    average, now = (
        [round(float(value), 6) for value in jax.device_get(part)] for part in (weights.average, weights.now)
    )
    sources = config.data.sources
    baseline = {name: sources[name].weight / sum(sources[other].weight for other in names) for name in names}
    mixture = {
        name: {**sources[name].model_dump(exclude_none=True), "weight": weight}
        for name, weight in zip(names, average, strict=True)
    }
    every = max(1, len(records) // 1000)
    report = {
        "weights": dict(zip(names, average, strict=True)),
        "last": dict(zip(names, now, strict=True)),
        "baseline": baseline,
        "objective": config.objective.model_dump(),
        "steps": config.train.steps,
        "trajectory": [
            {"step": record["step"]}
            | {
                kind: {name: round(record[f"{kind}/{name}"], 6) for name in names}
                for kind in ("domain_weight", "excess_loss")
            }
            for record in records
            if f"domain_weight/{names[0]}" in record and (record["step"] % every == 0 or record is records[-1])
        ],
    }
    header = f"# Found by DoReMi in {config.train.steps} steps against {config.objective.reference}; see {REPORT}.\n"
    _replace(folder / REPORT, json.dumps(report, indent=1))
    _replace(folder / MIXTURE, header + yaml.safe_dump({"data": {"sources": mixture}}, sort_keys=False))
    return report["weights"]


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
