"""`maxllm eval`: the model at one path, measured and written down.

OUT/results.json           all numbers
OUT/report.md              the tables, with what they mean
OUT/samples-<task>.jsonl   every item of a task: what was asked, what came, how it was judged
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from maxllm import __version__
from maxllm.config.errors import UserError
from maxllm.config.evaluate import EvalConfig
from maxllm.config.model import ModelConfig
from maxllm.eval import lm_eval_tasks, tables
from maxllm.eval.answers import Answers
from maxllm.eval.held_out import score_dataset
from maxllm.eval.progress import Meter
from maxllm.eval.scorer import Scorer
from maxllm.models.decoder import Decoder
from maxllm.parallel import compilation_cache
from maxllm.tokenizer import Tokenizer


def evaluate(config: EvalConfig) -> dict[str, Any]:
    """Everything `config` asks for; returns what results.json holds.

    Raises UserError for what a user can mend, before the model is loaded where that can be known.
    """
    from maxllm.train.checkpoint import load_any

    if not config.model:
        raise UserError("model is empty; name a run directory or a Hugging Face folder")
    run = _run_settings(config.model)
    unknown = sorted(config.data_files.keys() - set(config.tasks))
    if unknown:
        raise UserError(f"data_files names {unknown[0]}, which is not among the tasks; add it: --tasks {unknown[0]}")
    tasks = [lm_eval_tasks.prepare(name, config.data_files.get(name)) for name in config.tasks]
    datasets = _datasets(config, run)
    output = Path(config.output or _beside(config.model))
    compilation_cache.enable()
    began = time.perf_counter()
    model, tokenizer, shape = load_any(config.model, dtype=config.dtype)
    context = _context(config, run, shape)
    results: dict[str, Any] = {
        "model": config.model,
        "maxllm": __version__,
        "dtype": config.dtype,
        "context_length": context,
        "tokenizer": tokenizer.fingerprint,
    }
    with Meter() as meter:
        scorer = Scorer(model, context=context, batch_tokens=config.batch_tokens)
        if datasets:
            results["bits_per_byte"] = {
                path: score_dataset(scorer, tokenizer, path, max_documents=config.max_documents, meter=meter)
                for path in datasets
            }
        samples: dict[str, list[dict[str, Any]]] = {}
        if tasks:
            results["tasks"] = _run_tasks(tasks, config, model, tokenizer, scorer, meter)
            samples = {name: found.pop("samples") for name, found in results["tasks"].items()}
    results["seconds"] = round(time.perf_counter() - began, 1)
    _write(output, results, samples)
    return results | {"output": str(output)}


def _run_tasks(
    tasks: Iterable[lm_eval_tasks.Task],
    config: EvalConfig,
    model: Decoder,
    tokenizer: Tokenizer,
    scorer: Scorer,
    meter: Meter,
) -> dict[str, Any]:
    lm_eval_tasks.configure_offline()
    from maxllm.eval.lm_eval_adapter import MaxllmLM

    found = {}
    with (
        Answers(model, tokenizer, context=scorer.context, batch_tokens=config.batch_tokens) as answers,
        tempfile.TemporaryDirectory(prefix="maxllm-eval-") as scratch,
    ):
        lm = MaxllmLM(scorer, tokenizer, answers)
        for task in tasks:
            lm.progress = lambda what, done, total, name=task.name: meter(f"{name}: {what}", done, total)
            found[task.name] = lm_eval_tasks.run(lm, task, limit=config.limit, scratch=Path(scratch))
    return found


def _run_settings(model: str) -> dict[str, Any]:
    """config.yml of the run that `model` is, or is a checkpoint of; {} for a Hugging Face folder."""
    for folder in (Path(model), Path(model).parent.parent):
        if (folder / "config.yml").is_file():
            settings = yaml.safe_load((folder / "config.yml").read_text())
            return settings if isinstance(settings, dict) else {}
    return {}


def _datasets(config: EvalConfig, run: Mapping[str, Any]) -> list[str]:
    if config.tokens or config.tasks:
        return list(config.tokens)
    paths = list(dict.fromkeys(source["path"] for source in run.get("data", {}).get("sources", {}).values()))
    if not paths:
        raise UserError(
            f"{config.model} does not say which data it was trained on; give tokens=[FOLDER] (of `maxllm tokenize`) "
            "for held-out bits per byte, or --tasks"
        )
    return paths


def _context(config: EvalConfig, run: Mapping[str, Any], shape: ModelConfig) -> int:
    if config.context_length is not None:
        if config.context_length > shape.max_positions:
            raise UserError(f"context_length {config.context_length} is over the model's {shape.max_positions}")
        return config.context_length
    # Rotary positions beyond those seen in training mean nothing to the model.
    trained = run.get("data", {}).get("sequence_length", shape.max_positions)
    return min(trained, shape.max_positions)


def _beside(model: str) -> Path:
    path = Path(model)
    if path.parent.name == "checkpoints":
        return path.parent.parent / "eval" / f"step-{path.name}"
    return path / "eval"


def _write(output: Path, results: dict[str, Any], samples: Mapping[str, list[dict[str, Any]]]) -> None:
    output.mkdir(parents=True, exist_ok=True)
    texts = {f"samples-{name}.jsonl": "".join(_line(row) for row in rows) for name, rows in samples.items()}
    texts["results.json"] = json.dumps(results, indent=1) + "\n"
    texts["report.md"] = tables.markdown(results)
    for name, text in texts.items():
        partial = output / f"{name}.partial"
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, output / name)


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, default=str) + "\n"
