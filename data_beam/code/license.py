"""The licence a file says it is under: an SPDX expression from its head."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

HEAD_CHARACTERS = 6000  # the Apache and BSD headers take 1,500 at the most
_TAG = re.compile(r"SPDX-License-Identifier:[ \t]*([A-Za-z0-9.+() \t:-]{1,200})")
_END_OF_TAG = re.compile(r"\s*(?:--+>?|\*/).*$")
_TOKEN = re.compile(r"\(|\)|[A-Za-z0-9.+:-]+")

# The Stack (Kocetkov et al. 2022, arXiv 2211.15533), section 3.1 and its list of permissive licences, by their
# commonest: licences that ask for little more than attribution.
PERMISSIVE = frozenset(
    """0BSD AFL-3.0 Apache-1.1 Apache-2.0 Artistic-2.0 BlueOak-1.0.0 BSD-1-Clause BSD-2-Clause BSD-2-Clause-Patent
    BSD-3-Clause BSD-3-Clause-Clear BSD-4-Clause BSD-Source-Code BSL-1.0 CC-BY-3.0 CC-BY-4.0 CC0-1.0 curl ECL-2.0
    FTL HPND ICU ISC JSON libpng-2.0 libtiff Linux-OpenIB MIT MIT-0 MIT-Modern-Variant MITNFA MS-PL MulanPSL-2.0
    NCSA NTP OFL-1.1 OpenSSL PHP-3.01 PostgreSQL PSF-2.0 Python-2.0 Ruby SGI-B-2.0 Unicode-DFS-2016 Unlicense UPL-1.0
    Vim W3C WTFPL X11 Xnet Zlib zlib-acknowledgement ZPL-2.1""".split()
)
COPYLEFT = frozenset(
    """AGPL-1.0 AGPL-3.0 CC-BY-SA-3.0 CC-BY-SA-4.0 CDDL-1.0 CDDL-1.1 CECILL-2.1 CPL-1.0 EPL-1.0 EPL-2.0 EUPL-1.1
    EUPL-1.2 GPL-1.0 GPL-2.0 GPL-3.0 LGPL-2.0 LGPL-2.1 LGPL-3.0 MPL-1.1 MPL-2.0 MS-RL OSL-3.0 SSPL-1.0""".split()
)
NAMED_SETS = {"permissive": PERMISSIVE, "copyleft": COPYLEFT}

# Sentences of licences and of the headers they ask for, in the order in which they are looked for: what names a
# licence comes before what only has the words of one. As `_plain` leaves them: words and full stops.
_SENTENCES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Apache-2.0", ("the apache license version 2", "apache.org licenses license 2.0", "apache 2.0 license")),
    ("MPL-2.0", ("mozilla public license v. 2.0", "mozilla public license version 2.0", "mozilla.org mpl 2.0")),
    ("EPL-2.0", ("eclipse public license v2.0", "eclipse public license 2.0", "eclipse.org legal epl 2.0")),
    ("EPL-1.0", ("eclipse public license v1.0", "eclipse.org legal epl v10")),
    ("BSL-1.0", ("boost software license",)),
    ("CC0-1.0", ("creativecommons.org publicdomain zero 1.0",)),
    ("Unlicense", ("free and unencumbered software released into the public domain",)),
    ("BSD-3-Clause", ("neither the name", "3 clause bsd", "bsd 3 clause", "bsd style license", "new bsd license")),
    ("BSD-2-Clause", ("redistribution and use in source and binary forms", "2 clause bsd", "bsd 2 clause")),
    ("MIT", ("permission is hereby granted free of charge to any person obtaining a copy", "the mit license")),
    ("MIT", ("mit licensed", "mit license", "opensource.org licenses mit")),
    ("ISC", ("permission to use copy modify and distribute this software for any purpose with or without fee",)),
    ("ISC", ("permission to use copy modify and or distribute this software for any purpose with or without fee",)),
    ("Zlib", ("must not be misrepresented you must not claim that you wrote the original software",)),
    ("PSF-2.0", ("licensed to psf under a contributor agreement", "python software foundation license")),
)
_NOT_PLAIN = re.compile(r"[^a-z0-9.+]+")
_GNU = re.compile(r"gnu (affero|lesser|library)? ?general public licen[sc]e|\b([al]?)gpl ?v?[123]")
_VERSION = re.compile(r"version ([123](?:\.1)?)|gpl ?v?([123](?:\.1)?)")
_LATER = re.compile(r"any later version|or later")
_MENTION = re.compile("licen|permission|redistribution|copying|public domain|SPDX|GPL", re.IGNORECASE)
_METADATA_KEYS = ("license", "max_stars_repo_licenses", "detected_licenses", "licenses")
_CANONICAL = {name.lower(): name for name in PERMISSIVE | COPYLEFT}


def detect(text: str) -> str | None:
    """The SPDX expression of the file's head, normalised; None if it names none that is known here."""
    head = text[:HEAD_CHARACTERS]
    if not _MENTION.search(head):
        return None
    tags = [_END_OF_TAG.sub("", match.group(1)) for match in _TAG.finditer(head)]
    if expressions := sorted({bracketed(tree) for tag in tags if (tree := parse(tag)) is not None}):
        return " AND ".join(expressions) if len(expressions) > 1 else str(parse(expressions[0]))
    plain = _NOT_PLAIN.sub(" ", head.lower())
    for name, sentences in _SENTENCES:
        if any(sentence in plain for sentence in sentences):
            return name
    return _gnu(plain)


def _gnu(plain: str) -> str | None:
    """GPL, LGPL or AGPL, its version (2.1 of the LGPL and 2 of the GPL where none is said), and whether later too."""
    family = _GNU.search(plain)
    if family is None:
        return None
    letter = {"affero": "A", "lesser": "L", "library": "L"}.get(family.group(1) or "", (family.group(2) or "").upper())
    near = plain[max(0, family.start() - 100) : family.end() + 300]
    version = _VERSION.search(near)
    number = (version.group(1) or version.group(2)) if version else {"L": "2.1", "A": "3"}.get(letter, "2")
    number = number if "." in number else f"{number}.0"
    return f"{letter}GPL-{number}" + ("-or-later" if _LATER.search(near) else "-only")


def bracketed(tree: Expression) -> str:
    return f"({tree})" if tree.operator == "OR" else str(tree)


class Expression:
    """`A`, or two expressions joined by AND or OR. `A WITH exception` is `A` with its exception noted."""

    def __init__(self, operator: str, left: Expression | str, right: Expression | str) -> None:
        self.operator, self.left, self.right = operator, left, right

    def __str__(self) -> str:
        if self.operator == "":
            return f"{self.left} WITH {self.right}" if self.right else str(self.left)
        sides = (bracketed(side) if self.operator == "AND" else str(side) for side in self._sides)
        return f" {self.operator} ".join(sides)

    @property
    def _sides(self) -> tuple[Expression, Expression]:
        return self.left, self.right  # type: ignore[return-value]

    def allowed(self, allow: Collection[str], deny: Collection[str]) -> bool:
        """Whether one may take the file: of an OR one side is enough, of an AND both are needed. Empty `allow`: any."""
        if self.operator == "":
            name = base(str(self.left))
            return name not in deny and (not allow or name in allow)
        verdicts = (side.allowed(allow, deny) for side in self._sides)
        return any(verdicts) if self.operator == "OR" else all(verdicts)


@cache
def parse(text: str) -> Expression | None:
    """SPDX 2.3, annex D: `id`, `id+`, `id WITH exception`, AND before OR, brackets. None for what is no expression."""
    tree, _ = _or(_TOKEN.findall(text)[:64])  # words after a whole expression are the comment going on
    return tree


def _or(tokens: list[str]) -> tuple[Expression | None, list[str]]:
    left, tokens = _and(tokens)
    while left is not None and len(tokens) > 1 and tokens[0].upper() == "OR":
        right, rest = _and(tokens[1:])
        if right is None:
            break
        left, tokens = Expression("OR", left, right), rest
    return left, tokens


def _and(tokens: list[str]) -> tuple[Expression | None, list[str]]:
    left, tokens = _one(tokens)
    while left is not None and len(tokens) > 1 and tokens[0].upper() == "AND":
        right, rest = _one(tokens[1:])
        if right is None:
            break
        left, tokens = Expression("AND", left, right), rest
    return left, tokens


def _one(tokens: list[str]) -> tuple[Expression | None, list[str]]:
    if not tokens or tokens[0].rstrip(".").upper() in ("AND", "OR", "WITH", ")"):
        return None, tokens
    if tokens[0] == "(":
        tree, rest = _or(tokens[1:])
        return (tree, rest[1:]) if tree is not None and rest[:1] == [")"] else (None, tokens)
    name, rest = tokens[0].rstrip("."), tokens[1:]
    if not any(character.isalpha() for character in name):
        return None, tokens
    name = canonical(name)
    if len(rest) > 1 and rest[0].upper() == "WITH":
        return Expression("", name, rest[1]), rest[2:]
    return Expression("", name, ""), rest


def canonical(name: str) -> str:
    """SPDX ids differ by more than case, so those that are known are written as their list writes them."""
    known = _CANONICAL.get(base(name).lower())
    return known + name[len(base(name)) :].lower() if known else name


def base(name: str) -> str:
    """`GPL-2.0-or-later`, `GPL-2.0+` and `GPL-2.0-only` are all GPL-2.0 to a list."""
    return name.removesuffix("+").removesuffix("-or-later").removesuffix("-only")


def expand(names: Collection[str]) -> frozenset[str]:
    """A list of ids and names of sets as ids."""
    return frozenset().union(*(NAMED_SETS.get(name, {base(name)}) for name in names))


def from_metadata(metadata: Mapping[str, Any]) -> str | None:
    """What the data set says of the repository: several licences are a choice nobody stated, so all must suit."""
    for key in _METADATA_KEYS:
        value = metadata.get(key)
        names = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        trees = [tree for name in names if isinstance(name, str) and (tree := parse(name)) is not None]
        if trees:
            return " AND ".join(sorted({bracketed(tree) for tree in trees})) if len(trees) > 1 else str(trees[0])
    return None


_KEPT_LINE = re.compile(r"\ufeff?(?:#!|#.{0,40}coding[:=]).*(?:\n|$)|\ufeff")
_OWNED = re.compile(r"copyright|licen[cs]e|SPDX|\(c\)|©", re.IGNORECASE)
_BLANK_LINE = re.compile(r"\n[ \t\r]*\n")


def header(text: str, comments: list[tuple[int, int]]) -> tuple[int, int] | None:
    """(start, end) in characters of the file's leading comments if they speak of copyright or licence, else None.

    `comments` are (start, end) in bytes of UTF-8, in order. The head is those with nothing but white space before and
    between them, up to a blank line after what was looked for: further comments are about the code. Lines that run
    the file (#!) or name its encoding stay.
    """
    start = 0
    while match := _KEPT_LINE.match(text, start):
        start = match.end()
        if start >= len(text):
            return None
    data = text.encode("utf-8", "replace")
    first = end = len(text[:start].encode("utf-8", "replace"))
    owned = False
    for begin, stop in comments:
        if stop <= first:
            continue
        between = data[end:begin].decode("utf-8", "replace")
        if between.strip() or (owned and _BLANK_LINE.search(between)):
            break
        end = stop
        owned = owned or _OWNED.search(data[begin:stop].decode("utf-8", "replace")) is not None
    return (start, start + len(data[first:end].decode("utf-8", "replace"))) if owned else None
