"""Masking and code checks, measured: quality on made and on real text, speed beside datatrove, parsers on known good.

python benchmarks/pii_code/bench.py --sources FOLDER...      # writes RESULTS.md beside this file
Sources are folders of known good code, e.g. of unpacked Debian packages; /usr/include and /usr/bin are always read.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import json
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from time import process_time

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
sys.path.insert(0, str(REPOSITORY))

import gold  # noqa: E402
import sources  # noqa: E402

from data_beam.pii.mask import CODE_KINDS, KINDS, find, mask  # noqa: E402

PEERS = ("datatrove==0.10.1", "regex", "spacy", "faker==40.54.0", "phonenumbers==9.0.43")
AROUND = {"email": "Write to {} today.", "ip": "from {} came", "phone national": "Tel: {} or"}
LANGUAGES = (
    "bash c cpp csharp css go java javascript json kotlin lua php r ruby rust scala swift toml typescript".split()
)


def scores(count: int, seed: int) -> list[str]:
    right, missed, wrong = Counter(), Counter(), Counter()
    for text, spans in gold.make(count, seed):
        found, wanted = set(find(text)), set(spans)
        right.update(kind for _, _, kind in found & wanted)
        missed.update(kind for _, _, kind in wanted - found)
        wrong.update(kind for _, _, kind in found - wanted)
    rows = ["| kind | in the text | found | precision | recall |", "| --- | ---: | ---: | ---: | ---: |"]
    for kind in KINDS:
        total, found = right[kind] + missed[kind], right[kind] + wrong[kind]
        rows.append(f"| {kind} | {total} | {found} | {right[kind] / found:.3f} | {right[kind] / total:.3f} |")
    return rows


def recall_of_others(values: dict[str, list[str]]) -> list[str]:
    rows = ["| values | number | found whole |", "| --- | ---: | ---: |"]
    for name, made in values.items():
        around = AROUND.get(name, "the number {} is")
        start, kind = around.index("{"), name.split()[0]
        whole = sum((start, start + len(value), kind) in find(around.format(value)) for value in made)
        rows.append(f"| {name} | {len(made)} | {whole / len(made):.3f} |")
    return rows


def shared_texts(shared: Path) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for name, key in (
        ("corpus/c4_demo.jsonl.gz", "text"),
        ("quality/dclm_majority_data.jsonl.gz", "text"),
        ("corpus/academic_scitldr_abstracts.jsonl.gz", None),
        ("instruct/gpteacher_codegen.json.gz", None),
    ):
        path = shared / name
        if path.is_file():
            with gzip.open(path, "rt") as stream:
                content = stream.read()
            if name.endswith(".json.gz"):
                texts[name] = [" ".join(map(str, record.values())) for record in json.loads(content)]
            else:
                records = map(json.loads, content.splitlines())
                texts[name] = [record[key] if key else " ".join(map(str, record.values())) for record in records]
    for path in sorted((shared / "corpus" / "dolma_cc").glob("*.gz")):
        with gzip.open(path, "rt") as stream:
            texts.setdefault("corpus/dolma_cc", []).extend(json.loads(line)["text"] for line in stream)
    return texts


def counts_on(texts: dict[str, list[str]]) -> list[str]:
    rows = [f"| texts | documents | {' | '.join(KINDS)} |", "| --- | ---: |" + " ---: |" * len(KINDS)]
    for name, documents in texts.items():
        total: Counter[str] = Counter()
        for text in documents:
            total.update(mask(text)[1])
        rows.append(f"| {name} | {len(documents)} | {' | '.join(str(total[kind]) for kind in KINDS)} |")
    return rows


def seconds(texts: list[str], kinds: tuple[str, ...]) -> float:
    times = []
    for _ in range(3):
        start = process_time()
        for text in texts:
            mask(text, kinds)
        times.append(process_time() - start)
    return min(times)


def speed(texts: list[str], peer: float) -> list[str]:
    rows = ["| what is looked for | documents a CPU-second | MB | to datatrove |", "| --- | ---: | ---: | ---: |"]
    megabytes = sum(map(len, texts)) / 1e6
    for name, spent in (
        ("datatrove: e-mail, IP version 4", peer),
        ("e-mail, IP", seconds(texts, ("email", "ip"))),
        ("in code: e-mail, IP, keys, passwords", seconds(texts, CODE_KINDS)),
        ("all eight kinds", seconds(texts, KINDS)),
    ):
        rows.append(f"| {name} | {len(texts) / spent:,.0f} | {megabytes / spent:.1f} | {peer / spent:.1f}x |")
    return rows


def syntax(roots: list[str], count: int) -> list[str]:
    rows = [
        f"| language | files | {' | '.join(sources.DAMAGES)} |",
        "| --- | ---: |" + " ---: |" * len(sources.DAMAGES),
    ]
    for language, found in sources.rates(roots, LANGUAGES, count, seed=1).items():
        files = found["as it is"][1]
        if files:
            rates = (f"{100 * rejected / total:.1f}" for rejected, total in found.values())
            rows.append(f"| {language} | {files} | {' | '.join(rates)} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", nargs="*", default=[])
    parser.add_argument("--peer", type=Path, help="a Python that has the peers' packages; else they are installed")
    parser.add_argument("--files", type=int, default=120, help="a language")
    parser.add_argument("--texts", type=int, default=4000, help="made ones")
    parser.add_argument("--shared", type=Path, default=REPOSITORY.parent / "shared" / "data")
    parser.add_argument("--results", type=Path, default=HERE / "RESULTS.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        python = arguments.peer or Path(folder) / "bin" / "python"
        if not arguments.peer:
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PEERS], check=True)
        peer = [str(python), str(HERE / "peer.py")]
        values = json.loads(subprocess.run([*peer, "values", "1"], check=True, capture_output=True).stdout)
        texts = shared_texts(arguments.shared)
        pages = [text for name, some in texts.items() if "academic" not in name and "gpt" not in name for text in some]
        pages = pages or [text for text, _ in gold.make(2000, 2)]
        job = json.dumps(pages).encode()
        answer = subprocess.run([*peer, "datatrove"], input=job, check=True, capture_output=True).stdout
        spent = json.loads(answer)["seconds"]
    kept = sources.reasons_on_python()
    lines = [
        "# Masking and code checks",
        "",
        f"Written by `bench.py` on {datetime.date.today()}: `python benchmarks/pii_code/bench.py --sources FOLDER`",
        f"on 2 shared x86-64 cores, {platform.system()}, Python {platform.python_version()}.",
        "",
        "## Masking: made text",
        "",
        f"{arguments.texts:,} texts of `gold.py`, seed 1: values in sentences and code, and as many look-alikes",
        "(versions, dates, ISBNs, ids, decorators, checksums). A find counts only with its exact first and last",
        "character. The set was made beside the detectors, by one hand: it shows that forms are handled, not how",
        "often they occur.",
        "",
        *scores(arguments.texts, 1),
        "",
        "## Masking: values that others made",
        "",
        "Faker 40.54 and the example numbers of all regions in phonenumbers 9.0 (Google's metadata), in a short",
        "sentence. Numbers in national form follow `Tel:`. Missed: ten digits without any separator (such are ids",
        "elsewhere), numbers of six digits and less, the fictional 555-01xx.",
        "",
        *recall_of_others(values),
        "",
        "## Masking: real text, counts only",
        "",
        *counts_on(texts),
        "",
        "## Masking: speed",
        "",
        f"{len(pages):,} web pages, {sum(map(len, pages)) / 1e6:.1f} million characters, one process, best of three.",
        "",
        *speed(pages, spent),
        "",
        "## Code: what the syntax check rejects, in percent",
        "",
        f"Up to {arguments.files} files of {MIN_MAX} a language, from distributed packages: known good.",
        "Then the same files damaged. Some damage is none: a bracket or prose within a comment, a cut between two",
        "functions.",
        "",
        *syntax([*arguments.sources, "/usr/include", "/usr/bin"], arguments.files),
        "",
        "## Code: the default corpus",
        "",
        f"{sources.PYTHON_FILES:,} source files of this Python and its packages, by hash, of up to 200,000 bytes.",
        "",
        "| rules | " + " | ".join(sorted({reason for found in kept.values() for reason in found})) + " |",
        "| --- |" + " ---: |" * len({reason for found in kept.values() for reason in found}),
    ]
    reasons = sorted({reason for found in kept.values() for reason in found})
    lines += [
        f"| {name} | " + " | ".join(str(found.get(reason, 0)) for reason in reasons) + " |"
        for name, found in kept.items()
    ]
    arguments.results.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


MIN_MAX = f"{sources.MIN_BYTES:,} to {sources.MAX_BYTES:,} bytes"

if __name__ == "__main__":
    main()
