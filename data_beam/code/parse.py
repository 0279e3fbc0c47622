"""Parsing with tree-sitter and PyYAML. Runs in a child process: grammars' hand-written parts can crash and hang.

(tree-sitter-yaml ends in a segmentation fault on 1,000 nested lists; tree-sitter-html takes quadratic time on nested
elements that are never closed.)
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

# Languages with a parser of their own choice here; `compile` reads Python in the caller.
# HTML is not among them: every byte string is a page, as browsers read it. Perl's and SQL's grammars reject too much
# of what their interpreters accept (benchmarks/pii_code/RESULTS.md).
PARSED = frozenset(
    "bash c cpp csharp css cuda dart go java javascript json kotlin lua php r ruby rust scala swift toml tsx"
    " typescript yaml".split()
)
# Share of a file's bytes in errors that is no evidence against it, because grammars do not know every macro (C, C++),
# dialect (JavaScript with types, templates in CSS) or recent keyword. The others: none. Measured on known good and on
# damaged files: benchmarks/pii_code/RESULTS.md.
TOLERATED = {"bash": 0.005, "c": 0.02, "cpp": 0.02, "css": 0.02, "javascript": 0.005, "scala": 0.005, "swift": 0.005}
# A second grammar for what the first one refuses: a header called .h may be C++, a script may have types (Flow).
SECOND = {"c": "cpp", "javascript": "tsx"}
COMMENTED = PARSED - {"json", "yaml"} | {"python", "html", "sql", "perl", "haskell", "julia", "scss"}
_INNER = re.compile(r"marker|content|doc_comment$|keyword_|_statement$")  # of comments, or none


@cache
def _parser(language: str) -> Any:
    import tree_sitter
    from tree_sitter_language_pack import get_language

    return tree_sitter.Parser(get_language(language))  # type: ignore[arg-type]


@cache
def _kinds(language: str, name: str) -> frozenset[int]:
    """Numbers of the grammar's named nodes with this in their name."""
    grammar = _parser(language).language
    names = {i: grammar.node_kind_for_id(i) or "" for i in range(grammar.node_kind_count)}
    return frozenset(
        i for i, kind in names.items() if name in kind and grammar.node_kind_is_named(i) and not _INNER.search(kind)
    )


def parse(job: tuple[str, str, bool, bool]) -> dict[str, Any]:
    """(language, text, syntax?, comments?) -> what was asked, as `bytes`, `error_bytes`, `error_line`, `comments`.

    `error_line` is where the first error is (from 1, or None); `comments` are (start, end) in bytes, disjoint, in
    order.
    """
    language, text, syntax, comments = job
    if language == "html-text":
        return {"visible": _visible(text)}
    data = text.encode("utf-8", "replace")
    result: dict[str, Any] = {"bytes": len(data)}
    if language == "yaml":
        result.update(_yaml(text))
        return result
    errors, line, spans = _walk(language, data, comments)
    if syntax:
        if errors and language in SECOND:
            other = _walk(SECOND[language], data, False)[:2]
            errors, line = min((errors, line), other, key=lambda pair: pair[0])
        result.update(error_bytes=errors, error_line=line)
    if comments:
        result["comments"] = spans
    return result


def _walk(language: str, data: bytes, comments: bool) -> tuple[int, int | None, list[tuple[int, int]]]:
    """(bytes of errors, line of the first, comments), from one way over the tree.

    An error is a token that no rule takes, at least one a place, or one the parser had to make up. An error's own
    tokens count, not its extent: on one bad line the parser may call the whole file an error, with every function in
    it parsed well. (Queries would find both, in quadratic time on a hundred thousand open brackets.)
    """
    root = _parser(language).parse(data).root_node
    kinds = _kinds(language, "comment") if comments else frozenset()
    # Python's strings that stand alone document it, as comments do.
    strings, blocks = frozenset(), frozenset()
    if comments and language == "python":
        strings, blocks = _kinds(language, "string"), _kinds(language, "module") | _kinds(language, "block")
    errors, first, spans = 0, None, []
    cursor, above = root.walk(), [-1]
    while True:
        node = cursor.node
        kind, broken = node.kind_id, node.has_error
        if kind in kinds or (kind in strings and above[-1] in blocks):
            spans.append((node.start_byte, node.end_byte))
            inside = broken
        else:
            inside = comments or broken
        if broken and (node.is_error or node.is_missing):
            errors += 1 if node.is_missing else max(1, _own_bytes(node, data))
            first = node.start_byte if first is None else min(first, node.start_byte)
        if inside and cursor.goto_first_child():
            above.append(kind)
            continue
        while not cursor.goto_next_sibling():
            if not cursor.goto_parent():
                return errors, None if first is None else data.count(b"\n", 0, first) + 1, _disjoint(spans)
            above.pop()


def _own_bytes(error: Any, data: bytes) -> int:
    """Bytes of its tokens and of what was skipped between them, without white space, comments and what has parsed."""
    total, last = 0, error.start_byte
    for child in error.children:
        total += len(b"".join(data[last : child.start_byte].split()))
        if child.child_count == 0 and not child.is_error and "comment" not in child.type:
            total += child.end_byte - child.start_byte
        last = child.end_byte
    return total + len(b"".join(data[last : error.end_byte].split()))


def _yaml(text: str) -> dict[str, Any]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        for _ in yaml.parse(text, Loader=loader):
            pass
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        return {"error_bytes": len(text.encode("utf-8", "replace")), "error_line": mark and mark.line + 1}
    return {"error_bytes": 0, "error_line": None}


def _visible(text: str) -> int:
    """Characters that a browser would show."""
    from resiliparse.extract.html2text import extract_plain_text

    return len(extract_plain_text(text, main_content=False, alt_texts=False, preserve_formatting=False).strip())


def _disjoint(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    result: list[tuple[int, int]] = []
    last = 0
    for start, end in sorted(spans):
        start = max(start, last)
        if end > start:
            result.append((start, end))
            last = end
    return result
