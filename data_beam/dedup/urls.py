"""One document a URL: URLs that differ only in how they are written, or in who sent the reader, are the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote, unquote, urlsplit

import apache_beam as beam
import xxhash

from data_beam.dedup.groups import Pair
from data_beam.dedup.nodes import node
from data_beam.document import Document

_PORTS = {"http": 80, "https": 443}
# Who sent the reader, and which campaign; never what the page shows.
_TRACKING = re.compile(
    r"utm_\w+|gclid|gclsrc|dclid|gbraid|wbraid|fbclid|msclkid|yclid|twclid|ttclid|igshid|mc_cid|mc_eid|_hs(enc|mi)|_ga"
)


def normalised_url(url: str) -> str | None:
    """The URL as documents are compared by it; None for what is not an absolute http(s) URL.

    Host in lower case without a trailing dot (international names in their ASCII form); no default port, user name,
    fragment, tracking parameter or trailing slash; parameters sorted; %-escapes of unreserved characters undone
    (RFC 3986, section 6.2.2). http and https are the same page; www. and the case of paths are kept apart, as servers
    may tell them apart.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = (parts.hostname or "").rstrip("."), parts.port
        host = host.encode("idna").decode() if not host.isascii() else host
    except (ValueError, UnicodeError):
        return None
    if parts.scheme not in _PORTS or not host:
        return None
    if port is not None and port != _PORTS[parts.scheme]:
        host = f"{host}:{port}"
    query = sorted(_escaped(item) for item in parts.query.split("&") if item and not _tracks(item))
    path = _escaped(parts.path).rstrip("/")
    return f"{host}{path}" + (f"?{'&'.join(query)}" if query else "")


def _tracks(item: str) -> bool:
    return _TRACKING.fullmatch(item.partition("=")[0].lower()) is not None


_ESCAPE = re.compile(r"%[0-9a-fA-F]{2}")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def _escaped(part: str) -> str:
    part = _ESCAPE.sub(lambda match: c if (c := unquote(match[0])) in _UNRESERVED else match[0].upper(), part)
    return quote(part, safe="%!$&'()*+,;=:@/?-._~[]", errors="replace")


def _keyed(document: Document) -> Iterator[Pair]:
    url = document.metadata.get("url")
    normalised = normalised_url(url) if isinstance(url, str) else None
    if normalised is not None:
        yield xxhash.xxh3_128_digest(normalised.encode()), node(document)


class Urls(beam.PTransform):
    """Documents -> (hash of the URL, document's node), of those that came with a URL in their metadata"""

    def expand(self, documents: beam.PCollection[Document]) -> beam.PCollection[Pair]:
        return documents | "urls" >> beam.FlatMap(_keyed).with_output_types(Pair)
