"""The table: families down, checks across, what was measured in each cell; what fails is named below it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from maxllm.families.checks import CHECKS, Cell, Subject, check

Table = dict[str, dict[str, Cell]]  # by model, by check


def measure(
    folders: Sequence[tuple[str, Path, Path | None]], progress: Callable[[str, str, Cell], None] = lambda *_: None
) -> Table:
    """All checks of each (name, folder, expected values), one model in memory at a time."""
    table: Table = {}
    for name, folder, values in folders:
        subject = Subject(folder, values)
        table[name] = {}
        for column in CHECKS:
            table[name] |= check(subject, [column])
            progress(name, column, table[name][column])
    return table


def failures(table: Table) -> list[str]:
    return [
        f"{name}, {column}: {cell.failure}"
        for name, row in table.items()
        for column, cell in row.items()
        if cell.failure
    ]


def markdown(table: Table) -> str:
    columns = list(next(iter(table.values()), {}))
    lines = [["model", *columns], ["---"] * (1 + len(columns))]
    for name, row in table.items():
        lines.append([name, *("**FAIL**" if row[column].failure else row[column].shown for column in columns)])
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    failed = failures(table)
    if failed:
        text += "\n\nWhat fails:\n\n" + "\n".join(f"- {line}" for line in failed)
    return text + "\n"


def replace_between(path: Path, begin: str, end: str, text: str) -> None:
    """Puts `text` between the two marks of a Markdown file, each on a line of its own; a new file has nothing else."""
    old = path.read_text() if path.is_file() else f"{begin}\n{end}\n"
    before, found, rest = old.partition(begin + "\n")
    _, also, after = rest.partition(end)
    if not (found and also):
        raise ValueError(f"{path} has no lines {begin} and {end} to write between")
    path.write_text(f"{before}{begin}\n{text}{end}{after}")
