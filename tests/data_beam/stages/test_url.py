"""Domains match with all that lies below them, words match whole."""

import gzip

import pytest

from data_beam.document import Document
from data_beam.stages.url import UrlFilter, host_of
from maxllm.config.curate import UrlConfig
from maxllm.config.errors import UserError


@pytest.fixture
def url_filter(tmp_path) -> UrlFilter:
    (tmp_path / "domains").write_text("# a comment\nspam.example\n.Casino.example.\nbad.co.uk\n\n")
    with gzip.open(tmp_path / "words.gz", "wt") as stream:
        stream.write("poker\nXXX\n")
    return UrlFilter(UrlConfig(domain_files=[str(tmp_path / "domains")], word_files=[str(tmp_path / "words.gz")]))


@pytest.mark.parametrize(
    ("url", "reason", "value"),
    [
        ("https://spam.example/page", "url.domain", "spam.example"),
        ("https://www.shop.spam.example:8080/", "url.domain", "spam.example"),
        ("http://user:pass@SPAM.example./x", "url.domain", "spam.example"),
        ("spam.example/no-scheme", "url.domain", "spam.example"),
        ("https://casino.example", "url.domain", "casino.example"),
        ("https://x.bad.co.uk/", "url.domain", "bad.co.uk"),
        ("https://good.example/play-poker-now", "url.word", "poker"),
        ("https://good.example/a?q=XXX", "url.word", "xxx"),
        ("https://xxx.example/", "url.word", "xxx"),
        ("https://notspam.example/", None, None),
        ("https://spam.example.org/", None, None),
        ("https://co.uk/", None, None),
        ("https://good.example/pokerface", None, None),
        ("https://good.example/spam.example", None, None),
        ("http://[broken", None, None),
        ("", None, None),
    ],
)
def test_listed_domains_and_words_are_dropped_and_nothing_else(url_filter, url, reason, value):
    document = Document("1", "text", "test", "2024", metadata={"url": url})
    result = url_filter(document)
    if reason is None:
        assert result is document
    else:
        assert (result.reason, result.value) == (reason, value)


def test_a_document_without_a_url_stays(url_filter):
    for metadata in ({}, {"url": None}, {"url": 3}):
        document = Document("1", "text", "test", "2024", metadata=metadata)
        assert url_filter(document) is document


def test_a_missing_list_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match="url.word_files: .*nowhere"):
        UrlFilter(UrlConfig(word_files=[str(tmp_path / "nowhere")]))


def test_an_entry_that_could_never_match_is_the_users_error(tmp_path):
    (tmp_path / "words").write_text("poker\nfree-poker\n")
    with pytest.raises(UserError, match="'free-poker' is not one word"):
        UrlFilter(UrlConfig(word_files=[str(tmp_path / "words")]))


def test_host_of_an_ipv6_address():
    assert host_of("http://[::1]:80/x") == "::1"
