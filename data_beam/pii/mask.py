"""From the detectors' finds to a masked text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from data_beam.pii import addresses, numbers, secrets

# (start, end, kind), in characters.
Span = tuple[int, int, str]
# Where two finds overlap, the earlier kind has the text. A password in a URL comes before the address that it and the
# host would look like; what passes a checksum before what only has the length of a telephone number.
KINDS = ("key", "password", "email", "iban", "card", "ssn", "ip", "phone")
DETECTORS: tuple[tuple[frozenset[str], Callable[[str], Iterator[Span]]], ...] = (
    (frozenset({"key", "password"}), secrets.find),
    (frozenset({"email"}), addresses.emails),
    (frozenset({"ip"}), addresses.ips),
    (frozenset({"iban", "card", "ssn", "phone"}), numbers.find),
)
# Numbers in source code are constants far oftener than somebody's: StarCoder (Li et al. 2023, arXiv 2305.06161,
# section 4) masks names, e-mail and IP addresses, keys and passwords there, and no numbers.
CODE_KINDS = ("key", "password", "email", "ip")

# dolma's form (Soldaini et al. 2024, arXiv 2402.00159). No detector finds one, and no tokenizer here has it as one of
# its special tokens, which look like <|this|>.
NAMED = {
    "email": "|||EMAIL_ADDRESS|||",
    "ip": "|||IP_ADDRESS|||",
    "phone": "|||PHONE_NUMBER|||",
    "card": "|||CARD_NUMBER|||",
    "iban": "|||IBAN|||",
    "ssn": "|||SOCIAL_SECURITY_NUMBER|||",
    "key": "|||KEY|||",
    "password": "|||PASSWORD|||",
}
# Values that look right and are nobody's: RFC 2606, RFC 5737, the fictional 555-01xx, numbers that were never issued.
# The detectors pass over them. FineWeb does this for e-mail and IP addresses.
EXAMPLE = {
    "email": "email@example.com",
    "ip": "192.0.2.1",
    "phone": "+1 202-555-0123",
    "card": "0000 0000 0000 0000",
    "iban": "XX00 0000 0000 0000",
    "ssn": "000-00-0000",
    "key": "REDACTED",
    "password": "REDACTED",
}


def find(text: str, kinds: Collection[str] = KINDS) -> list[Span]:
    """Disjoint, in order."""
    found = [
        span
        for their_kinds, detect in DETECTORS
        if not their_kinds.isdisjoint(kinds)
        for span in detect(text)
        if span[2] in kinds
    ]
    if len(found) < 2:
        return found
    kept: list[Span] = []
    for kind in KINDS:
        kept = _without_overlaps(kept, sorted(span for span in found if span[2] == kind))
    return kept


def mask(
    text: str, kinds: Collection[str] = KINDS, placeholders: Mapping[str, str] = NAMED
) -> tuple[str, dict[str, int]]:
    """The text with every find replaced, and how many there were of each kind that occurs.

    What was beside a find may be recognised once it is gone, so it is done until nothing is found: masking what was
    masked changes nothing. Each round takes away some of the original text, or is the last.
    """
    counts: dict[str, int] = {}
    while spans := find(text, kinds):
        parts: list[str] = []
        last = 0
        for start, end, kind in spans:
            parts += (text[last:start], placeholders[kind])
            last = end
            counts[kind] = counts.get(kind, 0) + 1
        parts.append(text[last:])
        text = "".join(parts)
    return text, counts


def _without_overlaps(kept: list[Span], spans: list[Span]) -> list[Span]:
    """Both, in order, less those of `spans` that touch one of `kept`'s characters or an earlier one of their own."""
    if not spans:
        return kept
    result: list[Span] = []
    index = last = 0
    for span in spans:
        while index < len(kept) and kept[index][1] <= span[0]:
            result.append(kept[index])
            index += 1
        if span[0] >= last and (index == len(kept) or span[1] <= kept[index][0]):
            result.append(span)
            last = span[1]
    return result + kept[index:]
