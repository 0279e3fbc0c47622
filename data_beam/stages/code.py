"""Source files: they parse, they are written by people for people, and their licence is known.

Nothing is imported or run. Python is parsed by the running Python; other languages by tree-sitter, YAML by PyYAML, in
a child process that is killed when a file takes too long. What costs little is asked first.
"""

from __future__ import annotations

import ast
import warnings
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from data_beam.child import Child
from data_beam.code import license as licenses
from data_beam.code.languages import language_of, path_of
from data_beam.code.measures import measure
from data_beam.code.parse import COMMENTED, PARSED, TOLERATED
from data_beam.code.rules import text_rules, tree_rules
from data_beam.document import Document, Drop
from data_beam.stages.stage import store, stored
from maxllm.config.code import CodeConfig

SIGNALS = "code"
VERSION = 1  # of what is measured; a change makes stored values void


def python_syntax(source: str, max_characters: int) -> Drop | None:
    """Whether the running Python parses it: Python 2 does not. Errors of any kind are the document's."""
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


def measured_version(config: CodeConfig) -> str:
    """Of the code, the grammars, and the length up to which files were parsed at all."""
    try:
        grammars = version("tree-sitter-language-pack")
    except PackageNotFoundError:  # then every file that needs one becomes a dead letter that says so
        grammars = "none"
    return f"{VERSION}/{grammars}/{config.max_characters}"


class CodeSyntax:
    """Documents whose metadata.content_type is `code`, or all. Writes metadata.programming_language and .license."""

    name = "code"

    def __init__(self, config: CodeConfig) -> None:
        self.config = config
        self.version = measured_version(config)
        self.child = Child("data_beam.code.parse:parse", config.timeout_seconds)
        self.tolerated = {**TOLERATED, **config.max_error_fraction}
        self.allow, self.deny = licenses.expand(config.license.allow), licenses.expand(config.license.deny)

    def close(self) -> None:
        self.child.close()

    def __call__(self, document: Document) -> Document | Drop:
        """The same verdict as `decide(measure(document))`, without measuring what no rule needs any more."""
        if not self._is_code(document):
            return document
        document, language = self._named(document)
        if drop := self._license(document):
            return drop
        if self.config.quality.enabled:
            if drop := text_rules(language, self._text_values(document), self.config.quality):
                return drop
        if drop := self._tree_drop(language, self._tree_values(document, language)):
            return drop
        return self._stripped(document, language)

    def measure(self, document: Document) -> Document:
        if not self._is_code(document):
            return document
        document, language = self._named(document)
        if stored(document, SIGNALS, self.version) is not None:
            return document
        values = self._text_values(document) | self._tree_values(document, language, everything=True)
        return store(document, SIGNALS, self.version, values)

    def decide(self, document: Document) -> Document | Drop:
        values = stored(document, SIGNALS, self.version)
        if values is None:
            return document
        language = language_of(document.metadata)
        if drop := self._license(document):
            return drop
        if self.config.quality.enabled and (drop := text_rules(language, values, self.config.quality)):
            return drop
        return self._tree_drop(language, values) or self._stripped(document, language)

    def _is_code(self, document: Document) -> bool:
        return self.config.every_document or document.metadata.get("content_type") == "code"

    def _named(self, document: Document) -> tuple[Document, str | None]:
        found: dict[str, Any] = {}
        language = language_of(document.metadata)
        if language and document.metadata.get("programming_language") != language:
            found["programming_language"] = language
        if document.metadata.get("content_type") != "code":
            found["content_type"] = "code"  # prose rules and language identification shall leave it alone
        if self.config.license.enabled:
            name = licenses.detect(document.text) or licenses.from_metadata(document.metadata)
            if name is not None:
                found["license"] = name
        return (document.with_text(document.text, **found) if found else document), language

    def _license(self, document: Document) -> Drop | None:
        config = self.config.license
        if not config.enabled:
            return None
        name = document.metadata.get("license")
        tree = licenses.parse(name) if isinstance(name, str) else None
        if tree is None:
            return Drop("code.license_unknown", None) if config.unknown == "drop" else None
        return None if tree.allowed(self.allow, self.deny) else Drop("code.license", str(name)[:200])

    def _text_values(self, document: Document) -> dict[str, Any]:
        return stored(document, SIGNALS, self.version) or measure(document.text, path_of(document.metadata))._asdict()

    def _tree_values(self, document: Document, language: str | None, everything: bool = False) -> dict[str, Any]:
        """What parsing says, of what a rule in force asks or of everything.

        `syntax` [reason, value] where it failed outright, `error_fraction` and `error_line`, `comments` (a fraction),
        `visible` (characters). A language without a parser has none of them.
        """
        if (values := stored(document, SIGNALS, self.version)) is not None:
            return values
        text = document.text
        syntax, quality = everything or self.config.syntax, everything or self.config.quality.enabled
        values = {"characters": len(text)}
        if language == "python":
            if syntax and (drop := python_syntax(text, self.config.max_characters)):
                return values | {"syntax": [drop.reason, drop.value]}
        elif language in PARSED | COMMENTED and len(text) > self.config.max_characters:
            return values | {"syntax": ["code.too_long", len(text)]}
        elif language in PARSED and "\x00" in text:
            return values | {"syntax": ["code.null_byte", text.index("\x00")]}
        syntax, comments = syntax and language in PARSED, quality and language in COMMENTED
        if quality and language == "html":
            values |= self.child.call(("html-text", text, False, False))
        elif syntax or comments:
            values |= self._parsed(self.child.call((language, text, syntax, comments)))
        return values

    def _parsed(self, found: dict[str, Any]) -> dict[str, Any]:
        size = max(found["bytes"], 1)
        values: dict[str, Any] = {}
        if "error_bytes" in found:
            values["error_fraction"] = round(min(1.0, found["error_bytes"] / size), 6)
            values["error_line"] = found["error_line"]
        if "comments" in found:
            values["comments"] = round(sum(end - start for start, end in found["comments"]) / size, 4)
        return values

    def _tree_drop(self, language: str | None, values: dict[str, Any]) -> Drop | None:
        if self.config.syntax:
            if syntax := values.get("syntax"):
                return Drop(*syntax)
            share = values.get("error_fraction", 0.0)
            if share > self.tolerated.get(language or "", 0.0):
                return Drop("code.syntax", f"line {values['error_line']}: {share:.4f} of it in errors")
        return tree_rules(language, values, self.config.quality) if self.config.quality.enabled else None

    def _stripped(self, document: Document, language: str | None) -> Document:
        if not (self.config.license.enabled and self.config.license.strip_header and language in COMMENTED):
            return document
        comments = self.child.call((language, document.text, False, True))["comments"]
        span = licenses.header(document.text, comments)
        if span is None:
            return document
        text = document.text[: span[0]] + document.text[span[1] :].lstrip("\r\n")
        return document.with_text(text, license_header_removed=span[1] - span[0])
