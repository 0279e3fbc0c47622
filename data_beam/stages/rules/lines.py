"""Rule sets that take lines out of a text: what they share."""

from __future__ import annotations


def without_lines(text: str, lines: list[str | None]) -> str:
    """The text with its lines that are not blank replaced by these, and without those that are None.

    Indentation stays, and one blank line where there were any: paragraphs are worth more to a model than C4's own
    output, which has neither.
    """
    left: list[str] = []
    after_blank = False
    rest = iter(lines)
    for raw in text.splitlines():
        stripped = raw.strip()
        if not stripped:
            after_blank = True
        elif (line := next(rest)) is not None:
            if after_blank and left:
                left.append("")
            after_blank = False
            left.append(raw[: len(raw) - len(raw.lstrip())] + line)
    return "\n".join(left)


def at_least_words(line: str, count: int) -> bool:
    return len(line.split(None, count)) >= count
