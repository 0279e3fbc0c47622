"""`maxllm eval` from end to end: a run, its held-out documents, lm-eval's own GSM8K and a task of ours."""

from __future__ import annotations

import gzip
import json
import math
import sys
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from maxllm.cli.import_ import import_folder
from maxllm.cli.main import main
from maxllm.config.evaluate import EvalConfig
from maxllm.convert import hf
from maxllm.data.dataset import read_documents
from maxllm.eval.report import evaluate
from maxllm.models import Decoder
from maxllm.tokenizer import Tokenizer
from maxllm.train.checkpoint import load_model

CONTEXT = 64
QUESTIONS = [
    {"question": f"What is {n} + 1?", "answer": f"{n} + 1 = <<{n}+1={n + 1}>>{n + 1}\n#### {n + 1}"} for n in range(12)
]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer, texts: list[str]) -> Path:
    """Token data of two sources, made by `maxllm tokenize` with the model's tokenizer."""
    folder = tmp_path_factory.mktemp("tokens")
    tokenizer.save(folder / "given")
    with (folder / "documents.jsonl").open("w") as file:
        for index in range(60):
            text = texts[index % len(texts)][100 * index :][: 40 + 13 * index]
            document = {"id": f"{index:032x}", "text": text + " é", "source": ["even", "odd"][index % 2]}
            file.write(
                json.dumps(document | {"added": "2026-01-01T00:00:00Z", "metadata": {"group": str(index)}}) + "\n"
            )
    command = [
        "tokenize",
        f"documents=[{folder / 'documents.jsonl'}]",
        f"output={folder / 'tokens'}",
        f"tokenizer.path={folder / 'given' / 'tokenizer.model'}",
        "held_out.fraction=0.3",
        f"sequence_lengths=[{CONTEXT}]",
        "shards=1",
    ]
    (folder / "config.yml").write_text("kind: tokenize\n")
    assert main([command[0], str(folder / "config.yml"), *command[1:]]) == 0
    return folder / "tokens"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, model: Decoder, tokenizer: Tokenizer, tokens: Path) -> Path:
    """A run as training leaves it, of the random model."""
    folder = tmp_path_factory.mktemp("run")
    hf.save(model, tokenizer, folder / "hf")
    import_folder(folder / "hf", folder / "run")
    config = yaml.safe_load((folder / "run" / "config.yml").read_text())
    config["data"] |= {"sources": {"both": {"path": str(tokens), "weight": 1.0}}, "sequence_length": CONTEXT}
    (folder / "run" / "config.yml").write_text(yaml.safe_dump(config))
    return folder / "run"


def slow_nats(model: Decoder, ids: np.ndarray, logits_of) -> float:
    """Windows of half a context, each by one full forward pass."""
    nats, done = 0.0, 1
    while done < len(ids):
        end = min(len(ids), CONTEXT + 1 if done == 1 else done + CONTEXT // 2)
        window = ids[max(0, end - CONTEXT - 1) : end].astype(np.int64)
        logits = logits_of(window[:-1])[len(window) - 1 - (end - done) :]
        nats += (np.logaddexp.reduce(logits, axis=-1) - logits[np.arange(end - done), ids[done:end]]).sum()
        done = end
    return nats


def test_bits_per_byte_of_every_source_beside_gzip_and_unigram(
    run_dir: Path, tokens: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
):
    assert main(["eval", str(run_dir)]) == 0
    assert "held-out bits per byte" in capsys.readouterr().out
    results = json.loads((run_dir / "eval" / "results.json").read_text())
    assert results["context_length"] == CONTEXT
    found = results["bits_per_byte"][str(tokens)]
    assert set(found["sources"]) == {"even", "odd"}
    model = load_model(run_dir)[0]
    padded = jax.jit(lambda ids: model(ids[None], jnp.arange(CONTEXT)[None])[0])

    def logits_of(ids: np.ndarray) -> np.ndarray:
        return np.asarray(padded(np.pad(ids, (0, CONTEXT - len(ids)))), np.float64)[: len(ids)]

    counts = Counter(t for _, _, ids in read_documents(tokens, "train") for t in ids[1:].tolist())
    seen = sum(counts.values()) + tokenizer.vocab_size
    long = 0
    for source, row in found["sources"].items():
        documents = list(read_documents(tokens, "held_out", source))
        texts = [tokenizer.decode(ids.tolist()).encode() for _, _, ids in documents]
        size = sum(size for _, size, _ in documents)
        assert row["documents"] == len(documents) and row["text_bytes"] == size == sum(map(len, texts))
        assert row["tokens"] == sum(
            len(ids) - 1 for _, _, ids in documents
        )  # all but the beginning, the end among them
        nats = sum(slow_nats(model, ids, logits_of) for _, _, ids in documents)
        assert row["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)
        alone = sum(8 * len(gzip.compress(text, 9)) for text in texts)
        assert row["gzip_bits_per_byte"] == pytest.approx(alone / size)
        joined = 8 * len(gzip.compress(b"".join(texts), 9))
        assert row["gzip_concatenated_bits_per_byte"] == pytest.approx(joined / size, rel=0.01)
        unigram = -sum(math.log2((counts[t] + 1) / seen) for _, _, ids in documents for t in ids[1:].tolist())
        assert row["unigram_bits_per_byte"] == pytest.approx(unigram / size, rel=1e-6)
        long += sum(len(ids) > 2 * CONTEXT for _, _, ids in documents)
    assert long > 2  # the strided windows were really used
    parts = found["sources"].values()
    everything = sum(row["bits_per_byte"] * row["text_bytes"] for row in parts) / sum(
        row["text_bytes"] for row in parts
    )
    assert found["all"]["bits_per_byte"] == pytest.approx(everything)
    report = (run_dir / "eval" / "report.md").read_text()
    assert "| even |" in report and "| all |" in report and "half of it" in report


def test_another_models_tokens_give_the_same_text_to_score(run_dir: Path, tokens: Path, model: Decoder, tmp_path: Path):
    """Bits per byte can be compared across tokenizers: the text is the same, byte for byte."""
    from data_beam.tokenizer_training import train_tokenizer
    from maxllm.config.tokenize import TokenizerConfig

    texts = ["other words altogether, for other pieces " * 20]
    other = Tokenizer({"tokenizer.model": train_tokenizer(texts, TokenizerConfig(vocab_size=370, special_tokens=[]))})
    hf.save(model, other, tmp_path / "hf")
    results = evaluate(EvalConfig(model=str(tmp_path / "hf"), tokens=[str(tokens)], context_length=CONTEXT))
    own = json.loads((run_dir / "eval" / "results.json").read_text())
    mine, theirs = results["bits_per_byte"][str(tokens)], own["bits_per_byte"][str(tokens)]
    assert mine["encoded_again"] and not theirs["encoded_again"]
    assert mine["all"]["text_bytes"] == theirs["all"]["text_bytes"]
    assert mine["all"]["gzip_bits_per_byte"] == theirs["all"]["gzip_bits_per_byte"]


def test_gsm8k_with_lm_evals_own_prompts_and_a_task_of_ours(run_dir: Path, tmp_path: Path):
    folder = tmp_path / "gsm8k"
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps(q) + "\n" for q in QUESTIONS))
    with gzip.open(folder / "test.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(q) + "\n" for q in QUESTIONS[:3])
    arc = tmp_path / "arc.jsonl"
    rows = [{"query": "Question: Which is it?", "choices": ["this", "that", "both"], "gold": n % 3} for n in range(6)]
    arc.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [
        "eval",
        str(run_dir),
        "batch_tokens=256",
        "--tasks",
        "gsm8k,maxllm_arc_easy",
        "--data",
        f"gsm8k={folder}",
    ]
    assert main([*command, f"maxllm_arc_easy={arc}", "--limit", "3"]) == 0
    results = json.loads((run_dir / "eval" / "results.json").read_text())
    assert "bits_per_byte" not in results
    gsm8k, ours = results["tasks"]["gsm8k"], results["tasks"]["maxllm_arc_easy"]
    assert {"exact_match,strict-match", "exact_match,flexible-extract"} <= gsm8k["metrics"].keys()
    assert gsm8k["upstream"] and gsm8k["shots"] == 5 and gsm8k["items"] == 3
    assert gsm8k["did_not_fit"] == 3 and not gsm8k["comparable"]  # five examples do not fit in 64 tokens
    assert not ours["upstream"] and not ours["comparable"] and ours["items"] == 3 and ours["of_items"] == 6
    samples = [json.loads(line) for line in (run_dir / "eval" / "samples-gsm8k.jsonl").read_text().splitlines()]
    prompt = samples[0]["arguments"][0][0]
    assert prompt.count("Question:") == 6 and prompt.endswith(f"Question: {samples[0]['doc']['question']}\nAnswer:")
    assert "#### " in prompt
    report = (run_dir / "eval" / "report.md").read_text()
    assert "no: a task of ours" in report and "3 requests cut to the context" in report
    assert "torch" not in sys.modules


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "gsm8k"], "task gsm8k has no data"),
        (["--tasks", "gsm8k", "--data", "gsm8k={file}"], "examples of its train split"),
        (["--tasks", "arc_easy", "--data", "arc_easy={file}"], "lacks answerKey, choices"),
        (["--tasks", "hellaswag", "--data", "hellaswag={file}"], "cannot be made of"),
        (["--tasks", "maxllm_none", "--data", "maxllm_none={file}"], "ours are maxllm_arc_challenge"),
        (["--tasks", "no_such_task", "--data", "no_such_task={file}"], "not a task of the installed lm-eval"),
        (["--tasks", "gsm8k", "--data", "gsm8k=nowhere"], "no such file or folder"),
        (["--data", "gsm8k={file}"], "not among the tasks"),
        (["context_length=100000"], "over the model's"),
        (["tokens=[nowhere]"], "no finished token data set"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(
    run_dir: Path, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "test.jsonl").write_text(json.dumps(QUESTIONS[0]) + "\n")
    arguments = [argument.format(file=tmp_path / "test.jsonl") for argument in arguments]
    assert main(["eval", str(run_dir), *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("maxllm eval: ") and message in error


@pytest.mark.parametrize(
    ("task", "path", "own"),
    [
        ("gsm8k", "eval/gsm8k", True),
        ("maxllm_hellaswag", "eval/hellaswag/hellaswag_val_subset.jsonl.gz", False),
        ("maxllm_arc_easy", "eval/llm_foundry/arc_easy.jsonl.gz", False),
        ("maxllm_arc_challenge", "eval/llm_foundry/arc_challenge.jsonl.gz", False),
    ],
)
def test_the_shared_files_run(run_dir: Path, shared_data: Path, tmp_path: Path, task: str, path: str, own: bool):
    config = EvalConfig(
        model=str(run_dir),
        tasks=[task],
        data_files={task: str(shared_data / path)},
        limit=2,
        output=str(tmp_path),
        batch_tokens=256,
    )
    found = evaluate(config)["tasks"][task]
    assert found["upstream"] == own and found["items"] == 2 and found["of_items"] > 900
