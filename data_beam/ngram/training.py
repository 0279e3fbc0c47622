"""`train(config)`: an n-gram model from documents, in two jobs, its ARPA file written whole or not at all.

The first job counts: every n-gram of the highest order goes to the worker that is home to its last two words, where
all its suffixes meet, and from there the n-grams of every order go to the home of their context. What it leaves is
read by the second, which weighs each context's n-grams and sends them home again, where they are interpolated. These
are lmplz's three sorts (Heafield et al. 2013), as shuffles. No step is one process's, except the last: copying the
sections into one file.
"""

from __future__ import annotations

import dataclasses
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
from data_beam.ngram.jobs import COUNTED, count, estimate
from data_beam.ngram.prepare import Preparation
from data_beam.output import MANIFEST, Output, files_below, make_folder, read_json, write_bytes
from data_beam.runner import run
from maxllm.config.errors import UserError
from maxllm.config.perplexity import NgramConfig, PreparationConfig

logger = logging.getLogger("maxllm.progress")
DESCRIPTION = "ngram.json"
TOKENIZER = "tokenizer"
VERSION = 1
BYTES_PER_SHARD = 4_000_000  # of text: some 2.5 million n-grams, half a gigabyte of a worker's memory
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
    finished = output.finished()
    if finished == output.fingerprint and not force:
        logger.info(
            "ngram: %s is finished, from the same documents: nothing to do (--force does it again)", output.path
        )
        return read_json(output.join(DESCRIPTION))
    if finished and not force:
        raise UserError(
            f"output: {output.path} holds a model of another config or of other documents; "
            f"give another output, or --force to replace it"
        )
    folder = None if force else output.finished_run()
    if folder is None:
        counted = None if force else _counted_run(output)
        folder = output.new_run()
        preparation = _bring_tokenizer(config.preparation, folder)
        shards = config.shards or default_shards(inputs)
        progress.reset()
        if counted is None:
            counted = folder
            run(lambda pipeline: count(pipeline, config, preparation, inputs, shards, folder), beam_args)
        else:
            logger.info("ngram: an earlier run counted everything and was stopped; going on from there")
        description = describe(config, preparation, output.fingerprint, read_json(f"{counted}/{COUNTED}"))
        progress.reset()
        run(lambda pipeline: estimate(pipeline, config, description, counted, folder), beam_args)
        names = [path.removeprefix(f"{folder}/") for path in files_below(FileSystems.join(folder, TOKENIZER))]
        write_bytes(f"{folder}/{DESCRIPTION}", (json.dumps(description, indent=1, ensure_ascii=False) + "\n").encode())
        listed = {"files": [description["model"], DESCRIPTION, *names]}
        write_bytes(f"{folder}/{MANIFEST}", json.dumps(listed).encode())
    else:
        logger.info("ngram: an earlier run wrote everything and was stopped; putting its output in place")
    description = read_json(f"{folder}/{DESCRIPTION}") or read_json(output.join(DESCRIPTION))
    moves = {name: FileSystems.join(folder, *name.split("/")) for name in read_json(f"{folder}/{MANIFEST}")["files"]}
    output.commit(moves, (TOKENIZER,) if config.preparation.tokenizer else ())
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


def describe(config: NgramConfig, preparation: PreparationConfig, made_from: str, counted: dict | None) -> dict:
    """What ngram.json says. Raises UserError where the text does not give Kneser-Ney's discounts."""
    if counted is None or not counted["lines"]:
        skipped = f"; {counted['skipped']}" if counted and counted["skipped"]["count"] else ""
        raise UserError(f"documents: {config.documents} hold no line with a word in it{skipped}")
    by_order = {int(order): Statistics(**numbers) for order, numbers in counted["statistics"].items()}
    found = [
        discounts((s.n1, s.n2, s.n3, s.n4), order, config.discount_fallback) for order, s in sorted(by_order.items())
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
        "ngrams": [s.kept for _, s in sorted(by_order.items())],
        "discounts": [each for each, _ in found],
        "fallback_orders": [order for order, (_, fell_back) in enumerate(found, 1) if fell_back],
        "statistics": [dataclasses.asdict(s) for _, s in sorted(by_order.items())],
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


def _counted_run(output: Output) -> str | None:
    """A run of this config that counted everything and was stopped before the model was written. It is only read."""
    for path in files_below(output.join(".staging")):
        if path.endswith(f"/{COUNTED}") and f"/{output.fingerprint[:16]}-" in path:
            return path.removesuffix(f"/{COUNTED}")
    return None


def _tokenizer_files(config: NgramConfig) -> list[tuple[str, bytes]]:
    path = config.preparation.tokenizer
    if path is None:
        return []
    if path.endswith(".model"):
        with files.open_file(path) as stream:
            return [("tokenizer.model", stream.read())]
    from data_beam.tokens import read_tokenizer

    return list(read_tokenizer(path).files.items())


def _bring_tokenizer(preparation: PreparationConfig, folder: str) -> PreparationConfig:
    """Copies the tokenizer beside the model; its path in the result is relative to the model's folder."""
    if preparation.tokenizer is None:
        return preparation
    place = FileSystems.join(folder, TOKENIZER)
    make_folder(place)
    found = _tokenizer_files(NgramConfig(preparation=preparation))
    for name, data in found:
        write_bytes(FileSystems.join(place, name), data)
    name = f"{TOKENIZER}/tokenizer.model" if preparation.tokenizer.endswith(".model") else TOKENIZER
    return PreparationConfig(normalisation=preparation.normalisation, tokenizer=name)
