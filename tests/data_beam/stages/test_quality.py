"""Each rule at its published threshold: exactly at it a document stays, a step beyond it goes, null switches it off."""

import pytest

from data_beam.document import Document, Drop
from data_beam.stages.quality import Quality
from data_beam.stages.rules.c4 import c4_lines, c4_page
from data_beam.stages.rules.fineweb import fineweb_quality
from data_beam.stages.rules.gopher import gopher_quality, gopher_repetition
from data_beam.stages.rules.lines import without_lines
from data_beam.text.signals import Signals
from maxllm.config.rules import C4Quality, FineWebQuality, GopherQuality, GopherRepetition, QualityConfig

GOPHER_OFF = GopherQuality(**{name: None for name in GopherQuality.model_fields if name[:4] in ("min_", "max_")})
REPETITION_OFF = GopherRepetition(
    **{name: None for name in GopherRepetition.model_fields if name.endswith(("line_fraction", "paragraph_fraction"))},
    max_duplicate_line_character_fraction=None,
    max_duplicate_paragraph_character_fraction=None,
    max_top_ngram_character_fraction={},
    max_duplicate_ngram_character_fraction={},
)
FINEWEB_OFF = FineWebQuality(
    min_line_punctuation_ratio=None,
    max_short_line_ratio=None,
    max_duplicate_line_character_ratio=None,
    max_newline_word_ratio=None,
)
C4_OFF = C4Quality(
    terminal_punctuation=False,
    remove_citations=False,
    min_words_per_line=None,
    min_sentences=None,
    max_word_length=None,
    drop_javascript_lines=False,
    drop_policy_lines=False,
    drop_lorem_ipsum=False,
    drop_curly_brace=False,
)


def words(count: int, length: int = 4) -> str:
    """Distinct words of one length."""
    return " ".join(
        f"{i:0{length}d}"[-length:].translate(str.maketrans("0123456789", "abcdefghij")) for i in range(count)
    )


GOPHER = [
    # setting, its published value, a text that stays, a text that goes, the reason
    ("min_words", 50, words(50), words(49), "gopher.word_count"),
    ("min_words", 50, words(50), words(49) + " -- | #", "gopher.word_count"),
    ("max_words", 100_000, words(100_000, 6), words(100_001, 6), "gopher.word_count"),
    ("min_mean_word_length", 3, words(20, 3), words(19, 3) + " xx", "gopher.mean_word_length"),
    ("max_mean_word_length", 10, words(20, 10), words(19, 10) + " elevencharz", "gopher.mean_word_length"),
    ("max_symbol_word_ratio", 0.1, words(9) + " #", words(9) + " ##", "gopher.symbol_word_ratio"),
    ("max_symbol_word_ratio", 0.1, words(9) + " …", words(9) + " ...…", "gopher.symbol_word_ratio"),
    ("max_bullet_line_fraction", 0.9, "- a\n" * 9 + "a", "- a\n" * 10, "gopher.bullet_line_fraction"),
    ("max_bullet_line_fraction", 0.9, " • a\n\n" * 9 + "a", " • a\n\n" * 91 + "a\n" * 9, "gopher.bullet_line_fraction"),
    (
        "max_ellipsis_line_fraction",
        0.3,
        "a...\n" * 3 + "a\n" * 7,
        "a…\n" * 4 + "a\n" * 6,
        "gopher.ellipsis_line_fraction",
    ),
    ("min_alphabetic_word_fraction", 0.8, "a b c d 5", "a b c 4 5", "gopher.alphabetic_word_fraction"),
    ("min_stop_words", 2, "the dog of", "the dog the", "gopher.stop_words"),
]


@pytest.mark.parametrize(("setting", "value", "stays", "goes", "reason"), GOPHER)
def test_gopher_quality_at_its_thresholds(setting, value, stays, goes, reason):
    assert getattr(GopherQuality(), setting) == value
    only = GOPHER_OFF.model_copy(update={setting: value})
    assert gopher_quality(Signals(stays), only) is None
    assert gopher_quality(Signals(goes), only).reason == reason
    assert gopher_quality(Signals(goes), GOPHER_OFF) is None


LINE = "0123456789"
REPETITION = [
    # Fractions of lines and paragraphs: 3 of 10 are repeats, then 4 of 10.
    ("max_duplicate_line_fraction", 0.30, "\n".join("abcdefgaaa"), "\n".join("abcdefaaaa"), "duplicate_line_fraction"),
    (
        "max_duplicate_paragraph_fraction",
        0.30,
        "\n\n".join("abcdefgaaa"),
        "\n \n".join("abcdefaaaa"),
        "duplicate_paragraph_fraction",
    ),
    # 10 of 50 characters are in the repeated line, then 10 of 49.
    (
        "max_duplicate_line_character_fraction",
        0.20,
        f"{LINE}\n{LINE}\n" + "x" * 28,
        f"{LINE}\n{LINE}\n" + "x" * 27,
        "duplicate_line_character_fraction",
    ),
    (
        "max_duplicate_paragraph_character_fraction",
        0.20,
        f"{LINE}\n\n{LINE}\n\n" + "x" * 26,
        f"{LINE}\n\n{LINE}\n\n" + "x" * 25,
        "duplicate_paragraph_character_fraction",
    ),
]


@pytest.mark.parametrize(("setting", "value", "stays", "goes", "reason"), REPETITION)
def test_gopher_repetition_of_lines_at_its_thresholds(setting, value, stays, goes, reason):
    assert getattr(GopherRepetition(), setting) == value
    only = REPETITION_OFF.model_copy(update={setting: value})
    assert gopher_repetition(Signals(stays), only) is None
    assert gopher_repetition(Signals(goes), only).reason == f"repetition.{reason}"
    assert gopher_repetition(Signals(goes), REPETITION_OFF) is None


@pytest.mark.parametrize(("n", "limit"), [(2, 0.20), (3, 0.18), (4, 0.16)])
def test_gopher_repetition_of_the_top_ngram_at_its_thresholds(n, limit):
    gram = " ".join(["pqrst"] + list("uvw")[: n - 1])
    covered = 2 * len(gram)  # twice: once at each end
    total = covered / limit
    assert GopherRepetition().max_top_ngram_character_fraction[n] == limit
    only = REPETITION_OFF.model_copy(update={"max_top_ngram_character_fraction": {n: limit}})
    for characters, expected in (
        (int(total) + 1, None),
        (int(total) - 1, f"repetition.top_{n}gram_character_fraction"),
    ):
        text = f"{gram} {'x' * (characters - covered - 2)} {gram}"
        assert len(text) == characters
        drop = gopher_repetition(Signals(text), only)
        assert (drop and drop.reason) == expected
        assert gopher_repetition(Signals(text), REPETITION_OFF) is None


@pytest.mark.parametrize(("n", "limit"), [(5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10)])
def test_gopher_repetition_of_ngrams_at_its_thresholds(n, limit):
    gram = " ".join("abcdefghij"[:n])
    total = n / limit  # n letters are seen a second time; spaces are not counted in them, but in the text
    assert GopherRepetition().max_duplicate_ngram_character_fraction[n] == limit
    only = REPETITION_OFF.model_copy(update={"max_duplicate_ngram_character_fraction": {n: limit}})
    reason = f"repetition.duplicate_{n}gram_character_fraction"
    for characters, expected in ((int(total) + 1, None), (int(total) - 1, reason)):
        text = f"{gram} {'x' * (characters - 2 * len(gram) - 2)} {gram}"
        assert len(text) == characters
        drop = gopher_repetition(Signals(text), only)
        assert (drop and drop.reason) == expected


@pytest.mark.parametrize(
    ("setting", "line", "stays"),
    [
        ({"terminal_punctuation": True}, "It has no end", "It has one."),
        ({"terminal_punctuation": True}, "It goes on...", "Does it?"),
        ({"terminal_punctuation": True}, "a list:", "He said “yes”"),
        ({"min_words_per_line": 3}, "Two words.", "Just three words."),
        ({"min_words_per_line": 5}, "Only four words here.", "Now it is five words."),
        ({"max_word_length": 1000}, "x" * 1001, "x" * 1000),
        ({"drop_javascript_lines": True}, "Please enable JavaScript to go on.", "Please enable Java."),
        ({"drop_policy_lines": True}, "Read our Privacy Policy.", "Read our policy."),
        ({"drop_policy_lines": True}, "This site uses cookies.", "This site sells cookies."),
    ],
)
def test_c4_line_rules_remove_lines_not_pages(setting, line, stays):
    only = C4_OFF.model_copy(update=setting)
    signals = Signals(f"{line}\n{stays}\n")
    assert c4_lines(signals, only) == [None, stays]
    assert c4_lines(signals, C4_OFF) == [line, stays]


def test_c4_takes_citations_out_of_lines_before_it_looks_at_their_end():
    only = C4_OFF.model_copy(update={"remove_citations": True, "terminal_punctuation": True})
    assert c4_lines(Signals("It is so.[12]\nAnd so.[citation needed]\nNot [a] so"), only) == [
        "It is so.",
        "And so.",
        None,
    ]


@pytest.mark.parametrize(
    ("setting", "goes", "stays", "reason"),
    [
        ({"min_sentences": 5}, "A. B. C. D.", "A. B. C. D. E.", "c4.sentences"),
        ({"min_sentences": 5}, "A\nB\nC\nD", "A\nB\nC\nD\nE", "c4.sentences"),
        ({"min_sentences": 3}, "A. B.", "A. B. C.", "c4.sentences"),
        ({"drop_curly_brace": True}, "if (x) { y }", "if (x) y", "c4.curly_brace"),
        ({"drop_lorem_ipsum": True}, "Lorem Ipsum dolor", "lorem dolor", "c4.lorem_ipsum"),
    ],
)
def test_c4_page_rules(setting, goes, stays, reason):
    only = C4_OFF.model_copy(update=setting)
    assert c4_page(stays.split("\n"), only) is None
    assert c4_page(goes.split("\n"), only).reason == reason
    assert c4_page(goes.split("\n"), C4_OFF) is None


def test_c4_judges_the_page_by_the_lines_that_are_left():
    page = "Menu { home }\n" + "This is a sentence of the page. " * 5
    limits = C4Quality()
    assert c4_page(c4_lines(Signals(page), limits), limits) is None
    paper = limits.model_copy(update={"terminal_punctuation": False})
    assert c4_page(c4_lines(Signals(page), paper), paper).reason == "c4.curly_brace"


LONG = "x" * 30 + "y"
FINEWEB = [
    ("min_line_punctuation_ratio", 0.12, "a.\n" * 3 + "a\n" * 22, "a.\n" * 2 + "a\n" * 22, "line_punctuation_ratio"),
    (
        "max_short_line_ratio",
        0.67,
        ("a\n" * 67) + f"{LONG}\n" * 33,
        ("a\n" * 68) + f"{LONG}\n" * 32,
        "short_line_ratio",
    ),
    # A line of one character is repeated: 1 of 100 characters, then 1 of 99; new lines do not count.
    (
        "max_duplicate_line_character_ratio",
        0.01,
        "a\na\n" + "x" * 98,
        "a\na\n" + "x" * 97,
        "duplicate_line_character_ratio",
    ),
    ("max_newline_word_ratio", 0.3, "a " * 7 + "a\na\na\n", "a " * 7 + "a\n\na\na\n", "newline_word_ratio"),
]


@pytest.mark.parametrize(("setting", "value", "stays", "goes", "reason"), FINEWEB)
def test_fineweb_quality_at_its_thresholds(setting, value, stays, goes, reason):
    assert getattr(FineWebQuality(), setting) == value
    only = FINEWEB_OFF.model_copy(update={setting: value})
    assert fineweb_quality(Signals(stays), only) is None
    assert fineweb_quality(Signals(goes), only).reason == f"fineweb.{reason}"
    assert fineweb_quality(Signals(goes), FINEWEB_OFF) is None


def test_fineweb_duplicate_characters_by_the_paper_and_by_the_code():
    text = "a\na\n" + "x" * 48  # 1 of 50 characters
    code, paper = FineWebQuality(), FineWebQuality(max_duplicate_line_character_ratio=0.1)
    off = {"min_line_punctuation_ratio": None, "max_short_line_ratio": None, "max_newline_word_ratio": None}
    assert fineweb_quality(Signals(text), code.model_copy(update=off)).value == 0.02
    assert fineweb_quality(Signals(text), paper.model_copy(update=off)) is None


PROSE = """\
The tower was built of grey stone in the year that the river changed its course.
Children climbed its steps to see ships come home, and to be told stories by an old keeper.
Nobody remembers why the lamp was lit on winter mornings, but sailors have spoken of it with thanks.
When a new harbour opened further south, trade moved away and most families left with it.
Today visitors walk up from the station, pay a small fee, and take photographs of gulls.
Would you expect such a quiet place to have decided a war?"""


def document(text: str, **metadata) -> Document:
    return Document("1", text, "test", "2024-01-01", metadata=metadata)


def test_single_ngram_lengths_can_be_switched_off():
    text = "one two three four five six. " * 30
    assert gopher_repetition(Signals(text), GopherRepetition()) is not None
    off = {n: None for n in range(2, 11)}
    limits = REPETITION_OFF.model_copy(
        update={"max_top_ngram_character_fraction": off, "max_duplicate_ngram_character_fraction": off}
    )
    assert gopher_repetition(Signals(text), limits) is None


def test_ordinary_prose_passes_all_rules_and_comes_back_as_it_was():
    kept = Quality(QualityConfig())(document(PROSE))
    assert kept == document(PROSE)


def test_removed_lines_are_gone_from_the_text_and_counted():
    kept = Quality(QualityConfig())(document("Home | About\n" + PROSE + "\nShare this"))
    assert kept.text == PROSE
    assert kept.metadata["c4_lines_removed"] == 2


def test_removed_lines_leave_indentation_and_paragraphs_as_they_were():
    text = "Top menu\n\n  The first one stays.[3]\n\tIt goes on here.\n\nShare\n\n\n\nThe last one stays.\nFooter"
    limits = C4Quality(min_sentences=None)
    lines = c4_lines(Signals(text), limits)
    expected = "  The first one stays.\n\tIt goes on here.\n\nThe last one stays."
    assert without_lines(text, lines) == expected
    assert without_lines(text, Signals(text).lines) == text.replace("\n\n\n", "\n")


def test_fineweb_sees_what_c4_left():
    menu = "\n".join(f"entry {i}" for i in range(20))
    only_fineweb = QualityConfig(gopher={"enabled": False}, repetition={"enabled": False}, c4={"enabled": False})
    assert Quality(only_fineweb)(document(PROSE + "\n" + menu)).reason == "fineweb.short_line_ratio"
    with_c4 = QualityConfig(gopher={"enabled": False}, repetition={"enabled": False})
    assert Quality(with_c4)(document(PROSE + "\n" + menu)).text == PROSE


@pytest.mark.parametrize("name", ["gopher", "repetition", "c4", "fineweb"])
def test_each_set_can_be_switched_off(name):
    bad = {
        "gopher": "The dog of it.",
        "repetition": "one two three four five six. " * 30,
        "c4": "The dog of it { }.",
        "fineweb": "no end\n" * 3 + "of lines",
    }[name]
    sets = {"gopher", "repetition", "c4", "fineweb"}
    only = {other: {"enabled": False} for other in sets - {name}}
    drop = Quality(QualityConfig(**only))(document(bad))
    assert isinstance(drop, Drop) and drop.reason.startswith(f"{name}.")
    off = {other: {"enabled": False} for other in sets}
    assert Quality(QualityConfig(**off))(document(bad)).text == bad


def test_source_code_is_not_judged_as_prose():
    code = document("x = {1}\n" * 3, content_type="code")
    assert Quality(QualityConfig())(code) is code


@pytest.mark.parametrize("text", ["", "\n", "\x00", "\ud800 \udfff", "\x1c\x1d", "a" * 100_000, "\u2028" * 10])
def test_no_text_raises(text):
    assert isinstance(Quality(QualityConfig())(document(text)), Drop)
