"""E-mail and IP addresses."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

# RFC 5321, section 4.5.3.1. They also bound what is looked at around each @, so that time is linear in the text.
MAX_LOCAL, MAX_DOMAIN = 64, 255
# RFC 5322's atom without the characters that quote, list or join things in running text and code: ' ` = | / ? # $ { }.
_LOCAL_REVERSED = re.compile(r"[\w.+%&*~^!-]+")
_DOMAIN = re.compile(r"[\w-]+(?:\.[\w-]+)+")
# RFC 2606 and 6761: nobody's.
_RESERVED_DOMAIN = re.compile(r"(?:^|\.)(?:example\.(?:com|net|org)|example|invalid|test|localhost|local)$")
_EDGES = ".+%&*~^!-"

# Not inside a longer number, name or dotted sequence (object identifiers, four-part versions followed by a fifth).
# (The look-behind stands after the first digit because a pattern that begins with a class is searched much faster.)
_IPV4 = re.compile(r"[0-9](?<![\w.:-][0-9])[0-9]{0,2}(?:\.[0-9]{1,3}){3}(?![\w-]|\.[0-9])")
# Global unicast is 2000::/3 (IANA): what is not, is nobody's, and would be found in C++ names like `add::face`.
_IPV6 = re.compile(r"[23](?<![\w:.][23])[0-9A-Fa-f]{3}:(?=[0-9A-Fa-f:]*[0-9])[0-9A-Fa-f:]{1,35}(?![\w:])")
# "version 8.5.4.1", "Chrome/9.0.2.1", "v1.2.3.4" (the v is a word character), "section 3.1.4.1".
_VERSION_BEFORE = re.compile(
    r"(?:\b(?:versions?|ver|v|release|rev|revision|build|firmware|patch|section|sec|chapter|clause|figure|table|rfc|oid)"
    r"[\s.:=\"'#]{0,3}|[A-Za-z_]/|§\s?|[=<>~^]=\s?[\"']?)$",
    re.IGNORECASE,
)
_NETWORK_NEAR = re.compile(r"\b(?:dns|server|nameserver|ip|host|address|ping|gateway)\b", re.IGNORECASE)
CONTEXT = 24  # characters before an IPv4 address that may call it a version


@cache
def top_level_domains() -> frozenset[str]:
    """Every last label of the public suffix list that the `tld` package carries, in lower case."""
    import tld

    path = Path(tld.__file__).parent / "res" / "effective_tld_names_public_only.dat.txt"
    lines = path.read_text(encoding="utf-8").splitlines()
    labels = {line.strip().rsplit(".", 1)[-1] for line in lines if line.strip() and not line.startswith("//")}
    return frozenset(labels | {label.encode("idna").decode() for label in labels if not label.isascii()})


def emails(text: str) -> Iterator[tuple[int, int, str]]:
    """`local@domain.tld` where the last label is a top-level domain; not `git@host:path`, not reserved domains.

    The top-level domain is what tells an address from `logo@2x.png`, `package@1.2.3` and `query@key.weight`.
    """
    at = text.find("@")
    last = 0
    while at >= 0:
        span = _email_at(text, at, last)
        if span is not None:
            last = span[1]
            yield *span, "email"
        at = text.find("@", max(at + 1, last))


def _email_at(text: str, at: int, last: int) -> tuple[int, int] | None:
    domain = _DOMAIN.match(text, at + 1, at + 1 + MAX_DOMAIN)
    if domain is None:
        return None
    local = _LOCAL_REVERSED.match(text[max(last, at - MAX_LOCAL) : at][::-1])
    if local is None:
        return None
    name = local.group()[::-1].lstrip(_EDGES)
    if not name or name[-1] in "." or ".." in name:
        return None
    host = domain.group().rstrip("-_")
    labels = host.split(".")
    # "mail a@b.com.Then": what follows the sentence's end is not part of the address.
    while len(labels) > 1 and labels[-1].lower() not in top_level_domains():
        labels.pop()
    # A name in mixed case, like `mT`, is an attribute.
    if len(labels) < 2 or not (labels[-1].islower() or labels[-1].isupper() or labels[-1].istitle()):
        return None
    host = ".".join(labels)
    end = at + 1 + len(host)
    after = text[end : end + 1]
    if after == "(" or _RESERVED_DOMAIN.search(host.lower()) or (after == ":" and name == "git"):
        return None
    return at - len(name), end


def ips(text: str) -> Iterator[tuple[int, int, str]]:
    """Public addresses, version 4 and 6: private, loopback, documentation and reserved ranges name nobody.

    datatrove masks public ones only as well; StarCoder leaves out what has four single digits, which is mostly a
    version, unless the words around speak of servers.
    """
    if text.count(".") >= 3:
        for match in _IPV4.finditer(text):
            if _public(match.group()) and not _version(text, match):
                yield *match.span(), "ip"
    if text.count(":") >= 2:
        yield from ((*match.span(), "ip") for match in _IPV6.finditer(text) if _public(match.group()))


def _public(address: str) -> bool:
    try:
        value = ipaddress.ip_address(address)
    except ValueError:
        return False
    return value.is_global and not value.is_multicast


def _version(text: str, match: re.Match[str]) -> bool:
    address = match.group()
    before = text[max(0, match.start() - CONTEXT) : match.start()]
    if address.endswith(".0.0") or _VERSION_BEFORE.search(before):
        return True
    return len(address) == 7 and not _NETWORK_NEAR.search(before)
