"""`tokenize(config)`: documents to token shards, each written whole or not at all.

Two passes. The first, unless a tokenizer is given, takes a seeded sample and trains one. The second turns documents
into records, groups those by shard, and lets one worker write a shard with its packings. Which shard a document goes
to and where it stands there depend on its id alone, so that the files are the same bytes on one process or a thousand.
Both passes are phases: a run that was killed between them goes on with the second.
A shard is sorted in one worker's memory: choose `shards` so that one holds a few hundred megabytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.io.filesystems import FileSystems

from data_beam import progress
from data_beam.document import DeadLetter, Document
from data_beam.io import files
from data_beam.io.documents import read_batches
from data_beam.output import Output, read_json, write_bytes
from data_beam.phases import Job, Phases, TemplateWritten
from data_beam.runner import run
from data_beam.select.age import year_of
from data_beam.shard import Shard, add_packings, write_shard
from data_beam.token_format import (
    DATASET,
    SPLITS,
    TOKENIZER,
    VERSION,
    document_records,
    hash64,
    pack_record,
    shard_name,
    split_of,
    token_dtype,
)
from data_beam.tokenizer_training import SmallestSample, train_tokenizer
from maxllm.config.errors import UserError
from maxllm.config.tokenize import TokenizeConfig, TokenizerConfig
from maxllm.tokenizer import Tokenizer
from maxllm.tokenizer_files import NAMES, canonical

logger = logging.getLogger("maxllm.progress")
SHOWN_FAILURES = 20


def tokenize(config: TokenizeConfig, beam_args: Sequence[str] = (), *, force: bool = False) -> dict[str, Any]:
    """The content of OUT/dataset.json. Does nothing when OUT already holds it; adds packings that are missing.

    `force` does it again, and replaces the output of another config. Raises UserError.
    """
    if not config.documents:
        raise UserError("documents is empty; name the curated files, e.g. documents=['runs/documents/documents/*']")
    started = time.monotonic()
    inputs = _inputs(config)
    output = Output(config.output, fingerprint(config, inputs))
    if output.is_done("tokenize", force):
        return _finished(config, output, beam_args)
    progress.reset()
    phases = Phases(output, beam_args)
    try:
        tokenizer = phases.run("tokenizer", partial(_tokenizer, config, inputs))["files"]
        if not tokenizer:
            raise UserError(f"documents: {config.documents} hold no document to train a tokenizer on")
        header = _header(config, read_tokenizer(tokenizer["tokenizer"]), output.fingerprint)
        written = phases.run("shards", partial(_shards, config, inputs, tokenizer["tokenizer"], header))
    except TemplateWritten as template:
        logger.info("tokenize: wrote the template %s; run its job, then the same command for the next", template)
        return {"template": str(template)}
    dataset = read_json(written["files"][DATASET])
    if not dataset["shards"]:
        raise UserError(f"documents: {config.documents} hold no document that could be read; {dataset['skipped']}")
    named = {f"{TOKENIZER}/{name}": path for name, path in tokenizer.items() if name != "tokenizer"}
    output.commit(written["files"] | named, (*SPLITS, TOKENIZER))
    for line in lines(dataset):
        logger.info("%s", line)
    logger.info("tokenize: %s written in %.0f s", output.path, time.monotonic() - started)
    return dataset


def fingerprint(config: TokenizeConfig, inputs: list[files.File]) -> str:
    """Of everything that decides the shards: the config without its place and packings, the files as they are now."""
    tree = config.model_dump(mode="json", exclude={"output", "sequence_lengths"})
    if config.tokenizer.path:
        tree["tokenizer"] = read_tokenizer(config.tokenizer.path).fingerprint
    seen = [[file.path, file.size, file.written] for file in inputs]
    return hashlib.sha256(json.dumps([VERSION, tree, seen], sort_keys=True).encode()).hexdigest()


def lines(dataset: dict[str, Any]) -> list[str]:
    """What was written, a line for each source and split."""
    out = []
    for split, sources in dataset["counts"].items():
        for source, count in sources.items():
            ratio = count["bytes"] / max(count["tokens"], 1)
            out.append(
                f"  {split:<9}{source:<16} {count['documents']:,} documents, {count['tokens']:,} tokens, "
                f"{count['bytes'] / 1e6:.1f} MB, {ratio:.2f} bytes a token"
            )
    if dataset["skipped"]["count"]:
        out.append(f"  skipped {dataset['skipped']['count']:,} records; the first: {dataset['skipped']['first'][0]}")
    return out


def read_tokenizer(path: str) -> Tokenizer:
    """`Tokenizer.load` from wherever Beam can read."""
    if "://" not in path:
        return Tokenizer.load(path)
    if path.endswith((".model", ".json")):
        paths = {"tokenizer" + path[path.rindex(".") :]: path}
    else:
        paths = {name: FileSystems.join(path, name) for name in NAMES}
    found = {name: _read(place) for name, place in paths.items() if FileSystems.exists(place)}
    try:
        return Tokenizer(canonical(found))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _read(path: str) -> bytes:
    with files.open_file(path) as stream:
        return stream.read()


def _inputs(config: TokenizeConfig) -> list[files.File]:
    try:
        return files.matching(config.documents)
    except UserError as error:
        raise UserError(str(error).replace("inputs:", "documents:", 1)) from error


def _finished(config: TokenizeConfig, output: Output, beam_args: Sequence[str]) -> dict[str, Any]:
    dataset = read_json(output.join(DATASET))
    missing = sorted(set(config.sequence_lengths) - set(dataset["sequence_lengths"]))
    if not missing:
        return dataset
    shards = [Shard(**shard) for shard in dataset["shards"]]
    logger.info("tokenize: %s lacks a packing; planning sequences of %s", output.path, missing)
    lengths = sorted({*dataset["sequence_lengths"], *missing})

    def build(pipeline: beam.Pipeline) -> None:
        planned = (
            pipeline
            | beam.Create(shards)
            | beam.Reshuffle()
            | "Plan" >> beam.Map(add_packings, output.path, missing)
            | beam.combiners.ToList()
        )
        written = {**dataset, "sequence_lengths": lengths}
        planned | "WriteDataset" >> beam.Map(_write_dataset, output.path, written)

    run(build, beam_args)
    return read_json(output.join(DATASET))


def _tokenizer(config: TokenizeConfig, inputs: list[files.File], root: beam.Pipeline, job: Job) -> None:
    """The tokenizer brought along, or trained now: its files by name, `tokenizer` the folder they are in."""
    if config.tokenizer.path:
        root | beam.Create([config.tokenizer.path], reshuffle=False) | beam.Map(_copy_tokenizer, job)
        return
    logger.info("tokenize: training a %s tokenizer of %d", config.tokenizer.algorithm, config.tokenizer.vocab_size)
    (
        _batches(root, inputs).documents
        | "Sample" >> beam.CombineGlobally(SmallestSample(config.tokenizer))
        | "Train" >> beam.Map(_train, config.tokenizer, job)
    )


def _copy_tokenizer(path: str, job: Job) -> None:
    _write_tokenizer(read_tokenizer(path).files, job)


def _train(texts: list[str], config: TokenizerConfig, job: Job) -> None:
    _write_tokenizer({"tokenizer.model": train_tokenizer(texts, config)} if texts else {}, job)


def _write_tokenizer(content: dict[str, bytes], job: Job) -> None:
    for name, data in content.items():
        write_bytes(job.path(name), data)
    job.finish(files={name: job.path(name) for name in content} | ({"tokenizer": job.folder} if content else {}))


def _batches(pipeline: beam.Pipeline, inputs: list[files.File]) -> Any:
    """`.documents`: lists of documents of about a megabyte; `.dead`: what could not be read."""
    return (
        pipeline
        | "Files" >> beam.Create([file.path for file in inputs])
        | beam.Reshuffle()
        | "Read" >> beam.FlatMap(_tagged).with_outputs("dead", main="documents")
    )


def _tagged(path: str) -> Iterator[Any]:
    for item in read_batches(path):
        yield beam.pvalue.TaggedOutput("dead", item) if isinstance(item, DeadLetter) else item


def _shards(
    config: TokenizeConfig,
    inputs: list[files.File],
    tokenizer: str,
    header: dict[str, Any],
    root: beam.Pipeline,
    job: Job,
) -> None:
    read = _batches(root, inputs)
    shards = (
        read.documents
        | "Encode" >> beam.ParDo(Encode(config, tokenizer))
        | "Gather" >> beam.GroupByKey()
        | "Write" >> beam.Map(write_shard, job.folder, config.sequence_lengths)
        | beam.combiners.ToList()
    )
    count = read.dead | "CountDead" >> beam.combiners.Count.Globally()
    first = read.dead | "FirstDead" >> beam.combiners.Top.Smallest(SHOWN_FAILURES, key=_where)
    shards | "WriteDataset" >> beam.Map(
        _write_first, job, header, beam.pvalue.AsSingleton(count), beam.pvalue.AsSingleton(first)
    )


def _where(letter: DeadLetter) -> tuple[str, str]:
    return (letter.where, letter.error)


class Encode(beam.DoFn):
    """Lists of documents -> (split, source, shard), (year, record)."""

    def __init__(self, config: TokenizeConfig, tokenizer_path: str) -> None:
        self._held_out, self._shards, self._path = config.held_out, config.shards, tokenizer_path

    def setup(self) -> None:
        self._tokenizer = read_tokenizer(self._path)
        self._dtype = token_dtype(self._tokenizer.vocab_size)

    def process(self, documents: list[Document]) -> Iterator[tuple[tuple[str, str, str], tuple[str, bytes]]]:
        encoded = self._tokenizer.encode_batch([document.text for document in documents], bos=True, eos=True)
        for document, ids in zip(documents, encoded, strict=True):
            group = str(document.metadata.get("group") or document.id)
            split = split_of(group, self._held_out.fraction, self._held_out.seed)
            shard = shard_name(split, document.source, hash64("shard", document.id) % self._shards, self._shards)
            tokens = np.asarray(ids, self._dtype)
            progress.count("documents tokenized")
            size, year = len(document.text.encode("utf-8", "replace")), year_of(document)
            for record in document_records(document.id, tokens, size, hash64("group", group)):
                yield (split, document.source, shard), (year, pack_record(record))


def _header(config: TokenizeConfig, tokenizer: Tokenizer, made_from: str) -> dict[str, Any]:
    return {
        "version": VERSION,
        "made_from": made_from,
        "documents": config.documents,
        "tokenizer": {
            "fingerprint": tokenizer.fingerprint,
            "vocab_size": tokenizer.vocab_size,
            "bos_id": tokenizer.bos_id,
            "eos_id": tokenizer.eos_id,
            "pad_id": tokenizer.pad_id,
        },
        "held_out": {**config.held_out.model_dump(), "rule": "a hash of metadata.group, else of the id"},
        "sequence_lengths": sorted(set(config.sequence_lengths)),
    }


def _write_first(shards: list[Shard], job: Job, header: dict[str, Any], dead: int, first: list[DeadLetter]) -> None:
    """dataset.json, and the manifest of a job that has written everything else."""
    skipped = {"count": dead, "first": [dataclasses.asdict(letter) for letter in first]}
    _write_dataset(shards, job.folder, {**header, "skipped": skipped})
    made = [DATASET, *(file["path"] for shard in shards for file in shard.all_files())]
    job.finish(files={name: job.path(*name.split("/")) for name in made})


def _write_dataset(shards: list[Shard], folder: str, header: dict[str, Any]) -> None:
    shards = sorted(shards, key=lambda shard: shard.name)
    sources = sorted({shard.source for shard in shards})
    counts: dict[str, dict[str, dict[str, int]]] = {split: {} for split in SPLITS}
    for shard in shards:
        total = counts[shard.split].setdefault(shard.source, {"documents": 0, "tokens": 0, "bytes": 0})
        for name in total:
            total[name] += getattr(shard, name)
    years = {source: _shares([shard.years for shard in shards if shard.source == source]) for source in sources}
    dataset = {**header, "counts": counts, "years": years, "shards": [dataclasses.asdict(shard) for shard in shards]}
    write_bytes(FileSystems.join(folder, DATASET), (json.dumps(dataset, indent=1, ensure_ascii=False) + "\n").encode())


def _shares(years: list[dict[str, int]]) -> dict[str, float]:
    """The share of tokens of each year, of all splits together: how old a source is."""
    total: Counter[str] = Counter()
    for tokens in years:
        total.update(tokens)
    return {year: round(total[year] / total.total(), 6) for year in sorted(total)}
