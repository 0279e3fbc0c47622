"""`train(config)`: an n-gram model from documents, in two jobs, its ARPA file written whole or not at all.

The first job counts: every n-gram of the highest order goes to the worker that is home to its last two words, where
all its suffixes meet, and from there the n-grams of every order go to the home of their context. What it leaves is
read by the second, which weighs each context's n-grams and sends them home again, where they are interpolated. These
are lmplz's three sorts (Heafield et al. 2013), as shuffles. No step is one process's, except the last: copying the
sections into one file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from typing import Any

from apache_beam.io.filesystems import FileSystems

from data_beam import progress
from data_beam.io import files
from data_beam.ngram.counts import Statistics
from data_beam.ngram.discounts import discounts
from data_beam.ngram.jobs import count, estimate
from data_beam.ngram.prepare import Preparation
from data_beam.output import Output, make_folder, read_json, write_bytes
from data_beam.phases import Phases, TemplateWritten
from maxllm.config.errors import UserError
from maxllm.config.perplexity import NgramConfig, PreparationConfig

logger = logging.getLogger("maxllm.progress")
DESCRIPTION = "ngram.json"
TOKENIZER = "tokenizer"
VERSION = 1
BYTES_PER_SHARD = 4_000_000  # of text: some 2.5 million n-grams, about half a gigabyte of a worker's memory
COMPRESSED = (".gz", ".zst", ".zstd", ".parquet")


def train(config: NgramConfig, beam_args: Sequence[str] = (), *, force: bool = False) -> dict[str, Any]:
    """The content of OUT/ngram.json. Does nothing when OUT already holds this config's model of these documents.

    `force` does it again, and replaces the output of another config. Raises UserError.
    """
    if not config.documents:
        raise UserError("documents is empty; name the curated files, e.g. documents=['runs/documents/documents/*']")
    started = time.monotonic()
    inputs = _inputs(config)
    output = Output(config.output, fingerprint(config, inputs))
    if output.is_done("ngram", force):
        return read_json(output.join(DESCRIPTION))
    progress.reset()
    phases = Phases(output, beam_args)
    preparation, brought = _bring_tokenizer(config, phases.folder)
    tokenizer = preparation.tokenizer and FileSystems.join(phases.folder, *preparation.tokenizer.split("/"))
    shards = config.shards or default_shards(inputs)
    try:
        counted = phases.run("count", lambda root, job: count(root, config, tokenizer, inputs, shards, job))
        description = describe(config, preparation, output.fingerprint, counted)
        written = phases.run("model", lambda root, job: estimate(root, config, description, counted, job))
    except TemplateWritten as template:
        logger.info("ngram: wrote the template %s; when its job is done, run the same command for the next", template)
        return {"template": str(template)}
    place = FileSystems.join(phases.folder, DESCRIPTION)
    write_bytes(place, (json.dumps(description, indent=1, ensure_ascii=False) + "\n").encode())
    moves = {description["model"]: written["model"], DESCRIPTION: place, **brought}
    output.commit(moves, (TOKENIZER,) if brought else ())
    other = output.join("model.arpa" if description["model"] == "model.arpa.gz" else "model.arpa.gz")
    if FileSystems.exists(other):  # of a config that --force replaced
        FileSystems.delete([other])
    for line in lines(description):
        logger.info("%s", line)
    logger.info("ngram: %s written in %.0f s", output.join(description["model"]), time.monotonic() - started)
    return description


def fingerprint(config: NgramConfig, inputs: list[files.File]) -> str:
    """Of everything that decides the model: the config without its place, the files as they are now."""
    tree = config.model_dump(mode="json", exclude={"output"})
    if config.preparation.tokenizer:
        Preparation(config.preparation)  # a tokenizer that cannot be read is a sentence now
        tree["tokenizer"] = [[name, hashlib.sha256(data).hexdigest()] for name, data in _tokenizer_files(config)]
    seen = [[file.path, file.size, file.written] for file in inputs]
    return hashlib.sha256(json.dumps([VERSION, tree, seen], sort_keys=True).encode()).hexdigest()


def default_shards(inputs: list[files.File]) -> int:
    """From the stored sizes alone, so that the same files always make the same model file."""
    size = sum(file.size * (4 if file.path.endswith(COMPRESSED) else 1) for file in inputs)
    return max(1, -(-size // BYTES_PER_SHARD))


def describe(config: NgramConfig, preparation: PreparationConfig, made_from: str, counted: dict) -> dict[str, Any]:
    """What ngram.json says. Raises UserError where the text does not give Kneser-Ney's discounts."""
    if not counted["lines"]:
        skipped = f"; {counted['skipped']}" if counted["skipped"]["count"] else ""
        raise UserError(f"documents: {config.documents} hold no line with a word in it{skipped}")
    by_order = [Statistics(**numbers) for numbers in counted["statistics"]]
    found = [
        discounts((s.n1, s.n2, s.n3, s.n4), order, config.discount_fallback) for order, s in enumerate(by_order, 1)
    ]
    return {
        "version": VERSION,
        "made_from": made_from,
        "model": f"model.{config.format}",
        "smoothing": "modified Kneser-Ney, interpolated (Chen and Goodman 1998; as lmplz)",
        "order": config.order,
        "documents": config.documents,
        "lines": counted["lines"],
        "words": counted["words"],
        "skipped": counted["skipped"],
        "prune": config.prune_thresholds(),
        "ngrams": [s.kept for s in by_order],
        "discounts": [each for each, _ in found],
        "fallback_orders": [order for order, (_, fell_back) in enumerate(found, 1) if fell_back],
        "statistics": counted["statistics"],
        "preparation": preparation.model_dump(),
    }


def lines(description: dict[str, Any]) -> list[str]:
    """The model in a few lines."""
    out = [f"ngram: {description['lines']:,} lines, {description['words']:,} words"]
    for order, (count_, found) in enumerate(zip(description["ngrams"], description["discounts"], strict=True), 1):
        fallback = " (fallback)" if order in description["fallback_orders"] else ""
        shown = ", ".join(f"{value:.3f}" for value in found[1:])
        out.append(f"  {order}-grams {count_:>12,}   discounts {shown}{fallback}")
    if description["skipped"]["count"]:
        out.append(
            f"  skipped {description['skipped']['count']:,} records; first: {description['skipped']['first'][0]}"
        )
    return out


def _inputs(config: NgramConfig) -> list[files.File]:
    try:
        return files.matching(config.documents)
    except UserError as error:
        raise UserError(str(error).replace("inputs:", "documents:", 1)) from error


def _tokenizer_files(config: NgramConfig) -> list[tuple[str, bytes]]:
    path = config.preparation.tokenizer
    if path is None:
        return []
    if path.endswith(".model"):
        with files.open_file(path) as stream:
            return [("tokenizer.model", stream.read())]
    from data_beam.tokens import read_tokenizer

    return list(read_tokenizer(path).files.items())


def _bring_tokenizer(config: NgramConfig, folder: str) -> tuple[PreparationConfig, dict[str, str]]:
    """Copies the tokenizer to `folder`: the preparation with its path relative to the model's folder, and its files."""
    preparation = config.preparation
    if preparation.tokenizer is None:
        return preparation, {}
    make_folder(FileSystems.join(folder, TOKENIZER))
    brought = {}
    for name, data in _tokenizer_files(config):
        brought[f"{TOKENIZER}/{name}"] = FileSystems.join(folder, TOKENIZER, name)
        write_bytes(brought[f"{TOKENIZER}/{name}"], data)
    name = f"{TOKENIZER}/tokenizer.model" if preparation.tokenizer.endswith(".model") else TOKENIZER
    return PreparationConfig(normalisation=preparation.normalisation, tokenizer=name), brought
