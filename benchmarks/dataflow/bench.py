"""What 10 TB would take on Dataflow: `maxllm curate ... --estimate --at 10TB` on real pages, and the same by hand.

python benchmarks/dataflow/bench.py                      # needs the shared data folder; writes RESULTS.md
python benchmarks/dataflow/bench.py --at 1e12 --sample 300 --results first-look.md
"""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
sys.path.insert(0, str(REPOSITORY))

from data_beam.dedup.nodes import node  # noqa: E402
from data_beam.dedup.signature import MinHasher  # noqa: E402
from data_beam.document import Document, document_id  # noqa: E402
from data_beam.estimate import estimate, lines  # noqa: E402
from data_beam.io import files  # noqa: E402
from data_beam.io.documents import read_documents  # noqa: E402
from data_beam.parts import WriteParts  # noqa: E402
from data_beam.text.signals import Signals  # noqa: E402
from data_beam.verdicts import name_in_run  # noqa: E402
from maxllm.config.curate import CurateConfig  # noqa: E402
from maxllm.config.load import resolve  # noqa: E402
from maxllm.config.prices import PricesConfig  # noqa: E402

# Pages as crawled, HTML and all, and pages as text.
CRAWL = ("web/warc/dolma/*.warc.gz", "web/warc/chatnoir-resiliparse/warcfile.warc.gz", "web/warc/jwarc/cc.warc.gz")
TEXTS = ("corpus/c4_demo.jsonl.gz", "corpus/dolma_cc/*.jsonl.gz", "quality/dclm_majority_data.jsonl.gz")
TEXT = "pages as text (JSON lines, gzip)"
BANDS = 14
VCPUS = 1000
GIB = 2**30


def configs(shared: Path) -> dict[str, CurateConfig]:
    preset = resolve(CurateConfig, "curate/web").config.model_dump()
    crawl = {"format": "warc", "name": "crawl", "paths": [str(shared / path) for path in CRAWL]}
    texts = {"format": "jsonl", "name": "text", "paths": [str(shared / path) for path in TEXTS]}
    return {
        "pages as crawled (WARC, gzip)": CurateConfig.model_validate({**preset, "inputs": [crawl]}),
        TEXT: CurateConfig.model_validate({**preset, "inputs": [texts], "extract": {"enabled": False}}),
    }


def by_hand(config: CurateConfig) -> dict[str, float]:
    """Bytes that a document which nobody resembles puts into shuffles, from what it is made of."""
    id = name_in_run(document_id("crawl", "https://example.org/"), 0, 0)
    name = len(node(Document(id, "", "crawl", "2024-01-01T00:00:00Z")))
    hasher = MinHasher(config.fuzzy_dedup)
    keys = hasher.band_keys(hasher.hashes(Signals("one two three four five six")))
    # Beam writes a length before a key; a node has one byte before it that says what it is.
    sent = 1 + len(keys[0]) + 1 + name
    return {"key": len(keys[0]), "name": name, "sent": sent, "bands": len(keys), "total": (len(keys) + 1) * sent}


def cost_of_phases(config: CurateConfig, prices: PricesConfig, sample: int) -> dict[str, float]:
    """Processor seconds a document takes in the phases after the first, a job's start not counted.

    An estimate divides a job's start by the few documents of its sample; the difference of two samples does not.
    """
    documents, totals = [], []
    for wanted in (sample // 10, sample):
        results = [estimate(config, prices, documents=wanted) for _ in range(3)]  # the first of all loads libraries
        documents.append(results[0]["duplicates_in_sample"][1])
        totals.append(documents[-1] * min(map(_later, results)))
    duplicates = max(0.0, totals[1] - totals[0]) / (documents[1] - documents[0])
    with tempfile.TemporaryDirectory() as folder:
        paths, read = [path for each in config.inputs for path in each.paths], 0
        writer = WriteParts(folder, "jsonl.zst")
        writer.start_bundle()
        started = time.process_time()
        for path in (file.path for file in files.matching(paths)):
            for document in read_documents(path):
                list(writer.process(document))
                read += 1
        list(writer.finish_bundle())
        return {"duplicates": duplicates, "write": (time.process_time() - started) / read}


def section(
    title: str, config: CurateConfig, prices: PricesConfig, at: float, sample: int, later: dict[str, float]
) -> str:
    result = estimate(config, prices, documents=sample, total_bytes=at)
    hand = by_hand(config)
    read, kept, text = (result[name][1] for name in ("read", "kept_before_dedup", "text_bytes"))
    filter_seconds = (result["cpu_hours"][1] * 3600 - _later(result) * kept) / read
    measured, sent = result["shuffled_bytes_per_document"], hand["total"]
    hours = (filter_seconds * read + sum(later.values()) * kept) / 3600
    paid, shuffled = hours / prices.utilisation, sent * kept / GIB
    machine = prices.vcpu_hour + prices.memory_gib_hour * prices.memory_gib_per_vcpu
    dollars = paid * machine + shuffled * prices.shuffle_gib
    rows = [
        ["filter: read to rules", f"{read:,.0f}", f"{1e6 * filter_seconds:,.0f}", "0", "0"],
        [
            "duplicates",
            f"{kept:,.0f}",
            f"{1e6 * later['duplicates']:,.0f}",
            f"{sent:,.0f}",
            f"{measured:,.0f}",
        ],
        ["write", f"{kept:,.0f}", f"{1e6 * later['write']:,.0f}", "0", "0"],
    ]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    survivors, copies = result["duplicates_in_sample"][1], result["duplicates_in_sample"][0]
    start = (_later(result) - later["duplicates"]) * kept / 3600
    formula = f"(1 hash of the text + {hand['bands']} bands) x (key {hand['key']} + name {hand['name']} + 2)"
    length = text / max(kept, 1)
    shuffle_dollars = shuffled * prices.shuffle_gib
    tokens = result["tokens"][1] / 1e9
    said = "\n".join(f"    {line}" for line in lines(result))
    return f"""## {title}

What the program says:

{said}

By hand, phase by phase:

| phase | documents | µs of CPU each | bytes shuffled each | measured on the sample |
| --- | ---: | ---: | ---: | ---: |
{table}

- Bytes shuffled: {formula} = {sent:,.0f}.
  What the sample has more is {copies} documents with copies and what a job sends once, over {survivors:,} documents.
  A text is {length:,.0f} bytes: to shuffle it once would be {length / sent:.1f} times all of this.
- {sent:,.0f} x {kept:,.0f} = **{shuffled:,.0f} GiB** shuffled
- CPU hours: sum of documents x µs = {hours:,.0f}. The program's figure has no writing, and divides the start of a local
  job by {survivors:,} documents, which is {start:,.0f} hours of it.
- {hours:,.0f} / {prices.utilisation} = **{paid:,.0f} vCPU hours**: {paid / VCPUS:,.1f} hours of {VCPUS:,} vCPUs
- {paid:,.0f} x ({prices.vcpu_hour} + {prices.memory_gib_per_vcpu} x {prices.memory_gib_hour})
  + {shuffled:,.0f} x {prices.shuffle_gib} = **{dollars:,.0f} dollars**, of which the shuffle is {shuffle_dollars:,.0f};
  {dollars / tokens:,.2f} dollars for a thousand million tokens before duplicates are gone
"""


def _later(result: dict[str, Any]) -> float:
    return sum(phase["seconds_per_document"] for phase in result["phases"].values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at", type=float, default=10e12, help="bytes of input, as stored")
    parser.add_argument("--sample", type=int, default=2000, help="documents at most")
    parser.add_argument("--shared", type=Path, default=REPOSITORY.parent / "shared" / "data")
    parser.add_argument("--results", type=Path, default=HERE / "RESULTS.md")
    args = parser.parse_args()
    if not args.shared.exists():
        print(f"{args.shared} is absent; nothing was measured")
        return 0
    prices = resolve(PricesConfig, "prices/dataflow").config
    both = configs(args.shared)
    later = cost_of_phases(both[TEXT], prices, args.sample)
    size = f"{args.at / 1e12:g} TB"
    sections = [
        section(f"{size} of {title}", config, prices, args.at, args.sample, later) for title, config in both.items()
    ]
    command = f"python benchmarks/dataflow/bench.py --at {args.at:g} --sample {args.sample}"
    text = f"""# Curation of {size} on Dataflow, calculated

Written by `{command}` on {datetime.date.today()},
2 shared x86-64 cores. What `maxllm curate curate/web inputs=... --estimate --at {size.replace(" ", "")}` says
from a sample of real pages, and the same by hand. Nothing was run on Dataflow.

Assumed, and not verified here:

- the prices of `configs/prices/dataflow.yml`: list prices of 2024, us-central1, as far as known
- workers compute {prices.utilisation:.0%} of the time that is paid for
- a vCPU is as fast as a core of this machine, which was shared while this was measured
- all pages are like the few that were sampled. The shared folder has only a few small archives of real pages, so the
  first calculation shows the way of reckoning more than the web
- duplicates as in the sample. They grow with the corpus: then less is written, and each document with near copies sends
  up to {BANDS} pairs of names more, {BANDS} x 2 x 34 bytes, to each step of joining

{chr(10).join(sections)}"""
    args.results.write_text(text)
    print(args.results.read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
