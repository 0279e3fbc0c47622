"""A labelled set for masking: made values in sentences and in code, and things that only look like them. Seeded.

Values are made by their definition (checksums by the published algorithms, written anew here), not by the detectors'
patterns; sentences put them where text puts them. Hard negatives are of the kinds that trouble detectors of each form.
"""

from __future__ import annotations

import random
import string

LETTERS, ALNUM, UPPER = string.ascii_lowercase, string.ascii_letters + string.digits, string.ascii_uppercase
NAMES = (
    "anna ben carla dmitri elif fatou george hana ivan joão kim lars mei noor olga pia quentin rosa sam tariq".split()
)
HOSTS = "mail.net uni-bonn.de acme.co.uk firma.at startup.io city.gov posta.it club.org.au studio.photography".split()


def _digits(draw: random.Random, count: int) -> str:
    return "".join(draw.choice(string.digits) for _ in range(count))


def _luhn_digit(body: str) -> str:
    total = sum(sum(divmod(int(d) * 2, 10)) if i % 2 == 0 else int(d) for i, d in enumerate(reversed(body)))
    return str(-total % 10)


def _grouped(text: str, sizes: tuple[int, ...], separator: str) -> str:
    parts, place = [], 0
    for size in sizes:
        parts.append(text[place : place + size])
        place += size
    return separator.join(part for part in (*parts, text[place:]) if part)


def _email(draw: random.Random) -> str:
    first, second = draw.choice(NAMES), draw.choice(NAMES)
    local = draw.choice(
        [f"{first}.{second}", f"{first}{draw.randint(1, 99)}", f"{first}_{second}+news", first[0] + second]
    )
    value = f"{local}@{draw.choice(HOSTS)}"
    return value.upper() if draw.random() < 0.1 else value


def _ipv4(draw: random.Random) -> str:
    first = draw.choice([n for n in range(11, 223) if n not in (100, 127, 169, 172, 192, 198, 203)])
    return ".".join(map(str, (first, draw.randint(10, 255), draw.randint(0, 255), draw.randint(1, 254))))


def _ipv6(draw: random.Random) -> str:
    groups = [f"2a0{draw.randint(1, 9)}", *(f"{draw.randrange(1, 65536):x}" for _ in range(7))]
    return ":".join(groups) if draw.random() < 0.5 else ":".join(groups[:3]) + "::" + groups[7]


def _card(draw: random.Random) -> str:
    prefix, length = draw.choice(
        [("4", 16), ("51", 16), ("55", 16), ("37", 15), ("6011", 16), ("2221", 16), ("3528", 16)]
    )
    body = prefix + _digits(draw, length - 1 - len(prefix))
    number = body + _luhn_digit(body)
    return _grouped(number, (4, 6) if length == 15 else (4, 4, 4), draw.choice(["", " ", "-"]))


def _iban(draw: random.Random) -> str:
    country, length = draw.choice([("DE", 22), ("FR", 27), ("AT", 20), ("ES", 24), ("NL", 18), ("GB", 22), ("CH", 21)])
    bank = "".join(draw.choice(UPPER) for _ in range(4)) if country in ("NL", "GB") else ""
    body = bank + _digits(draw, length - 4 - len(bank))
    check = 98 - int("".join(str(int(c, 36)) for c in body + country + "00")) % 97
    return _grouped(f"{country}{check:02d}{body}", (4,) * 7, draw.choice(["", " "]))


def _ssn(draw: random.Random) -> str:
    area = draw.choice([n for n in range(1, 900) if n != 666])
    return f"{area:03d}-{draw.randint(1, 99):02d}-{draw.randint(1, 9999):04d}"


def _phone(draw: random.Random) -> str:
    area, exchange = draw.randint(201, 989), draw.randint(200, 989)
    area, exchange = area + (area % 100 == 11), exchange + (exchange % 100 == 11)
    line = _digits(draw, 4)
    return draw.choice([
        f"({area}) {exchange}-{line}", f"{area}-{exchange}-{line}", f"{area}.{exchange}.{line}",
        f"1-{area}-{exchange}-{line}", f"+1 {area} {exchange} {line}",
        f"+49 {draw.randint(30, 999)} {_digits(draw, 7)}", f"+44 20 7{_digits(draw, 3)} {line}",
        f"+33 1 {draw.randint(10, 99)} {draw.randint(10, 99)} {draw.randint(10, 99)} {draw.randint(10, 99)}",
        f"+91 98{_digits(draw, 3)} {_digits(draw, 5)}", f"+86 138 {line} {_digits(draw, 4)}",
        f"+55 (11) 9{line}-{_digits(draw, 4)}",
    ])  # fmt: skip


def _key(draw: random.Random) -> str:
    def random_text(alphabet: str, length: int) -> str:
        return "".join(draw.choice(alphabet) for _ in range(length))

    return draw.choice([
        "AKIA" + random_text(UPPER + string.digits, 16),
        "ghp_" + random_text(ALNUM, 36),
        "AIza" + random_text(ALNUM + "_-", 34) + "a",
        f"xoxb-{_digits(draw, 12)}-{_digits(draw, 12)}-{random_text(ALNUM, 24)}",
        "sk_live_" + random_text(ALNUM, 24),
        "eyJ" + random_text(ALNUM, 30) + ".eyJ" + random_text(ALNUM, 60) + "." + random_text(ALNUM, 43),
    ])  # fmt: skip


def _secret(draw: random.Random) -> str:
    return "".join(draw.choice(ALNUM) for _ in range(draw.randint(24, 44)))


def _password(draw: random.Random) -> str:
    return draw.choice(NAMES).title() + draw.choice("!#@*") + _digits(draw, 3) + draw.choice(LETTERS)


SENTENCES = {
    "email": [
        "Write to {} today.",
        "<a href='mailto:{}'>",
        "author = '{}'",
        "Contact: {}, or come by",
        "({})",
        "From: A B <{}>",
    ],
    "ip": ["Connection from {} refused", "host={}", '"ip": "{}",', "blocked {}.", "[{}] GET /", "server {} port 80"],
    "phone": ["Call {} now.", "Tel. {}", "Our office ({}) is open", "Phone: {}, fax below", "reach me at {} any time"],
    "card": ["paid with {} in May", "card: {}", '"pan": "{}"', "number {}."],
    "iban": ["to {} please", "IBAN: {}", "account {}, thanks"],
    "ssn": ["SSN {}", "his number {} was", "({})"],
    "key": ['client = Client("{}")', "export TOKEN={}", "Authorization: Bearer {}", "the key {} leaked"],
    "assigned key": ['API_KEY = "{}"', "aws_secret_access_key = {}\n", '"client_secret": "{}",', "secretKey: '{}'"],
    "password": ['password = "{}"', "db_password: '{}'", "postgres://admin:{}@db.acme.com/x", '"passwd": "{}"'],
}
MAKERS = {
    "email": _email, "ip": lambda draw: _ipv4(draw) if draw.random() < 0.7 else _ipv6(draw), "phone": _phone,
    "card": _card, "iban": _iban, "ssn": _ssn, "key": _key, "assigned key": _secret, "password": _password,
}  # fmt: skip


def _date(draw: random.Random) -> str:
    return f"{draw.randint(1950, 2030)}-{draw.randint(1, 12):02d}-{draw.randint(1, 28):02d}"


NEGATIVES = [
    lambda draw: (
        f"released {_date(draw)} {draw.randint(0, 23):02d}:{draw.randint(0, 59):02d}:{draw.randint(0, 59):02d}"
    ),
    lambda draw: f"version {draw.randint(1, 99)}.{draw.randint(0, 99)}.{draw.randint(0, 99)}.{draw.randint(0, 9)}",
    lambda draw: f"v{draw.randint(1, 9)}.{draw.randint(0, 9)}.{draw.randint(0, 9)}.{draw.randint(0, 9)} is out",
    lambda draw: f"Chrome/{draw.randint(60, 120)}.0.{draw.randint(1, 250)}.{draw.randint(1, 250)} Safari",
    lambda draw: (
        f"192.168.{draw.randint(0, 255)}.{draw.randint(0, 255)} and 127.0.0.1 and 10.0.0.{draw.randint(1, 99)}"
    ),
    lambda draw: f"OID 1.3.6.1.4.1.{draw.randint(1, 99999)}",
    lambda draw: f"see section {draw.randint(1, 9)}.{draw.randint(1, 9)}.{draw.randint(1, 9)}.{draw.randint(1, 9)}",
    lambda draw: f"ISBN 978-{draw.randint(0, 9)}-{_digits(draw, 3)}-{_digits(draw, 5)}-{draw.randint(0, 9)}",
    lambda draw: f"order {_digits(draw, 10)} of {_digits(draw, 8)}",
    lambda draw: f"tweet {draw.randint(1, 9)}{_digits(draw, 17)}",
    lambda draw: f"timestamp 1{_digits(draw, 12)} or 16{_digits(draw, 14)}",
    lambda draw: "number 4" + (body := _digits(draw, 14)) + str((int(_luhn_digit("4" + body)) + 5) % 10),
    lambda draw: f"doi:10.{draw.randint(1000, 9999)}/{_digits(draw, 3)}.{_digits(draw, 7)}",
    lambda draw: f"git@github.com:{draw.choice(NAMES)}/{draw.choice(NAMES)}.git",
    lambda draw: (
        f"icon@{draw.randint(2, 3)}x.png lodash@{draw.randint(1, 9)}.{draw.randint(0, 9)}.{draw.randint(0, 9)}"
    ),
    lambda draw: f"y = {draw.choice(NAMES)} @ w + x@self.weight  # @{draw.choice(NAMES)}",
    lambda draw: f"someone@example.com on @{draw.choice(NAMES)}",
    lambda draw: f"sha1 {''.join(draw.choice('0123456789abcdef') for _ in range(40))}",
    lambda draw: f"token = get_token({draw.choice(NAMES)})\npassword = getpass()",
    lambda draw: 'password = "changeme"  api_key = "YOUR_API_KEY"  secret = os.environ["SECRET"]',
    lambda draw: (
        f"uuid {'-'.join(''.join(draw.choice('0123456789abcdef') for _ in range(n)) for n in (8, 4, 4, 4, 12))}"
    ),
    lambda draw: f"{draw.randint(100, 999)} {draw.randint(100, 999)} {draw.randint(1000, 9999)} pieces",
    lambda draw: (
        f"part {draw.randint(900, 999)}-{_digits(draw, 2)}-{_digits(draw, 4)}, "
        f"CAS {_digits(draw, 4)}-{_digits(draw, 2)}-1"
    ),
    lambda draw: f"std::{draw.choice(['add', 'face', 'dead'])}::beef at 12:34:{draw.randint(10, 59)}",
    lambda draw: f"x = [{draw.random():.8f}, {draw.random() * 1e6:.4f}, {draw.randint(10**6, 10**7)}]",
    lambda draw: f"lat {draw.uniform(-90, 90):.6f}, lon {draw.uniform(-180, 180):.6f}",
]  # fmt: skip
FILLER = "the report was sent to all who asked for it and nobody said a word about what came after".split()


def make(count: int, seed: int) -> list[tuple[str, list[tuple[int, int, str]]]]:
    """Texts with the (start, end, kind) of what has to be found: about as many positives of each kind as negatives."""
    draw = random.Random(seed)
    texts = []
    for _ in range(count):
        text, spans = "", []
        for _ in range(draw.randint(2, 5)):
            text += " ".join(draw.choices(FILLER, k=draw.randint(2, 8))) + draw.choice([". ", "\n", ": ", " "])
            if draw.random() < 0.5:
                text += draw.choice(NEGATIVES)(draw) + draw.choice(["\n", " ", ". "])
                continue
            kind = draw.choice(list(MAKERS))
            value = MAKERS[kind](draw)
            before, after = draw.choice(SENTENCES[kind]).split("{}")
            text += before
            spans.append((len(text), len(text) + len(value), "key" if kind == "assigned key" else kind))
            text += value + after + draw.choice(["\n", " "])
        texts.append((text, spans))
    return texts
