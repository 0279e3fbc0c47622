"""`estimate(config)`: what a run will keep, take and cost, from a sample, before it is started.

Some pieces of every input (files, mostly) are read whole and a simple random sample of their documents goes through
the stages here, timed. Totals are ratio estimates over the pieces (Cochran 1977, "Sampling Techniques", chapter 6);
intervals are the middle 95 % of a bootstrap that draws pieces, and documents inside them, again.
"""

from __future__ import annotations

import heapq
import logging
import math
import os
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np
import xxhash

from data_beam.child import describe
from data_beam.curation import Finish, as_written, stages_after_extraction, stages_before_extraction, step_of
from data_beam.document import DeadLetter, Document, Drop, Rejected
from data_beam.io import files, source
from data_beam.output import read_json
from data_beam.parts import WriteParts, to_line, to_record
from data_beam.phases import Job
from data_beam.pipeline import check_paths, check_stages, needs_verdicts, pass_verdicts
from data_beam.runner import run
from data_beam.shuffled import count_shuffled, shuffled_bytes
from data_beam.stages.extract import Extract
from data_beam.verdicts import Part, ReadParts
from maxllm.config.curate import CurateConfig, InputConfig
from maxllm.config.dedup import DedupIndexConfig
from maxllm.config.errors import UserError
from maxllm.config.prices import PricesConfig

logger = logging.getLogger("maxllm.progress")
PIECES = 8  # of an input
REPLICATES = 400
FEW = 10  # documents of the run that tells what starting a job costs
BYTES_PER_TOKEN = 4.0  # English text under a vocabulary of 32,000 to 128,000: 3.8 to 4.6


@dataclass
class Piece:
    """One piece of an input that was read: its weight, how many documents are in it, and a sample of them."""

    weight: float
    documents: int = 0
    read_seconds: float = 0.0
    sample: list[Document | Rejected | DeadLetter] = field(default_factory=list)
    rows: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))  # float64 [sample, columns]


@dataclass
class Sampled:
    """An input: the pieces read and the weight of all there are."""

    name: str
    pieces: list[Piece]
    total_weight: float
    all_pieces: int


def estimate(
    config: CurateConfig, prices: PricesConfig, *, documents: int = 2000, total_bytes: float | None = None
) -> dict[str, Any]:
    """The numbers of the estimate, each `[low, best, high]`. `total_bytes`: as if the inputs were that large.

    Raises UserError.
    """
    if not config.inputs:
        raise UserError("inputs is empty; name at least one source of documents")
    check_paths(config)
    check_stages(config)
    inputs = [_sample(each, math.ceil(documents / len(config.inputs))) for each in config.inputs]
    columns = _process(config, inputs)
    later = _later(config, [outcome for each in inputs for piece in each.pieces for outcome in piece.sample])
    stored = sum(_stored(each) for each in config.inputs)
    scale = total_bytes / stored if total_bytes and stored else 1.0
    if total_bytes and not stored:
        raise UserError("--at scales by the size of input files, and these inputs have none; leave it out")
    generators = [None, *map(np.random.default_rng, range(1, REPLICATES))]
    draws = scale * np.array([_totals(inputs, columns, draw, exact=scale == 1.0) for draw in generators])
    values = {name: _interval(draws[:, place]) for place, name in enumerate(columns)}
    return _result(config, prices, values, later, stored * scale, inputs)


def _sample(config: InputConfig, wanted: int) -> Sampled:
    works = list(source.format_module(config).list_work(config))
    if not works:
        raise UserError(f"inputs: {config.paths} hold nothing to read")
    sizes = (
        {} if config.format.startswith("python-") else {file.path: file.size for file in files.matching(config.paths)}
    )
    weights = [sum(sizes.get(name, 0) for name in work.names) if not work.stop else 0 for work in works]
    if not all(weights):
        weights = [1] * len(works)  # pieces inside files, or made on the spot: taken to be alike
    order = sorted(range(len(works)), key=lambda n: _hash(f"{works[n].names}{works[n].start}"))[:PIECES]
    pieces = []
    for number in order:
        piece, kept = Piece(weights[number]), []
        started = time.process_time()
        for item in source.read(config, works[number]):
            piece.documents += 1
            name = (
                item.where
                if isinstance(item, DeadLetter)
                else (item.document if isinstance(item, Rejected) else item).id
            )
            entry = (-_hash(name), piece.documents, item)
            if len(kept) < math.ceil(wanted / len(order)):
                heapq.heappush(kept, entry)
            elif entry > kept[0]:
                heapq.heapreplace(kept, entry)
        piece.read_seconds = time.process_time() - started
        piece.sample = [item for _, _, item in sorted(kept, key=lambda entry: entry[1])]
        pieces.append(piece)
        logger.info("estimate: read %s documents of %s", f"{piece.documents:,}", works[number].names[0])
    return Sampled(config.name or config.format, pieces, float(sum(weights)), len(works))


def _hash(name: str) -> int:
    return xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogateescape"))


def _stored(config: InputConfig) -> int:
    if config.format.startswith("python-"):
        return 0
    return sum(file.size for file in files.matching(config.paths))


def _process(config: CurateConfig, inputs: list[Sampled]) -> list[str]:
    """Takes every sampled document through the stages, in place; fills `rows`. The names of their columns."""
    steps: list[tuple[str, Any]] = [(stage.name, step_of(stage, config)) for stage in stages_before_extraction(config)]
    extract = Extract(config.extract) if config.extract.enabled else None
    if extract:
        steps.append((extract.name, extract))
    steps += [(stage.name, step_of(stage, config)) for stage in stages_after_extraction(config)]
    names = list(dict.fromkeys(["read", *(name for name, _ in steps)]))
    columns = ["read", "kept", "bytes", "seconds", *(f"dropped {name}" for name in names), "dead"]
    place = {name: number for number, name in enumerate(columns)}
    for piece in (piece for each in inputs for piece in each.pieces):
        piece.rows = np.zeros((len(piece.sample), len(columns)))
        per_document = piece.read_seconds / max(piece.documents, 1)
        for row, item in enumerate(piece.sample):
            started = time.process_time()
            outcome, stage, waited = _outcome(steps, item)
            values = piece.rows[row]
            values[place["read"]] = 1
            values[place["seconds"]] = per_document + time.process_time() - started + waited
            if isinstance(outcome, Document):
                values[place["kept"]] = 1
                values[place["bytes"]] = len(outcome.text.encode("utf-8", "replace"))
            else:
                values[place["dead" if isinstance(outcome, DeadLetter) else f"dropped {stage}"]] = 1
            piece.sample[row] = outcome
    if extract:
        extract.close()
    return columns


def _outcome(steps: list[tuple[str, Any]], item: Any) -> tuple[Document | Rejected | DeadLetter, str, float]:
    """(what became of it, the stage that ended its way, seconds waited for a child process that worked on it)"""
    waited = 0.0
    if not isinstance(item, Document):
        return item, "read", waited
    document = item
    for name, step in steps:
        began, computed = time.perf_counter(), time.process_time()
        try:
            result = step(document)
        except Exception as error:
            return DeadLetter(document.id, name, describe(error)), name, waited
        finally:
            if name == Extract.name:
                waited += max(0.0, time.perf_counter() - began - (time.process_time() - computed))
        if isinstance(result, Drop):
            return Rejected(document, result), name, waited
        document = result
    return document, "", waited


def _totals(inputs: list[Sampled], columns: list[str], draw: np.random.Generator | None, *, exact: bool) -> np.ndarray:
    """One estimate of every column's total; with a generator, from pieces and documents drawn again."""
    total = np.zeros(len(columns))
    for each in inputs:
        pieces = [piece for piece in each.pieces if piece.documents]
        if not pieces:
            continue
        # All pieces were read, and stand for nothing else: how many documents there are is known.
        whole = exact and len(each.pieces) == each.all_pieces
        chosen = pieces if draw is None or whole else [pieces[n] for n in draw.integers(0, len(pieces), len(pieces))]
        weight, sums = 0.0, np.zeros(len(columns))
        for piece in chosen:
            rows = piece.rows
            if draw is not None and (len(rows) < piece.documents or not exact):
                rows = rows[draw.integers(0, len(rows), len(rows))]
            weight += piece.weight
            sums += rows.mean(0) * piece.documents
        read = sum(piece.weight for piece in each.pieces) if whole else weight
        total += sums * (each.total_weight / read)
    return total


def _interval(values: np.ndarray) -> list[float]:
    """[2.5 %, the estimate itself (the first value), 97.5 %]"""
    low, high = np.percentile(values, [2.5, 97.5])
    return [float(min(low, values[0])), float(values[0]), float(max(high, values[0]))]


def _later(config: CurateConfig, outcomes: list[Any]) -> dict[str, Any]:
    """The phases after the first, run on the sample's survivors: their time, what they shuffle, what they drop.

    A job costs some time before its first document; a run over a few documents tells how much, and is taken off.
    """
    survivors = [outcome for outcome in outcomes if isinstance(outcome, Document)]
    found: dict[str, Any] = {"documents": len(survivors), "phases": {}, "compression": 0.3}
    if not survivors:
        return found
    few = survivors[:FEW] if len(survivors) > 10 * FEW else []
    start = _run_later(config, few) if few else {"phases": {}}
    whole = _run_later(config, survivors)
    for name, (seconds, shuffled) in whole.pop("phases").items():
        before = start["phases"].get(name, (0.0, 0))
        more = len(survivors) - len(few)
        found["phases"][name] = {
            "seconds_per_document": max(0.0, seconds - before[0]) / more,
            "shuffled_bytes_per_document": max(0, shuffled - before[1]) / more,
        }
    return found | whole


def _run_later(config: CurateConfig, survivors: list[Document]) -> dict[str, Any]:
    phases: dict[str, tuple[float, int]] = {}  # CPU seconds, bytes shuffled
    with tempfile.TemporaryDirectory(prefix="maxllm-estimate-") as folder:
        writer = WriteParts(folder, "jsonl.zst")
        writer.start_bundle()
        lines = 0
        for document in survivors:
            list(writer.process(document))
            lines += len(to_line(to_record(as_written(document, config))))
        paths = [windowed.value[0] for windowed in writer.finish_bundle()]
        parts = [Part(number, path) for number, path in enumerate(paths)]

        def measured(name: str, build: Any) -> dict[str, Any]:
            job = Job(os.path.join(folder, name), os.path.join(folder, f"{name}.json"))
            os.mkdir(job.folder)
            started = time.process_time()
            result = run(partial(_counted, build, job))
            phases[name] = (time.process_time() - started, shuffled_bytes(result))
            return read_json(job.manifest)

        apart = config.model_copy(update={"dedup_index": DedupIndexConfig()})  # the sample is no set to remember
        if needs_verdicts(config):
            parts = pass_verdicts(apart, parts, measured)
            measured("write", lambda root, job: root | Finish(config, parts, job))
        dropped = [each for part in parts for each in ReadParts(outcomes=True).process(part)]
        return {
            "phases": phases,
            "compression": files.matching(paths)[0].size / lines,
            "line_bytes": lines / max(1, sum(len(each.text.encode("utf-8", "replace")) for each in survivors)),
            "dropped": sum(isinstance(each, Rejected) for each in dropped),
        }


def _counted(build: Any, job: Job, root: beam.Pipeline) -> None:
    build(root, job)
    count_shuffled(root)


def _result(
    config: CurateConfig,
    prices: PricesConfig,
    values: dict[str, list[float]],
    later: dict[str, Any],
    stored: float,
    inputs: list[Sampled],
) -> dict[str, Any]:
    """JSON's types; triples are [low, best, high]."""
    kept, text = values["kept"], values["bytes"]
    after = [phase["seconds_per_document"] for phase in later["phases"].values()]
    shuffled = sum(phase["shuffled_bytes_per_document"] for phase in later["phases"].values())
    hours = [(seconds + sum(after) * count) / 3600 for seconds, count in zip(values["seconds"], kept, strict=True)]
    written = [size * later.get("line_bytes", 1.0) * later["compression"] for size in text]
    gib = [shuffled * count / 2**30 for count in kept]
    hour = (prices.vcpu_hour + prices.memory_gib_hour * prices.memory_gib_per_vcpu) / prices.utilisation
    return {
        "sampled": {
            "documents": sum(len(piece.sample) for each in inputs for piece in each.pieces),
            "pieces": {each.name: [len(each.pieces), each.all_pieces] for each in inputs},
        },
        "input_bytes": stored,
        "read": values["read"],
        "stages": {
            name.removeprefix("dropped "): _share(triple, values["read"])
            for name, triple in values.items()
            if name.startswith("dropped ") and triple[1]
        },
        "dead": _share(values["dead"], values["read"]),
        "kept_before_dedup": kept,
        "duplicates_in_sample": [later.get("dropped", 0), later["documents"]],
        "text_bytes": text,
        "tokens": [size / BYTES_PER_TOKEN for size in text],
        "output_bytes": written,
        "between_bytes": written if later["phases"] else [0.0, 0.0, 0.0],
        "shuffled_bytes_per_document": shuffled,
        "phases": later["phases"],
        "shuffled_gib": gib,
        "cpu_hours": hours,
        "dollars": [h * hour + g * prices.shuffle_gib for h, g in zip(hours, gib, strict=True)],
        "prices": prices.model_dump(mode="json"),
    }


def _share(part: list[float], whole: list[float]) -> list[float]:
    """Of documents read. The count of all of them is known better than the share, so its best value divides."""
    return [value / whole[1] for value in part] if whole[1] else part


def lines(result: dict[str, Any]) -> list[str]:
    """The estimate as a person reads it."""

    def about(triple: list[float], unit: str = "") -> str:
        low, best, high = (f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in triple)
        return f"{best}{unit}" if low == high else f"{best}{unit}  ({low} to {high})"

    def size(triple: list[float], unit: str) -> str:
        power = min(4, max(0, int(math.log10(max(triple[1], 1)) // 3)))
        return about([value / 1000**power for value in triple], f" {' kMGT'[power].strip()}{unit}")

    sampled, (copies, survivors) = result["sampled"], result["duplicates_in_sample"]
    pieces = ", ".join(f"{name} {read} of {total}" for name, (read, total) in sampled["pieces"].items())
    out = [
        f"from {sampled['documents']:,} documents of these pieces: {pieces}; in brackets 95 %",
        f"documents read         {about(result['read'])}",
    ]
    for name, share in sorted(result["stages"].items(), key=lambda item: -item[1][1]):
        out.append(f"  dropped by {name:<12}{about([100 * value for value in share], ' %')}")
    if result["dead"][2]:
        out.append(f"  failed               {about([100 * value for value in result['dead']], ' %')}")
    rate = f"; in the sample {copies:,} of {survivors:,}, and more in the whole" if result["phases"] else ""
    out += [
        f"kept before duplicates {about(result['kept_before_dedup'])}{rate}",
        f"text                   {size(result['text_bytes'], 'B')}",
        f"tokens                 {size(result['tokens'], '')}  (at {BYTES_PER_TOKEN:g} bytes a token)",
        f"output files           {size(result['output_bytes'], 'B')}",
        f"between phases         {size(result['between_bytes'], 'B')}",
        f"shuffled               {size([2**30 * value for value in result['shuffled_gib']], 'B')}"
        f"  ({result['shuffled_bytes_per_document']:,.0f} bytes a document)",
        f"CPU hours              {about(result['cpu_hours'])}  (of one core of this machine)",
        f"Dataflow               {about(result['dollars'], ' dollars')}  (prices: --prices)",
    ]
    return out
