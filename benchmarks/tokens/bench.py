"""Tokens: bytes a token against SentencePiece's own word splitting, tokenizing speed, loader speed.

    python benchmarks/tokens/bench.py [DOCUMENTS.jsonl ...]      without: the default corpus, curated first

Writes RESULTS.md beside itself. Times are CPU seconds of this process.
"""

from __future__ import annotations

import datetime
import io
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import sentencepiece

from data_beam.document import Document
from data_beam.io.documents import read_documents
from data_beam.io.files import matching
from data_beam.token_format import hash64
from data_beam.tokenizer_training import TEXT_CHARACTERS, train_tokenizer
from data_beam.tokens import tokenize
from maxllm.config.tokenize import TokenizeConfig, TokenizerConfig
from maxllm.config.train import DataConfig
from maxllm.data.loader import Loader
from maxllm.tokenizer import Tokenizer

HERE = Path(__file__).parent
SAMPLE_BYTES = 4_000_000
VOCAB_SIZE = 4096


def split_texts(paths: list[str]) -> tuple[list[str], list[str]]:
    """Texts to train a tokenizer on (about `SAMPLE_BYTES`), and a tenth of the documents to measure it on."""
    files = [file.path for file in matching(paths)]
    documents = [item for path in files for item in read_documents(path) if isinstance(item, Document)]
    documents.sort(key=lambda document: hash64("benchmark", document.id))
    tenth = max(1, len(documents) // 10)
    texts = [document.text[:TEXT_CHARACTERS] for document in documents[tenth:]]
    size = 0
    for number, text in enumerate(texts):
        size += len(text)
        if size > SAMPLE_BYTES:
            texts = texts[: number + 1]
            break
    return texts, [document.text for document in documents[:tenth]]


def plain_sentencepiece(texts: list[str], whitespace: bool) -> bytes:
    """SentencePiece as its documentation has it, made lossless."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCAB_SIZE,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=whitespace,
        max_sentence_length=1 << 20,
        minloglevel=2,
    )
    return model.getvalue()


def compare_tokenizers(texts: list[str], measured: list[str]) -> list[str]:
    size = sum(len(text.encode()) for text in measured)
    trainers = {
        "SentencePiece BPE, its own splitting": lambda: plain_sentencepiece(texts, False),
        "the same with white-space pieces": lambda: plain_sentencepiece(texts, True),
        "maxllm, BPE": lambda: train_tokenizer(texts, TokenizerConfig(vocab_size=VOCAB_SIZE)),
        "maxllm, unigram": lambda: train_tokenizer(texts, TokenizerConfig(vocab_size=VOCAB_SIZE, algorithm="unigram")),
    }
    lines = [
        f"Trained on {sum(map(len, texts)) / 1e6:.1f} MB, measured on {size / 1e6:.1f} MB of other documents; "
        f"a vocabulary of {VOCAB_SIZE}, all lossless.",
        "",
        "| tokenizer | bytes a token | training, CPU s | encoding, MB per CPU s |",
        "|---|---|---|---|",
    ]
    for name, train in trainers.items():
        began = time.process_time()
        model = train()
        trained = time.process_time()
        tokenizer = Tokenizer({"tokenizer.model": model})
        made = time.process_time()
        tokens = sum(map(len, tokenizer.encode_batch(measured)))
        speed = size / 1e6 / (time.process_time() - made)
        lines.append(f"| {name} | {size / tokens:.2f} | {trained - began:.1f} | {speed:.1f} |")
    return lines


def measure_road(paths: list[str], output: str) -> list[str]:
    """`maxllm tokenize` on everything, then batches from it."""
    began, wall = time.process_time(), time.monotonic()
    dataset = tokenize(TokenizeConfig(documents=paths, output=output, tokenizer={"vocab_size": VOCAB_SIZE}))
    total = sum(count["bytes"] for sources in dataset["counts"].values() for count in sources.values())
    lines = [
        f"`maxllm tokenize`, training included: {total / 1e6:.1f} MB in {time.process_time() - began:.1f} CPU s, "
        f"{time.monotonic() - wall:.1f} s.",
        "",
    ]
    config = DataConfig(sources={"all": {"path": output}}, batch_size=16, sequence_length=256)
    loader = Loader(config, tokenizer_fingerprint=dataset["tokenizer"]["fingerprint"])
    loader.batch(0)
    began, steps = time.process_time(), 500
    for k in range(1, steps + 1):
        loader.batch(k)
    rows = steps * config.batch_size / (time.process_time() - began)
    packings = [shard["packings"]["256"] for shard in dataset["shards"] if shard["split"] == "train"]
    padding = 1 - sum(p["pairs"] for p in packings) / sum(p["rows"] * 256 for p in packings)
    lines.append(
        f"Loader: {rows:,.0f} rows of 256 ({rows * 256 / 1e6:.1f} million tokens) per CPU second; "
        f"{padding:.2%} padding."
    )
    return lines


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = sys.argv[1:]
        if not paths:
            command = ["curate", "curate/python-docs", f"output.path={folder}/documents"]
            subprocess.run([sys.executable, "-m", "maxllm.cli.main", *command], check=True)
            paths = [f"{folder}/documents/documents/*"]
        lines = [*compare_tokenizers(*split_texts(paths)), "", *measure_road(paths, f"{folder}/tokens")]
    machine = (
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    header = ["# Tokens", "", f"{datetime.date.today()}, {machine}. `python benchmarks/tokens/bench.py`", ""]
    (HERE / "RESULTS.md").write_text("\n".join([*header, *lines, ""]))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
