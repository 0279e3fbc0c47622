"""Words replaced by others of the same meaning, from a table of the user's."""

from __future__ import annotations

import json
import re
from functools import cache

from data_beam.augment.draw import Draw
from data_beam.io.files import open_file
from maxllm.config.errors import UserError

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
Table = dict[str, tuple[str, ...]]


@cache
def load_table(path: str) -> Table:
    """Lower-cased word -> its synonyms. Once per process. Raises UserError."""
    try:
        with open_file(path) as stream:
            text = stream.read().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"synonyms.table: cannot read {path} ({error}); give a .tsv or .json file in UTF-8") from None
    table = _json(path, text) if path.endswith(".json") else _lines(text)
    found: Table = {}
    for word, synonyms in table.items():
        if not _WORD.fullmatch(word):
            raise UserError(f"synonyms.table: {path} has an entry for {word!r}; entries are single words")
        others = tuple(synonym for synonym in synonyms if synonym and synonym != word)
        if others:
            found[word.lower()] = (*found.get(word.lower(), ()), *others)
    if not found:
        raise UserError(f"synonyms.table: {path} has no word with a synonym; a line is a word, a tab, its synonyms")
    return found


def _lines(text: str) -> dict[str, list[str]]:
    table: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            word, *synonyms = (field.strip() for field in line.split("\t"))
            table.setdefault(word, []).extend(synonyms)
    return table


def _json(path: str, text: str) -> dict[str, list[str]]:
    try:
        tree = json.loads(text)
    except ValueError as error:
        raise UserError(f"synonyms.table: {path} is not JSON ({error})") from None
    rows = tree.items() if isinstance(tree, dict) else ()
    if not rows or not all(isinstance(row, list) and all(isinstance(s, str) for s in row) for _, row in rows):
        raise UserError(f"synonyms.table: {path} is not an object of lists of words: {{word: [synonym, ...]}}")
    return dict(rows)


def with_synonyms(text: str, rate: float, table: Table, draw: Draw) -> tuple[str, int]:
    """Each word of the table is replaced with probability `rate`; a capital or all capitals stay."""
    changed = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal changed
        word = match[0]
        synonyms = table.get(word.lower())
        if not synonyms or draw.random() >= rate:
            return word
        changed += 1
        synonym = draw.choice(synonyms)
        if word.isupper() and len(word) > 1:
            return synonym.upper()
        return synonym[:1].upper() + synonym[1:] if word[:1].isupper() else synonym

    return _WORD.sub(replace, text), changed
