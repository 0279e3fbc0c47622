"""The results as tables: Markdown for the report, rich for the terminal, one line for a recipe's summary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

HELD_OUT_HEAD = ["source", "documents", "MB", "bytes/token", "model", "gzip -9", "gzip -9, joined", "unigram"]
TASK_HEAD = ["task", "metric", "value", "± stderr", "items", "shots", "comparable"]

HELD_OUT_NOTES = """\
Bits per byte of held-out text; lower is better. The model's are -log2 p of all tokens and the end token of each whole
document, over its UTF-8 bytes; the beginning token is given. Documents longer than the context ({context_length}
tokens) are scored in windows that advance by half of it, every token once. *gzip -9*: each document by itself.
*gzip -9, joined*: all documents of a source in one stream, so that they may use one another. *unigram*: the same
tokens, independent, with the training split's counts plus one ({unigram_training_tokens:,} tokens counted).
"""


def held_out_rows(found: Mapping[str, Any]) -> Iterator[list[str]]:
    """Cells of one data set's table."""
    everything = {**found["sources"], "all": found["all"]} if len(found["sources"]) > 1 else found["sources"]
    for source, row in everything.items():
        available = row.get("held_out_documents", row["documents"])
        of = f" of {available:,}" if available > row["documents"] else ""
        yield [
            source,
            f"{row['documents']:,}{of}",
            f"{row['text_bytes'] / 1e6:.2f}",
            f"{row['bytes_per_token']:.2f}",
            f"{row['bits_per_byte']:.3f}",
            f"{row['gzip_bits_per_byte']:.3f}",
            f"{row['gzip_concatenated_bits_per_byte']:.3f}",
            f"{row['unigram_bits_per_byte']:.3f}",
        ]


def task_rows(tasks: Mapping[str, Any]) -> Iterator[list[str]]:
    for name, found in tasks.items():
        for metric, value in found["metrics"].items():
            base, _, kind = metric.partition(",")
            if base.endswith("_stderr"):
                continue
            error = found["metrics"].get(f"{base}_stderr,{kind}".rstrip(","), float("nan"))
            items = f"{found['items']:,}" + (f" of {found['of_items']:,}" if found["items"] < found["of_items"] else "")
            yield [name, metric, f"{value:.4f}", f"{error:.4f}", items, str(found["shots"]), why(found)]


def why(found: Mapping[str, Any]) -> str:
    """Whether a task's number may be set beside others' for the same task, and if not, why."""
    if not found["upstream"]:
        return "no: a task of ours"
    reasons = []
    if found["items"] < found["of_items"]:
        reasons.append("not all items")
    if found["did_not_fit"]:
        reasons.append(f"{found['did_not_fit']:,} requests cut to the context")
    return "no: " + ", ".join(reasons) if reasons else "yes, if the file is the whole upstream split"


def rich_tables(results: Mapping[str, Any]) -> Iterator[Table]:
    for path, found in results.get("bits_per_byte", {}).items():
        yield _rich(f"held-out bits per byte, {path}", HELD_OUT_HEAD, held_out_rows(found), left=1)
    if results.get("tasks"):
        yield _rich("tasks", TASK_HEAD, task_rows(results["tasks"]), left=2)


def markdown(results: Mapping[str, Any]) -> str:
    """The whole report."""
    parts = [
        f"# Evaluation of {results['model']}\n",
        f"maxllm {results['maxllm']}, {results['dtype']}, context {results['context_length']} tokens, "
        f"{results['seconds']} s.\n",
    ]
    for path, found in results.get("bits_per_byte", {}).items():
        parts += [f"## Held-out bits per byte: {path}\n", _markdown(HELD_OUT_HEAD, held_out_rows(found))]
        parts.append(HELD_OUT_NOTES.format(context_length=results["context_length"], **found))
        if found["encoded_again"]:
            parts.append("The data set is another tokenizer's; its text was encoded again with this model's.\n")
    if results.get("tasks"):
        parts += ["## Tasks\n", _markdown(TASK_HEAD, task_rows(results["tasks"]))]
        parts.append(
            "Tasks run in lm-eval. One without `maxllm_` in its name has lm-eval's own prompts and metrics; one with "
            "it is ours, for files with other fields, and its number cannot be compared with upstream's.\n"
        )
        for name, found in results["tasks"].items():
            files = ", ".join(f"{split}: {file}" for split, file in found["files"].items())
            parts.append(f"- {name} {found['version']}: {files}; every item in samples-{name}.jsonl\n")
    return "\n".join(parts)


def summary_line(results: Mapping[str, Any]) -> str:
    """What a recipe shows of it."""
    said = []
    for found in results.get("bits_per_byte", {}).values():
        row = found["all"]
        said.append(
            f"held-out bits per byte {row['bits_per_byte']:.3f} (gzip -9: {row['gzip_bits_per_byte']:.3f} a document, "
            f"{row['gzip_concatenated_bits_per_byte']:.3f} joined; unigram: {row['unigram_bits_per_byte']:.3f})"
        )
    for name, found in results.get("tasks", {}).items():
        metric, value = next(iter(found["metrics"].items()))
        said.append(f"{name} {metric} {value:.4f}")
    return f"{'; '.join(said)}; {results['output']}/report.md"


def _rich(title: str, head: list[str], rows: Iterator[list[str]], *, left: int) -> Table:
    table = Table(title=title, title_justify="left")
    for number, name in enumerate(head):
        table.add_column(name, justify="left" if number < left or name == "comparable" else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _markdown(head: list[str], rows: Iterator[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)
