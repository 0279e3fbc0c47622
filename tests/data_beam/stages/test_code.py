"""Source files parse or are dropped with a reason; no source takes the worker down."""

import threading

import pytest

from data_beam.document import Document
from data_beam.stages.code import CodeSyntax, python_syntax
from maxllm.config.code import CodeConfig

DEEP = 100_000


@pytest.mark.parametrize(
    "source",
    [
        "",
        "x = 1\n",
        "async def f():\n    match x:\n        case 1: return await y\n",
        "\ufeffx = 1",
        "x = '\\d'  # an invalid escape warns, no more",
        "# -*- coding: klingon -*-\nx = 1",
        "raise SystemExit; import this",
        "[" * 90 + "]" * 90,
    ],
)
def test_what_parses_stays(source):
    assert python_syntax(source, 1_000_000) is None


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("print 'two'", "code.syntax"),
        ("def f(:\n", "code.syntax"),
        ("<html>", "code.syntax"),
        ("x = '\ud800'", "code.syntax"),
        ("x = " + "1" * 10_000, "code.syntax"),
        ("x\x00", "code.null_byte"),
        ("x = 1\n" * 200_000, "code.too_long"),
        ("(" * DEEP, "code.syntax"),
        ("-" * DEEP + "1", "code.nesting"),
        ("not " * DEEP + "1", "code.nesting"),
        ("+".join("a" * DEEP), "code.nesting"),
        ("a" + ".b" * DEEP, "code.nesting"),
        ("lambda:" * DEEP + "1", "code.nesting"),
        ("a" + "[0]" * DEEP, "code.nesting"),
        ("".join(" " * depth + "if 1:\n" for depth in range(300)), "code.syntax"),
    ],
)
def test_what_does_not_is_dropped_with_its_reason(source, reason):
    # On a thread, as Beam's workers run: their stacks are smaller than the main one.
    results = []
    thread = threading.Thread(target=lambda: results.append(python_syntax(source, 1_000_000)))
    thread.start()
    thread.join()
    assert results[0].reason == reason


def test_only_code_is_checked():
    stage = CodeSyntax(CodeConfig())
    bad = "def f(:"
    prose = Document("1", bad, "test", "2024", metadata={"programming_language": "python"})
    klingon = Document("1", bad, "test", "2024", metadata={"content_type": "code", "programming_language": "klingon"})
    python = Document("1", bad, "test", "2024", metadata={"content_type": "code", "programming_language": "python"})
    assert stage(prose) is prose and stage(klingon) is klingon
    assert stage(python).reason == "code.syntax"
