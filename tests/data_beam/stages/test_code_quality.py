"""Rules of code just inside and just outside each limit; parsers of many languages; one verdict, however reached."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_beam.child import ChildError
from data_beam.code.languages import language_of
from data_beam.code.measures import Measures, encoded_data, generated, measure
from data_beam.code.parse import COMMENTED, PARSED, parse
from data_beam.code.rules import text_rules, tree_rules
from data_beam.document import Document, Drop
from data_beam.stages.code import CodeSyntax
from maxllm.config.code import CodeConfig, CodeQuality

# A valid program with one comment, and where to break it: what is taken out.
PROGRAMS = {
    "bash": ('# greet\nif [ -n "$1" ]; then\n  echo "hello $1"\nfi\n', "then"),
    "c": ("/* add */\nint add(int a, int b) {\n  return a + b;\n}\n", "int b) {"),
    "cpp": ("// box\ntemplate <typename T> struct Box { T value; };\nint main() { return Box<int>{1}.value; }\n",
            "{ T value; };\nint main() {"),
    "csharp": ("// greet\nclass A { static int F(int x) => x + 1; }\n", "F(int x) =>"),
    "css": ("/* big */\nh1 { color: red; margin: 0 auto; }\n", "{ color:"),
    "dart": ("// main\nvoid main() { var x = [1, 2]; print(x); }\n", "void main() {"),
    "go": ("// Package a adds.\npackage a\n\nfunc Add(x, y int) int { return x + y }\n", "x, y int) int {"),
    "java": ("// greet\nclass A { int f(int x) { return x + 1; } }\n", "f(int x) {"),
    "javascript": ("// greet\nconst f = async (x) => { await x; };\n", "=> {"),
    "json": ('{"a": [1, 2, {"b": null}]}\n', "[1,"),
    "kotlin": ("// greet\nfun main() { val x = listOf(1, 2); println(x) }\n", "fun main() {"),
    "lua": ("-- greet\nlocal function f(x) return x + 1 end\nprint(f(1))\n", "return x + 1 end"),
    "php": ("<?php\n// greet\nfunction f(int $x): int { return $x + 1; }\n", "f(int $x): int {"),
    "r": ("# add\nf <- function(x) { x + 1 }\nprint(f(1))\n", "{ x +"),
    "ruby": ("# greet\ndef f(x)\n  x.map { |y| y + 1 }\nend\n", "{ |y|"),
    "rust": ("// greet\nfn f(x: &str) -> Option<u8> { x.bytes().next() }\n", "-> Option<u8> {"),
    "scala": ("// greet\nobject A { def f(x: Int): Int = x + 1 }\n", "object A {"),
    "swift": ("// greet\nfunc f(_ x: Int) -> Int { return x + 1 }\n", "-> Int {"),
    "toml": ('# a table\n[a]\nb = "c"\nd = [1, 2]\n', "[a]\nb ="),
    "tsx": ("// view\nconst A = (p: P): JSX.Element => <b title={p.t}>x</b>;\n", "=> <b"),
    "typescript": ("// greet\ninterface A { x?: number }\nconst f = (a: A): number => a.x ?? 0;\n", "interface A {"),
    "cuda": ("// add\n__global__ void add(int *a) { a[threadIdx.x] += 1; }\n", "void add(int"),
    "yaml": ("# a\na:\n  - b: c\n    d: [1, 2]\n", "]"),
}  # fmt: skip


def code(language: str, text: str, **metadata) -> Document:
    return Document(
        "1", text, "s", "2024", metadata={"content_type": "code", "programming_language": language, **metadata}
    )


@pytest.fixture(scope="module")
def stage():
    stage = CodeSyntax(CodeConfig())
    yield stage
    stage.close()


def test_every_parsed_language_has_a_program_here():
    assert set(PROGRAMS) == PARSED and len(PARSED) >= 12


@pytest.mark.parametrize("language", sorted(PROGRAMS))
def test_a_program_parses_and_a_broken_one_does_not(language, stage):
    program, taken_out = PROGRAMS[language]
    assert taken_out in program
    document = code(language, program)
    assert stage(document) is document
    assert stage(code(language, program.replace(taken_out, ""))).reason == "code.syntax"


@pytest.mark.parametrize("language", sorted(set(PROGRAMS) & COMMENTED))
def test_comments_are_found_where_they_are(language):
    program, _ = PROGRAMS[language]
    ((start, end),) = parse((language, program, False, True))["comments"]
    comment = program[start:end].strip()
    assert comment in program.splitlines() and comment[:1] in "/#-"


def test_docstrings_are_comments_and_other_strings_are_not():
    source = '"""doc"""\nx = "no"\ndef f():\n    "d"\n    return "no"  # c\n'
    spans = parse(("python", source, False, True))["comments"]
    assert [source[start:end] for start, end in spans] == ['"""doc"""', '"d"', "# c"]


def test_one_macro_does_not_condemn_a_header_and_a_truncated_file_is_condemned(stage):
    header = "#ifndef A\n#define A\n" + "".join(f"int f{i}(int a, char *b);\n" for i in range(60)) + "#endif\n"
    odd = header.replace("int f7(", "EXPORT_API int MACRO(x) f7(")
    assert isinstance(stage(code("c", header)), Document) and isinstance(stage(code("c", odd)), Document)
    java = "class A {\n" + "".join(f"  int f{i}(int x) {{ return x + {i}; }}\n" for i in range(60)) + "}\n"
    assert stage(code("java", java[:-20])).reason == "code.syntax"
    # A header called .h may be C++.
    assert isinstance(stage(code("c", "namespace a { template <class T> class B { T x; }; }\n")), Document)


def test_a_tolerance_is_the_users_to_change():
    program = PROGRAMS["go"][0].replace("return", "retrun return", 1)
    strict, lax = CodeSyntax(CodeConfig()), CodeSyntax(CodeConfig(max_error_fraction={"go": 0.5}))
    assert strict(code("go", program)).reason == "code.syntax" and isinstance(lax(code("go", program)), Document)
    strict.close(), lax.close()


def test_what_cannot_be_parsed_in_bounds_is_dropped_unparsed():
    stage = CodeSyntax(CodeConfig(max_characters=100))
    assert stage(code("go", "x" * 101)) == Drop("code.too_long", 101)
    assert stage(code("go", "package a\x00")) == Drop("code.null_byte", 9)
    assert stage.child.process is None


def test_a_parser_that_crashes_costs_its_document_only():
    """PyYAML is asked for YAML because tree-sitter's scanner dies here; whatever else dies, dies in the child."""
    stage = CodeSyntax(CodeConfig())
    assert isinstance(stage(code("yaml", "- " * 2000)), Document)
    stage._tree_values(code("go", "package a\n"), "go")
    stage.child.process.kill()
    stage.child.process.wait()
    assert isinstance(stage(code("go", "package a\n")), Document)
    stage.close()


def test_a_parser_that_hangs_is_stopped():
    stage = CodeSyntax(CodeConfig(timeout_seconds=1))
    assert isinstance(stage(code("scala", PROGRAMS["scala"][0])), Document)  # imports are not what is timed
    with pytest.raises(ChildError, match="longer than 1 second"):
        stage(code("scala", "[" * 50_000))  # error recovery takes quadratic time in some grammars
    assert isinstance(stage(code("scala", PROGRAMS["scala"][0])), Document)
    stage.close()


@pytest.mark.parametrize("language", ["c", "go", "javascript", "json", "php", "ruby", "rust", "toml", "typescript"])
def test_nesting_is_no_danger(language, stage):
    for unit in ("(", "[", "{"):
        assert isinstance(stage(code(language, unit * 20_000)), Document | Drop)


LIMITS = CodeQuality(enabled=True)
GOOD = Measures(1000, 40, 100, 25.0, 0.6, 0.7, 0, 0.0, False, False, False)._asdict()


@pytest.mark.parametrize(
    ("language", "key", "inside", "outside", "reason"),
    [
        ("go", "lines", 100_000, 100_001, "code.lines"),
        ("go", "max_line", 1000, 1001, "code.line_length"),
        ("markdown", "max_line", 100_000, 100_001, "code.line_length"),
        ("go", "mean_line", 100.0, 100.1, "code.mean_line_length"),
        ("go", "alphabetic", 0.25, 0.2499, "code.alphabetic_fraction"),
        ("wat", "alphanumeric", 0.25, 0.2499, "code.alphanumeric_fraction"),
        ("go", "encoded_run", 1024, 1025, "code.encoded_run"),
        ("go", "encoded", 0.5, 0.5001, "code.encoded_fraction"),
        ("go", "generated", False, True, "code.generated"),
        ("javascript", "mean_line", 100.0, 110.1, "code.minified"),
        ("css", "minified_name", False, True, "code.minified"),
        ("xml", "xml", False, True, "code.xml"),
        ("json", "characters", 50, 49, "code.data_characters"),
        ("yaml", "characters", 5000, 5001, "code.data_characters"),
        ("text", "lines", 512, 513, "code.data_lines"),
    ],
)
def test_at_the_limit_a_file_stays(language, key, inside, outside, reason):
    assert text_rules(language, {**GOOD, key: inside}, LIMITS) is None
    assert text_rules(language, {**GOOD, key: outside}, LIMITS).reason == reason


@pytest.mark.parametrize(("comments", "drop"), [(0.01, False), (0.0099, True), (0.8, False), (0.8001, True)])
def test_comments_have_bounds(comments, drop):
    outcome = tree_rules("go", {"characters": 100, "comments": comments}, LIMITS)
    assert (outcome is not None) == drop and (not drop or outcome == Drop("code.comment_fraction", comments))


def test_a_page_shows_something():
    stage = CodeSyntax(CodeConfig(quality=LIMITS))
    shown = "<html><head><style>b {}</style><script>x()</script></head><body><p>" + "word " * 40 + "</p></body></html>"
    assert isinstance(stage(code("html", shown)), Document)
    hidden = shown.replace("x()", "x();" * 400)
    assert stage(code("html", hidden)).reason == "code.visible_fraction"
    assert stage(code("html", "<p>" + "w " * 30)).reason == "code.visible_characters"
    stage.close()


def test_null_and_disabled_switch_rules_off():
    off = CodeQuality(**{name: None for name in CodeQuality.model_fields if name.startswith(("max", "min"))},
                      enabled=True, drop_generated=False, drop_minified=False, drop_xml=False)  # fmt: skip
    worst = Measures(10**7, 10**6, 10**6, 10**5, 0.0, 0.0, 10**6, 1.0, True, True, True)._asdict()
    for language in ("go", "json", "html", "css"):
        assert text_rules(language, worst, off) is None
        assert tree_rules(language, {"characters": 9, "comments": 0.0, "visible": 0}, off) is None


@given(st.text(max_size=300))
def test_measures_are_their_definitions(text):
    values = measure(text, "")
    lines = text.splitlines()
    assert values.characters == len(text) and values.lines == len(lines)
    assert values.max_line == max([len(line) for line in lines], default=0)
    assert values.alphabetic == round(sum(character.isalpha() for character in text) / max(len(text), 1), 4)
    assert values.alphanumeric == round(sum(character.isalnum() for character in text) / max(len(text), 1), 4)


@pytest.mark.parametrize(
    ("text", "run", "total"),
    [
        ("x = 1", 0, 0),
        ('k = "' + "QUJDRA19" * 8 + '"', 64, 64),
        ('k = "' + "QUJDRA19" * 7 + '"', 0, 0),
        ("words" * 40, 0, 0),  # 200 letters without a digit
        ("\\u0041" * 8, 48, 48),
        ("\\u0041" * 7, 0, 0),
        ("\\x48" * 8, 32, 32),
        ("0x48, " * 8, 48, 48),
        ("de ad " * 2 + "zz", 0, 0),
    ],
)
def test_encoded_data_is_counted_in_characters(text, run, total):
    assert encoded_data(text) == (run, total)


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("// Code generated by protoc-gen-go. DO NOT EDIT.\npackage a\n", "a.go", True),
        ("# -*- x -*-\n# Generated by the protocol buffer compiler.  DO NOT EDIT!\n", "a.py", True),
        ("\n\n\n\n# This file is AUTO-GENERATED\n", "a.py", True),
        ("\n\n\n\n\n# This file is auto-generated\n", "a.py", False),  # the sixth line
        ("x = 1\n", "src/a_pb2.py", True),
        ("{}", "web/package-lock.json", True),
        ("# A generator of passwords\n", "generate.py", False),
    ],
)
def test_generated_files_say_so(text, path, expected):
    assert generated(text, path) is expected


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"programming_language": "C++"}, "cpp"),
        ({"lang": "Shell", "ext": "py"}, "bash"),
        ({"language": "en", "path": "a/b.RS"}, "rust"),
        ({"language": "C#"}, "csharp"),
        ({"ext": "tsx"}, "tsx"),
        ({"max_stars_repo_path": "a\\b.kt"}, "kotlin"),
        ({"programming_language": "Klingon"}, "klingon"),
        ({"path": "data.jsonl.gz"}, None),
        ({}, None),
    ],
)
def test_the_language_is_what_metadata_says_else_what_the_name_says(metadata, expected):
    assert language_of(metadata) == expected


STRICT = CodeSyntax(CodeConfig(quality=LIMITS))


def corpus() -> list[Document]:
    """Programs whole, truncated, generated, commented to death: of every verdict some."""
    draw = random.Random(3)
    documents = []
    for language, (program, _) in sorted(PROGRAMS.items()):
        long = program * draw.randint(1, 3)
        documents += [code(language, text) for text in (program, long[: len(long) * 2 // 3], "x" * 1200, "\n" * 5)]
        documents.append(code(language, "// Code generated by x. DO NOT EDIT.\n" + program))
    documents += [code("python", text) for text in ("x = 1  # one\n", "print 'x'\n", '"""only"""\n', "x\x00")]
    return documents


@pytest.mark.parametrize("quality", [False, True])
def test_measuring_apart_from_deciding_changes_no_verdict(quality):
    stage = CodeSyntax(CodeConfig(quality=CodeQuality(enabled=quality)))
    reasons = set()
    for document in corpus():
        at_once, measured = stage(document), stage.measure(document)
        decided = stage.decide(measured)
        if isinstance(at_once, Drop):
            assert decided == at_once
            reasons.add(at_once.reason)
        else:
            assert isinstance(decided, Document) and decided.text == at_once.text
    assert len(reasons) >= (5 if quality else 2), reasons
    stage.close()


def test_thresholds_apply_to_stored_values_without_parsing_again():
    first = CodeSyntax(CodeConfig())
    measured = first.measure(code("go", PROGRAMS["go"][0]))
    first.close()
    second = CodeSyntax(CodeConfig(quality=CodeQuality(enabled=True, max_comment_fraction=0.1)))
    assert second.measure(measured) is measured
    assert second.decide(measured).reason == "code.comment_fraction" and second.child.process is None


@given(st.text(max_size=200), st.sampled_from(sorted(PARSED | {"python", None, "klingon"}, key=str)))
def test_any_text_in_any_language_gets_a_verdict(text, language):
    document = Document("1", text, "s", "2", metadata={"content_type": "code", "programming_language": language})
    outcome = STRICT(document)
    assert isinstance(outcome, Document) or outcome.reason.startswith("code.")


@pytest.mark.parametrize("unit", ["a", "aa ", "00,", "\\u0041", "\\x48", "A9" * 31 + " ", "\n", "(c) ", "generated "])
def test_measuring_takes_linear_time(unit):
    from time import process_time

    def seconds(size):
        text = (unit * (size // len(unit) + 1))[:size]
        times = []
        for _ in range(3):
            start = process_time()
            measure(text, "a.go")
            times.append(process_time() - start)
        return min(times)

    assert seconds(320_000) < 24 * max(seconds(40_000), 0.0005)
