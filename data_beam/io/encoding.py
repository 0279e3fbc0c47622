"""Bytes to text, or an error: a page in no encoding is said to be one, never guessed into noise."""

from __future__ import annotations

import codecs
import re

from resiliparse.parse.encoding import detect_encoding

MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
META = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.-]{2,30})", re.I)
CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x84\x86-\x9f�]")
MAX_CONTROL_SHARE = 0.005
# Python's own codecs that pages declare only to do harm or by mistake: escapes, and two that take quadratic time.
REFUSED = frozenset({"unicode-escape", "raw-unicode-escape", "undefined", "idna", "punycode"})


class NoEncoding(ValueError):
    pass


def decode(data: bytes, declared: str | None = None) -> str:
    """Tries the byte order mark, the declared charset, the page's `meta`, UTF-8, then a detector; all strictly.

    Text that comes out with more than 0.5 % control characters was not text. Raises NoEncoding.
    """
    tried: list[str] = []
    for name in _candidates(data, declared):
        try:
            name = codecs.lookup(name).name
        except (LookupError, ValueError):  # unknown, or with a NUL
            continue
        if name in tried or name in REFUSED:
            continue
        tried.append(name)
        try:
            text = data.decode(name)
        except (LookupError, ValueError):  # LookupError: a codec that is not of text, such as zlib
            continue
        if len(CONTROL.findall(text)) <= MAX_CONTROL_SHARE * len(text):
            return text
    raise NoEncoding(f"the bytes are text in no encoding tried ({', '.join(tried)})")


def _candidates(data: bytes, declared: str | None):
    for mark, name in MARKS:
        if data.startswith(mark):
            yield name
    if declared:
        yield declared
    if meta := META.search(data, 0, 4096):
        yield meta[1].decode("ascii")
    yield "utf-8"
    yield detect_encoding(data[: 1 << 20], html5_compatible=True)
