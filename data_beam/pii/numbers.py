"""Telephone, card, bank account and social security numbers: digits whose form or checksum says what they are."""

from __future__ import annotations

import re
from collections.abc import Iterator

_SEPARATORS = str.maketrans("", "", " -.()/\u00a0\u2011\u2013\t")
# Seven digits close together: without that, a text has none of these numbers.
_MANY_DIGITS = re.compile(r"[0-9](?:[ .()/\u00a0\u2011\u2013-]{0,3}[0-9]){6}")


def find(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, kind); finds of different kinds may overlap."""
    if _MANY_DIGITS.search(text):
        for kind, detect in (("iban", ibans), ("card", cards), ("ssn", social_security_numbers), ("phone", phones)):
            yield from ((start, end, kind) for start, end in detect(text))


def digits_of(number: str) -> str:
    return number.translate(_SEPARATORS)


# Cards

_CARD = re.compile(
    r"[2-6](?<![\w.+-][2-6])(?:[0-9]{12,18}|[0-9]{3}(?:([ -])[0-9]{4})(?:\1[0-9]{4}){2}(?:\1[0-9]{1,3})?"
    r"|[0-9]{3}([ -])[0-9]{6}\2[0-9]{4,5})(?![\w-]|\.[0-9])"
)
# Issuer prefixes and lengths (ISO/IEC 7812, the networks' own publications).
_ISSUERS = (
    (re.compile(r"4"), {13, 16, 19}),  # Visa
    (re.compile(r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"), {16}),  # Mastercard
    (re.compile(r"3[47]"), {15}),  # American Express
    (re.compile(r"6011|64[4-9]|65"), {16, 19}),  # Discover
    (re.compile(r"30[0-5]|36|3[89]"), {14}),  # Diners Club
    (re.compile(r"35(?:2[89]|[3-8])"), {16}),  # JCB
    (re.compile(r"62"), {16, 17, 18, 19}),  # UnionPay
)


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B: every second digit from the right doubled, digits summed, divisible by ten."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


def cards(text: str) -> Iterator[tuple[int, int]]:
    """13 to 19 digits, in one piece or in the groups printed on cards, of a known issuer, with a right check digit."""
    for match in _CARD.finditer(text):
        digits = digits_of(match.group())
        issued = any(len(digits) in lengths and prefix.match(digits) for prefix, lengths in _ISSUERS)
        if issued and len(set(digits)) > 1 and luhn(digits):
            yield match.span()


# Bank accounts

_IBAN = re.compile(r"(?<![\w-])[A-Z]{2}[0-9]{2}(?:(?: ?[0-9A-Z]{4}){2,7}(?: ?[0-9A-Z]{1,4})?)(?!\w)")
# Length by country (SWIFT IBAN registry).
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO",
        16: "BE",
        18: "DK FO FI GL NL SD",
        19: "MK SI",
        20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST",
        26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HU LB NI PL SV",
        29: "BR EG PS QA UA",
        30: "JO KW MU YE",
        31: "MT SC",
        33: "RU",
    }.items()
    for country in countries.split()
}


def ibans(text: str) -> Iterator[tuple[int, int]]:
    """ISO 13616: country, length, and the number modulo 97 is 1 with its head moved to its tail."""
    for match in _IBAN.finditer(text):
        number = match.group().replace(" ", "")
        if len(number) == _IBAN_LENGTHS.get(number[:2]):
            if int("".join(str(int(character, 36)) for character in number[4:] + number[:4])) % 97 == 1:
                yield match.span()


# Social security

# With hyphens only: nine digits in a row are anything.
_SSN = re.compile(r"[0-8](?<![\w.-][0-9])[0-9]{2}-[0-9]{2}-[0-9]{4}(?![\w-]|\.[0-9])")


def social_security_numbers(text: str) -> Iterator[tuple[int, int]]:
    """Of the United States. Areas 000, 666 and 900 to 999, group 00 and serial 0000 are never issued (SSA, 2011)."""
    for match in _SSN.finditer(text):
        area, group, serial = match.group().split("-")
        if area not in ("000", "666") and group != "00" and serial != "0000":
            yield match.span()


# Telephones

# ITU-T E.164: a plus, a country code, at most 15 digits.
_INTERNATIONAL = re.compile(r"(?<![\w+)\]])\+[1-9](?:[ .()/\u00a0\u2011\u2013-]{0,3}[0-9]){7,14}(?![\w+]|\.[0-9])")
# The North American plan: area and exchange begin with 2 to 9. Separators make the form; without them it is an id.
_NORTH_AMERICAN = re.compile(
    r"[2-9(](?:(?<=\()[2-9][0-9]{2}\) ?|(?<=[2-9])[0-9]{2}([.-]))[2-9][0-9]{2}(?(1)\1|[ .-])[0-9]{4}"
    r"(?: ?(?:x|ext\.?|extension) ?[0-9]{1,6})?(?![\w-]|\.[0-9]|/[0-9])"
)
_COUNTRY = re.compile(r"(?<![\w.+/-])(?:\+1|001|1)[ .-]$")
_JOINED = re.compile(r"[\w.+/-]")
# Any form after a word that announces a telephone number.
_ANY = re.compile(r"[(+0-9](?<![\w+.][(+0-9])(?:[ .()/\u00a0\u2011\u2013-]{0,3}[0-9]){6,15}(?![\w-]|\.[0-9])")
_ANNOUNCED = re.compile(
    r"\b(?:tel|telephone|phone|ph|fax|mobile|mob|cell|call(?: us| me| him| her)?|whatsapp|sms|hotline|t[eé]l[eé]phone"
    r"|telefon|telefono|tel[eé]fono|telefone|handy|gsm|dial)"
    r"(?: (?:number|no|nr|us))?[.:#]?\)?:? {0,2}(?:at |on |is |us at )?$",
    re.IGNORECASE,
)
ANNOUNCEMENT = 40  # characters before a number
# ITU-T E.164's list of assigned codes: those of one and two digits, and the first two digits of those of three.
_ONE = frozenset("17")
_TWO = frozenset(
    "20 27 30 31 32 33 34 36 39 40 41 43 44 45 46 47 48 49 51 52 53 54 55 56 57 58 60 61 62 63 64 65 66 81 82 84 86"
    " 90 91 92 93 94 95 98".split()
)
_THREE = frozenset("21 22 23 24 25 26 29 35 37 38 42 50 59 67 68 69 80 85 87 88 96 97 99".split())
_DATE = re.compile(
    r"(?:19|20)[0-9]{2}[-./ ][01]?[0-9][-./ ][0-3]?[0-9]|[0-3]?[0-9][-./][01]?[0-9][-./](?:19|20)[0-9]{2}"
)


def phones(text: str) -> Iterator[tuple[int, int]]:
    """International numbers with their plus, North American ones with separators, any others where a word says so."""
    spans: list[tuple[int, int]] = []
    for match in _NORTH_AMERICAN.finditer(text):
        start = match.start()
        if country := _COUNTRY.search(text, max(0, start - 4), start):
            start = country.start()
        if not (start and _JOINED.match(text, start - 1)) and _north_american(digits_of(match.group())[:10]):
            spans.append((start, match.end()))
    if "+" in text:
        spans += [
            match.span() for match in _INTERNATIONAL.finditer(text) if _international(digits_of(match.group()[1:]))
        ]
    for match in _ANY.finditer(text):
        if _announced(match.group()) and _ANNOUNCED.search(text[max(0, match.start() - ANNOUNCEMENT) : match.start()]):
            spans.append(match.span())
    end = 0
    # Of two that overlap the one that begins first, and the longer of those.
    for start, stop in sorted(spans, key=lambda span: (span[0], -span[1])):
        if start >= end:
            yield start, stop
            end = stop


def _international(digits: str) -> bool:
    if digits[0] == "1":
        return len(digits) == 11 and _north_american(digits)
    known = digits[0] in _ONE or digits[:2] in _TWO or digits[:2] in _THREE
    return known and 8 <= len(digits) <= 15 and len(set(digits)) > 2


def _north_american(digits: str) -> bool:
    number = digits[-10:]
    # 555-0100 to 555-0199 are kept for fiction; N11 codes are services.
    fictional = number[3:8] == "55501"
    return number[0] not in "01" and number[3] not in "01" and number[1:3] != "11" and not fictional


def _announced(number: str) -> bool:
    digits = digits_of(number).lstrip("+")
    if not 7 <= len(digits) <= 15 or len(set(digits)) < 3 or _DATE.fullmatch(number):
        return False
    if number.startswith("+"):
        return _international(digits)
    if len(digits) in (10, 11) and digits[-7:-2] == "55501":
        return False
    return True
