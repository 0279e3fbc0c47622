"""The page in a real browser: Chromium, headless, clicked and typed into."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_beam.inspect.page import exported
from data_beam.inspect.server import Server
from data_beam.inspect.store import Store
from tests.data_beam.inspect.browser import Browser, executable
from tests.data_beam.inspect.conftest import WORD

pytestmark = pytest.mark.skipif(executable() is None, reason="no chromium on this machine: the page was not looked at")
MARKS = "[...document.querySelectorAll('{} mark')].map(mark => mark.textContent)"


@pytest.fixture(scope="module")
def store(run_folder: Path) -> Store:
    store = Store(":memory:")
    store.fill(str(run_folder), 1000)
    return store


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(params=["served", "exported"])
def address(request, store, tmp_path) -> Iterator[str]:
    if request.param == "exported":
        (tmp_path / "page.html").write_text(exported(store, 20), encoding="utf-8")
        yield f"file://{tmp_path}/page.html"
        return
    with Server(0, store) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def listed(browser: Browser) -> list[str]:
    browser.shown()
    return browser.run("[...document.querySelectorAll('#list .row b')].map(row => row.textContent)")


def choose(browser: Browser, filter: str, value: str) -> None:
    browser.click(f'button[data-filter="{filter}"][data-value="{value}"]')
    browser.until(f"location.hash.includes('{filter}=')")
    browser.shown()


def open_named(browser: Browser, name: str) -> None:
    browser.click(f"#list .row:nth-of-type({listed(browser).index(name) + 1})")
    browser.until("document.getElementById('title')?.textContent === " + repr(name))


def test_a_reader_filters_searches_compares_follows_the_funnel_and_goes_back(browser, address, store):
    browser.requests.clear()
    browser.errors.clear()
    browser.open(address)
    assert browser.run("[...document.querySelectorAll('.card b')].map(each => each.textContent)") == [
        "18",
        "13",
        "4",
        "1",
    ]
    assert listed(browser) == [row["name"] for row in store.page({}, 0, 50)["rows"]]
    assert browser.run("document.title") == "What was kept, and what was dropped"

    # A stage of the funnel, then a duplicate beside the one that stayed.
    browser.click('button[data-stage="fuzzy_dedup"]')
    browser.until("location.hash.includes('stage=fuzzy_dedup')")
    assert listed(browser) == ["near-copy.txt"]
    open_named(browser, "near-copy.txt")
    assert browser.run(MARKS.format("#left")) == ["zeppelin"]
    [original] = browser.run(MARKS.format("#right"))
    assert (
        original and original != "zeppelin" and original in browser.run("document.getElementById('right').textContent")
    )
    assert browser.run("document.getElementById('differences').textContent") == "1 difference"
    browser.click("#later")
    browser.until("document.querySelectorAll('mark.now').length === 2")

    # The one that stayed, what it displaced, and back by the browser's own button.
    browser.click("#kept")
    browser.until("document.getElementById('title').textContent === 'original.txt'")
    assert "1 went because this one stayed" in browser.run("document.getElementById('main').textContent")
    browser.click("button[data-copy]")
    browser.until("document.getElementById('left') !== null")
    browser.run("history.back()")
    browser.until("document.getElementById('title').textContent === 'original.txt'")
    browser.run("history.go(-3)")
    browser.until("document.getElementById('cards') !== null")
    assert len(listed(browser)) == 18

    # Filters, and leaving them.
    choose(browser, "folder", "rejected")
    assert len(listed(browser)) == 4
    choose(browser, "reason", "exact_dedup.duplicate")
    assert listed(browser) == ["exact-copy.txt"]
    open_named(browser, "exact-copy.txt")
    assert browser.run("document.getElementById('differences').textContent") == "The same words"
    assert browser.run(MARKS.format("#left")) == []
    browser.click("#clear")
    browser.until("document.querySelectorAll('#list .row').length === 18")

    # What is typed is searched for as it is typed, and is marked in the text.
    browser.click("#query")
    browser.type(f"{WORD[:5].upper()} 京都")
    browser.until("document.querySelectorAll('#list .row').length === 1")
    open_named(browser, "sea/0.txt")
    assert browser.run(MARKS.format("#text")) == [WORD[:5], "京都"]
    assert "scores.education2.5" in browser.run("document.querySelector('.facts').textContent")
    browser.click("#clear")
    browser.until("document.querySelectorAll('#list .row').length === 18")
    assert browser.run("document.getElementById('query').value") == ""

    # Spans of evaluation items are marked where they stand, behind a character of two UTF-16 units.
    choose(browser, "stage", "decontamination")
    open_named(browser, "leak.txt")
    [span] = browser.run(MARKS.format("#text"))
    assert span.startswith("Which of the small boats") and span.endswith("storm came")

    # A dead letter says why.
    browser.click("#clear")
    browser.until("document.querySelectorAll('#list .row').length === 18")
    choose(browser, "folder", "dead")
    browser.click("#list .row")
    browser.until("document.getElementById('text')?.textContent.includes('JSON')")

    assert browser.errors == []
    assert all(request.startswith(address) for request in browser.requests), browser.requests
    if address.startswith("file:"):
        assert set(browser.requests) == {address}


def test_what_a_document_says_never_runs_and_what_it_hides_is_seen(browser, address):
    browser.requests.clear()
    browser.errors.clear()
    browser.open(address)
    for name in ("<script>window.ran = 6</script>", 'hostile"><script>window.ran = 7</script>'):
        open_named(browser, name)
        text = browser.run("document.getElementById('text').textContent")
        assert '<script>window.ran = 1</script></script><script>window.ran = 2</script><img src="http:' in text
        assert "${window.ran = 5}" in text and "@DATA@ @SCRIPT@" in text
        odd = browser.run("[...document.querySelectorAll('#text .odd')].map(each => each.textContent)")
        assert {"U+2028", "U+202E", "U+202C", "U+200B"} <= set(odd)
        assert "\u202e" not in text and "\u200b" not in text
    browser.run("new Promise(done => setTimeout(done, 100))")
    assert browser.run("[typeof window.ran, document.images.length, document.scripts.length]") == ["undefined", 0, 2]
    assert browser.errors == []
    assert all(request.startswith(address) for request in browser.requests), browser.requests


def test_markup_that_got_in_all_the_same_would_not_run(browser, address):
    """The second wall: the page's policy knows its own scripts by their hashes."""
    browser.open(address)
    browser.errors.clear()
    browser.requests.clear()
    browser.run(
        "document.getElementById('main').innerHTML = "
        '\'<img src="http://127.0.0.1:9/x.png" onerror="window.ran = 9"><iframe src="http://127.0.0.1:9/"></iframe>\''
    )
    browser.run(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 10'}))"
    )
    browser.run("fetch('http://127.0.0.1:9/').catch(() => 0)")
    assert browser.run("typeof window.ran") == "undefined"
    assert len([error for error in browser.errors if "Content Security Policy" in error]) >= 3


def longest_common(a: list[str], b: list[str]) -> int:
    """The obvious twin: the table of all beginnings."""
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, one in enumerate(a):
        for j, other in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if one == other else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def test_differences_are_the_fewest_and_leave_the_same_text_on_both_sides(browser, store, tmp_path):
    (tmp_path / "page.html").write_text(exported(store, 1), encoding="utf-8")
    browser.open(f"file://{tmp_path}/page.html")
    generator = random.Random(0)
    for _ in range(60):
        a, b = ([generator.choice("abcd") for _ in range(generator.randrange(12))] for _ in range(2))
        same = browser.run(f"(found => found.map(each => [...each]))(aligned({json.dumps(a)}, {json.dumps(b)}))")
        left, right = (
            [word for word, alike in zip(*each, strict=True) if alike] for each in zip((a, b), same, strict=True)
        )
        assert left == right and len(left) == longest_common(a, b)
    # Whatever is marked: what is not is the same words, and of two texts with nothing alike all is marked.
    left, right = "one two three four five. " * 40, "six seven eight " * 40
    assert browser.run(f"compare({json.dumps(left)}, {json.dumps(right)}).sides.map(side => side.length)") == [1, 1]
    # Too much to align: marked is what shares no three words in a row.
    left = " ".join(f"a{n}" for n in range(3000)) + " the same few words"
    right = "the same few words " + " ".join(f"b{n}" for n in range(3000))
    found = browser.run(f"compare({json.dumps(left)}, {json.dumps(right)})")
    assert found["differences"] is None
    assert [len(side) for side in found["sides"]] == [1, 1]
    assert left[found["sides"][0][0]["end"] :] == " the same few words"
    assert right[: found["sides"][1][0]["start"]] == "the same few words "
