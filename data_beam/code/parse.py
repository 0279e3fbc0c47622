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
COMMENTED = PARSED - {"json", "yaml"} | {"python", "html", "sql", "perl", "haskell", "julia", "scss"}
# Python's strings that stand alone document it, as comments do.
_DOCSTRINGS = "(module (string) @c) (block (string) @c)"
_INNER = re.compile(r"marker|content|doc_comment$|keyword_|_statement$")


@cache
def _parser(language: str) -> Any:
    import tree_sitter
    from tree_sitter_language_pack import get_language

    return tree_sitter.Parser(get_language(language))  # type: ignore[arg-type]


@cache
def _query(language: str, what: str) -> Any:
    import tree_sitter
    from tree_sitter_language_pack import get_language

    grammar = get_language(language)  # type: ignore[arg-type]
    if what == "errors":
        source = "(ERROR) @error (MISSING) @missing"
    else:
        kinds = {grammar.node_kind_for_id(i) for i in range(grammar.node_kind_count) if grammar.node_kind_is_named(i)}
        comments = sorted(kind for kind in kinds if kind and "comment" in kind and not _INNER.search(kind))
        source = " ".join(f"({kind}) @c" for kind in comments) + (_DOCSTRINGS if language == "python" else "")
    return tree_sitter.Query(grammar, source)


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
    root = _parser(language).parse(data).root_node
    if syntax:
        result.update(_errors(language, root, data))
        if language == "c" and result["error_bytes"]:  # a header called .h may be either
            other = _errors("cpp", _parser("cpp").parse(data).root_node, data)
            result.update(min(result, other, key=lambda errors: errors["error_bytes"]))
    if comments:
        spans = [(node.start_byte, node.end_byte) for node in _captures(language, "comments", root).get("c", ())]
        result["comments"] = _disjoint(spans)
    return result


def _captures(language: str, what: str, root: Any) -> dict[str, list[Any]]:
    import tree_sitter

    return tree_sitter.QueryCursor(_query(language, what)).captures(root)


def _errors(language: str, root: Any, data: bytes) -> dict[str, Any]:
    """What is an error: tokens that no rule takes, at least one a place, and tokens the parser had to make up.

    An error's own tokens are counted, not its extent: on one bad line the parser may call the whole file an error,
    with every function in it parsed well.
    """
    if not root.has_error:
        return {"error_bytes": 0, "error_line": None}
    found = _captures(language, "errors", root)
    errors, missing = found.get("error", []), found.get("missing", [])
    starts = [node.start_byte for node in (*errors, *missing)]
    return {
        "error_bytes": sum(max(1, _own_bytes(node, data)) for node in errors) + len(missing),
        "error_line": data.count(b"\n", 0, min(starts)) + 1 if starts else None,
    }


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
