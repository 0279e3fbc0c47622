"""A child process can always be stopped, and stopping it costs one job."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from data_beam.child import Child, ChildError
from data_beam.document import Document, Drop
from data_beam.stages import extract
from data_beam.stages.extract import Extract
from maxllm.config.curate import ExtractConfig

HERE = "tests.data_beam.test_child"


def work(job: str) -> str:
    if job == "hang in C":
        # Catastrophic backtracking: one C call that holds the interpreter and answers no Python signal handler.
        re.match(r"(a+)+$", "a" * 60 + "b")
    if job == "die":
        os._exit(3)
    if job == "raise":
        raise ValueError("no such\nthing")
    print("what a job prints disturbs nobody")
    return f"{job} by {os.getpid()}"


def page(job: tuple[str, str | None]) -> str:
    return work("hang in C") if "tarpit" in job[0] else extract.resiliparse_text(job)


@pytest.fixture
def child():
    child = Child(f"{HERE}:work", timeout_seconds=1.5, environment={"PYTHONPATH": str(Path(__file__).parents[2])})
    yield child
    child.close()


def pid(answer: str) -> int:
    return int(answer.rsplit(" ", 1)[1])


def test_one_child_serves_job_after_job_and_an_exception_costs_nothing(child):
    first = child.call("a")
    with pytest.raises(ChildError, match="ValueError: no such thing"):
        child.call("raise")
    assert pid(child.call("b")) == pid(first)


@pytest.mark.parametrize(
    ("job", "says"), [("hang in C", "longer than 1.5 seconds and was killed"), ("die", "status 3")]
)
def test_a_child_that_hangs_or_dies_is_replaced(child, job, says):
    first = pid(child.call("a"))
    started = time.monotonic()
    with pytest.raises(ChildError, match=says):
        child.call(job)
    assert time.monotonic() - started < 5
    assert pid(child.call("b")) != first
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


def test_a_child_that_died_between_jobs_costs_no_job(child):
    os.kill(pid(child.call("a")), 9)
    time.sleep(0.2)
    assert child.call("b").startswith("b by")


def test_a_child_that_cannot_start_says_why():
    with pytest.raises(ChildError, match="No module named 'nowhere'"):
        Child("nowhere:work", 1).call("a")


@pytest.mark.parametrize("extractor", ["trafilatura", "resiliparse"])
def test_extraction_finds_the_article(extractor):
    prose = "The tide went out before dawn, and the boats lay on their sides in the mud of the harbour. " * 8
    html = (
        f"<html><body><nav><a href=/>Home</a><a href=/x>Shop</a></nav><article><h1>Tides</h1><p>{prose}</p></article>"
    )
    stage = Extract(ExtractConfig(extractor=extractor))
    document = Document("1", html, "web", "", metadata={"content_type": "html"})
    text = stage(document).text
    assert "boats lay on their sides" in text and "Shop" not in text and "<" not in text
    assert isinstance(stage(document.with_text("<html><body></body></html>")), Drop)
    plain = document.with_text("as it is", content_type="text")
    assert stage(plain) is plain
    stage.close()


def test_a_page_that_hangs_the_extractor_costs_only_itself(monkeypatch):
    monkeypatch.setitem(extract.EXTRACTORS, "resiliparse", f"{HERE}:page")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    stage = Extract(ExtractConfig(extractor="resiliparse", timeout_seconds=1))
    good = Document("1", "<p>a good page with words", "web", "", metadata={"content_type": "html"})
    assert "good page" in stage(good).text
    with pytest.raises(ChildError, match="killed"):
        stage(good.with_text("<p>tarpit"))
    assert "good page" in stage(good).text
    stage.close()
