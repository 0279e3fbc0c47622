"""URL filter: lists of domains and of words. RefinedWeb's first step (Penedo et al. 2023, arXiv 2306.01116)."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from data_beam.document import Document, Drop
from data_beam.stages.files import read_lines
from maxllm.config.curate import UrlConfig
from maxllm.config.errors import UserError

_WORDS = re.compile(r"[^\W_]+")


def host_of(url: str) -> str:
    """Lower-case host name without port and trailing dot; empty when there is none."""
    try:
        host = urlsplit(url if "//" in url else f"//{url}").hostname
    except ValueError:
        return ""
    return (host or "").rstrip(".").lower()


def domains_of(host: str) -> list[str]:
    """The host and every domain it lies in: a.b.c, b.c, c."""
    parts = host.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]


def _entries(files: list[str], setting: str) -> frozenset[str]:
    lines = (line.strip().lower() for path in files for line in read_lines(path, setting))
    return frozenset(line for line in lines if line and not line.startswith("#"))


class UrlFilter:
    """Drops a document whose host is on, or lies below, a listed domain, or whose URL holds a listed word whole."""

    name = "url"

    def __init__(self, config: UrlConfig) -> None:
        self.domains = frozenset(entry.strip(".") for entry in _entries(config.domain_files, "url.domain_files"))
        self.words = _entries(config.word_files, "url.word_files")
        for word in sorted(self.words):
            if not _WORDS.fullmatch(word):
                raise UserError(f"url.word_files: {word!r} is not one word; URLs are compared word by word.")

    def check(self, url: str) -> Drop | None:
        if self.domains:
            for domain in domains_of(host_of(url)):
                if domain in self.domains:
                    return Drop("url.domain", domain)
        if self.words:
            listed = self.words.intersection(_WORDS.findall(url.lower()))
            if listed:
                return Drop("url.word", min(listed))
        return None

    def __call__(self, document: Document) -> Document | Drop:
        url = document.metadata.get("url")
        drop = self.check(url) if isinstance(url, str) else None
        return drop or document
