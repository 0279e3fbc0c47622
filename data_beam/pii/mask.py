"""From the detectors' finds to a masked text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from data_beam.pii import addresses, numbers, secrets

# (start, end) in characters, disjoint and in order.
Spans = Iterator[tuple[int, int]]

# In this order: where two finds overlap, the earlier kind has the text. A password in a URL comes before the address
# that it and the host would look like; what passes a checksum before what only has the length of a phone number.
DETECTORS: dict[str, Callable[[str], Spans]] = {
    "key": secrets.keys,
    "password": secrets.passwords,
    "email": addresses.emails,
    "iban": numbers.ibans,
    "card": numbers.cards,
    "ssn": numbers.social_security_numbers,
    "ip": addresses.ips,
    "phone": numbers.phones,
}
KINDS = tuple(DETECTORS)
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


def find(text: str, kinds: Collection[str] = KINDS) -> list[tuple[int, int, str]]:
    """Disjoint (start, end, kind) in order."""
    found: list[tuple[int, int, str]] = []
    for kind, detect in DETECTORS.items():
        if kind in kinds:
            spans = [(start, end, kind) for start, end in detect(text)]
            found = _without_overlaps(found, spans) if found and spans else found or spans
    return found


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


def _without_overlaps(
    kept: list[tuple[int, int, str]], spans: list[tuple[int, int, str]]
) -> list[tuple[int, int, str]]:
    """Both, in order, less those of `spans` that touch one of `kept`'s characters."""
    result: list[tuple[int, int, str]] = []
    index = 0
    for span in spans:
        while index < len(kept) and kept[index][1] <= span[0]:
            result.append(kept[index])
            index += 1
        if index == len(kept) or span[1] <= kept[index][0]:
            result.append(span)
    return result + kept[index:]
