"""Source files must parse. Nothing is imported or run."""

from __future__ import annotations

import ast
import warnings

from data_beam.document import Document, Drop
from maxllm.config.code import CodeConfig


def python_syntax(source: str, max_characters: int) -> Drop | None:
    """Whether the running Python parses it. Errors of any kind are the document's."""
    if len(source) > max_characters:
        # A syntax tree takes about a hundred times its source.
        return Drop("code.too_long", len(source))
    if "\x00" in source:
        return Drop("code.null_byte", source.index("\x00"))
    try:
        with warnings.catch_warnings():
            # Invalid escapes in old code warn; that is not what is asked here.
            warnings.simplefilter("ignore")
            # A byte order mark is a property of the file, as it is for Python itself.
            compile(source.removeprefix("\ufeff"), "<document>", "exec", flags=ast.PyCF_ONLY_AST, dont_inherit=True)
    except SyntaxError as error:
        return Drop("code.syntax", f"line {error.lineno}: {error.msg}")
    except (RecursionError, MemoryError):
        # The parser's own limit on nesting, not the machine's memory: the length is bounded above.
        return Drop("code.nesting", None)
    except (ValueError, OverflowError) as error:
        # Lone surrogates, integers with too many digits.
        return Drop("code.syntax", str(error)[:100])
    return None


class CodeSyntax:
    """Documents whose metadata.content_type is `code` and whose programming_language is Python, or not given."""

    name = "code"

    def __init__(self, config: CodeConfig) -> None:
        self.config = config

    def __call__(self, document: Document) -> Document | Drop:
        metadata = document.metadata
        if metadata.get("content_type") != "code" or metadata.get("programming_language", "python") != "python":
            return document
        return python_syntax(document.text, self.config.max_characters) or document
