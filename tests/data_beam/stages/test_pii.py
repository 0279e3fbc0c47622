"""What is found and what is left alone, by kind; masking changes nothing else; nothing found is ever repeated."""

import json
import logging

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_beam import pii
from data_beam.curation import apply
from data_beam.document import DeadLetter, Document, Rejected
from data_beam.pii.mask import DETECTORS, find
from data_beam.stages.pii import Pii, PiiLimit
from maxllm.config.pii import PiiConfig

# Put together so that no scanner of this repository takes them for real ones.
AWS, GITHUB, JWT = (
    "AKIA" + "Q7RT2XM4VNPW5KLD",
    "ghp_" + "k3Jd8Qw2Zx7Vb5Nm1Lp9Rt4Yc6Hg0Sf2DuEo",
    "eyJ" + "hbGciOiJIUzI1NiJ9",
)
JWT += ".eyJ" + "zdWIiOiIxMjM0NTY3ODkwIn0." + "dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"

FOUND = {
    "email": [
        "write to <john.doe@gmail.com>, or",
        "JANE_DOE+lists@Sub.Example-Corp.CO.UK",
        "mailto:o.brien-smith@uni-köln.de?subject=x",
        "x@xn--bcher-kva.de.",
        "jürgen@bücher.de",
        "ends a sentence with me@firm.com.Then goes on",
        '"a@b.org"',
    ],
    "ip": [
        "host 8.8.8.8",
        "from 52.14.33.101:8080",
        "http://93.184.216.34/x",
        "[2a00:1450:4001:81b::200e]",
        "DNS 1.1.1.1",
    ],
    "phone": [
        "(415) 892-2671",
        "415-892-2671",
        "415.892.2671",
        "1-800-892-2671",
        "+1 415 892 2671",
        "+14158922671",
        "+49 30 901820-11",
        "+44 (0)20 7946 1958",
        "+33 1 42 68 53 00",
        "Tel: 020 7946 1958",
        "Phone 4158922671",
        "call us at 0800 123 4567",
    ],
    "card": ["4111 1111 1111 1111", "5500-0000-0000-0004", "378282246310005", "3782 822463 10005", "6011111111111117"],
    "iban": ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432", "NL91ABNA0417164300,"],
    "ssn": ["SSN 219-09-9999", "(078-05-1120)"],
    "key": [
        AWS,
        f"token={GITHUB}",
        f"Authorization: Bearer {JWT}",
        "xox" + "b-123456789012-123456789012-AbCdEfGhIjKlMnOpQrStUvWx",
        "AIza" + "SyD3kf8s9Dk2Lq7Vn4Wm1Zx6Cb0Ph5Rt9Uy",
        "sk_" + "live_4eC39HqLyjWDarjtT1zdp7dc",
        'API_KEY = "8Xk2Lp9QzR4vN7wT1mB6"',
        "aws_secret_access_key = wJalrXUt9FEMI/K7MDENG/bPxRfiCYzzKEY1\n",
        'client_secret: "q9W-e8R7_t6Y5u4I3o2P1"',
    ],
    "password": ['password = "hunter2!"', "db_passwd: 's3cr#etz9'", "postgres://bob:Tr0ub4dor@db.host.com/x"],
}
LEFT = {
    "email": [
        "git@github.com:a/b.git",
        "logo@2x.png",
        "package@1.2.3",
        "y = query@key.weight",
        "q@k.transpose(1)",
        "@decorator.name",
        "user@localhost",
        "someone@example.com",
        "a @ b.com",
        "@handle and @b.com",
        "x..y@b",
    ],
    "ip": ["127.0.0.1", "10.1.2.3", "192.168.0.1", "version 1.2.3.4", "v8.5.4.11", "Chrome/91.0.4.12",
           "1.3.6.1.4.1.311", "256.1.1.1", "std::add::face", "12:34:56", "2001:db8::1", "1.0.0.0", "see 3.1.4.2",
           "assembly==12.4.5.6",
           "2021:10:11 12:33", "192.0.2.7"],
    "phone": ["2021-03-04 10:11:12", "ISBN 978-3-16-148410-0", "12345678901234", "1234567890", "+1000000",
              "x+12345678901", "200 300 4000", "phone: 2021-03-04", "call 911", "202-555-0123", "10.1109/5.771073",
              "1 + 49 30 901820",
              "3.14159265358979", "#415-892", "ph 7"],
    "card": ["4111 1111 1111 1112", "1234 5678 9012 3456", "0000 0000 0000 0000", "978-0306406157", "1609459200000000"],
    "iban": ["DE89 3704 0044 0532 0130 01", "GB12345698765432", "ZZ89370400440532013000"],
    "ssn": ["000-12-3456", "666-12-3456", "987-65-4321", "219099999", "1219-09-9999", "219-00-9999"],
    "key": [
        "AKIA is a prefix", 'api_key = "YOUR_API_KEY_HERE_1234"', "token = get_token(request1, 22)",
        'key = "primary_key_name"',
        "ghp_short", 'token_type = "application/x-www-form"', "eyJhbGciOiJIUzI1NiJ9 alone",
        "-----BEGIN PRIVATE KEY----- shown",
        'secret = "${SECRET_FROM_ENV_12}"', "sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    ],
    "password": ['password = "changeme1!"', "password: str", 'label = "Password:"', 'password = os.environ["PW1!"]',
                 "http://host:8080/a@b", 'pwd="/home/x1!"'],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in FOUND.items() for text in texts])
def test_what_is_found(kind, text):
    masked, counts = pii.mask(text)
    assert counts == {kind: 1}, masked
    assert pii.NAMED[kind] in masked


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in LEFT.items() for text in texts])
def test_what_is_left_alone(kind, text):
    assert pii.mask(text, [kind]) == (text, {})


def test_a_text_with_everything():
    text = f"Dear jane@firm.com, ring (415) 892-2671 or pay DE89 3704 0044 0532 0130 00. From 52.14.33.101; {AWS}."
    expected = "Dear |||EMAIL_ADDRESS|||, ring |||PHONE_NUMBER||| or pay |||IBAN|||. From |||IP_ADDRESS|||; |||KEY|||."
    assert pii.mask(text) == (expected, {"email": 1, "phone": 1, "iban": 1, "ip": 1, "key": 1})


def test_private_keys_are_taken_whole_and_mentions_of_them_stay():
    body = "\n".join(["MIIEowIBAAKCAQEA" + "x7" * 24] * 5)
    key = f"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n{body}\n-----END RSA PRIVATE KEY-----"
    assert pii.mask(f"a\n{key}\nb") == ("a\n|||KEY|||\nb", {"key": 1})
    assert pii.mask(f"{key}\n{key}") == ("|||KEY|||\n|||KEY|||", {"key": 2})
    cut, counts = pii.mask(f"a -----BEGIN PRIVATE KEY-----\n{body}\n")
    assert cut.startswith("a |||KEY|||") and "MIIE" not in cut and counts == {"key": 1}
    mention = "A file with -----BEGIN PRIVATE KEY----- is private; -----BEGIN PUBLIC KEY----- is not."
    assert pii.mask(mention) == (mention, {})


def test_code_still_parses_and_only_the_value_is_gone():
    source = f'password = "hunter2!"\nclient = login("{AWS}", host="8.8.8.8")  # ask jane@firm.com\n'
    source += "card = 4111111111111111\n"
    stage = Pii(PiiConfig())
    document = stage(Document("1", source, "s", "2024", metadata={"content_type": "code"}))
    compile(document.text, "x", "exec")
    assert document.metadata["pii"] == {"key": 1, "password": 1, "email": 1, "ip": 1}
    assert 'password = "|||PASSWORD|||"' in document.text and "4111111111111111" in document.text


def luhn_slowly(digits):
    """ISO/IEC 7812-1, annex B, in words."""
    doubled = [sum(map(int, str(int(d) * 2))) if place % 2 else int(d) for place, d in enumerate(digits[::-1])]
    return sum(doubled) % 10 == 0


@given(st.text("0123456789", min_size=1, max_size=19))
def test_luhn_agrees_with_its_definition(digits):
    from data_beam.pii.numbers import luhn

    assert luhn(digits) == luhn_slowly(digits)


PIECES = st.sampled_from(
    [text for texts in (*FOUND.values(), *LEFT.values()) for text in texts]
    + [
        "@",
        ".",
        "-",
        " ",
        "+",
        "(",
        ":",
        "//",
        "|",
        "|||",
        "\n",
        "0",
        "Tel: ",
        "-----",
        '"',
        "password=",
        "a@b.com",
        "1.1.1.1",
    ]
    + list(pii.NAMED.values())
)
TEXTS = st.lists(st.one_of(PIECES, st.text(max_size=8)), max_size=8).map("".join)


@given(TEXTS, st.sampled_from([pii.NAMED, pii.EXAMPLE]))
@example("a@b.com@x.com", pii.NAMED)
@example("tel 4158922671 4158922671", pii.EXAMPLE)
def test_masking_twice_is_masking_once(text, placeholders):
    masked, _ = pii.mask(text, placeholders=placeholders)
    assert pii.mask(masked, placeholders=placeholders) == (masked, {})


@given(TEXTS)
def test_the_text_outside_the_finds_is_unchanged(text):
    spans = find(text)
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))
    assert all(0 <= start < end <= len(text) for start, end, _ in spans)
    masked, counts = pii.mask(text)
    # Between the placeholders are, in order, pieces of the text.
    rest = masked
    for name in pii.NAMED.values():
        rest = rest.replace(name, "\x00")
    place = 0
    for piece in rest.split("\x00"):
        place = text.find(piece, place)
        assert place >= 0
        place += len(piece)
    assert bool(counts) == bool(spans)


@given(st.text())
def test_any_text_passes(text):
    pii.mask(text)


UNITS = ["@", "a@", "a.", "1.", "a@b.", "1 ", "(1", "+1", "0-", "4", "eyJ", "-----BEGIN PRIVATE KEY-----", "key=",
         "tel ", "://a:", "password='", "DE89 ", "2001:", ":", "secret: a", "-", "sk-", "xoxb-", "A", "password", "://",
         "a b@c ", "5555 ", "T3BlbkFJ sk-", "-----BEGIN RSA PRIVATE KEY-----a "]  # fmt: skip


@pytest.mark.parametrize("unit", UNITS)
def test_time_grows_with_the_length_and_no_faster(unit):
    from time import process_time

    def seconds(size):
        text = (unit * (size // len(unit) + 1))[:size]
        times = []
        for _ in range(3):
            start = process_time()
            for _, detect in DETECTORS:
                list(detect(text))
            times.append(process_time() - start)
        return min(times)

    # Eight times the text: eight times the time if linear, 64 if quadratic. Half way between on a noisy machine.
    assert seconds(160_000) < 24 * max(seconds(20_000), 0.0005)


CONFIG = PiiConfig(max_count=1)
SECRETS = ("jane.roe@private.org", "(415) 892-2671", AWS)
TEXT = " and ".join(SECRETS)


def shown(outcome):
    """Everything a run writes of a document: its own files, the report, a dead letter."""
    if isinstance(outcome, Rejected):
        return json.dumps([outcome.document.to_json(), outcome.drop.reason, outcome.drop.value])
    if isinstance(outcome, DeadLetter):
        return json.dumps([outcome.where, outcome.stage, outcome.error])
    return json.dumps(outcome.to_json())


def test_what_is_dropped_for_too_much_is_masked_and_tells_a_number(caplog, capfd):
    caplog.set_level(logging.DEBUG)
    outcome = apply([("pii", Pii(CONFIG)), ("pii", PiiLimit(CONFIG))], Document("1", TEXT, "s", "2024"))
    assert isinstance(outcome, Rejected) and outcome.drop.reason == "pii.count" and outcome.drop.value == 3
    assert not any(secret in shown(outcome) for secret in SECRETS)
    printed = caplog.text + "".join(capfd.readouterr())
    assert not any(secret in printed for secret in SECRETS)


def test_at_the_limit_a_document_stays():
    config = PiiConfig(max_count=3)
    outcome = apply([("pii", Pii(config)), ("pii", PiiLimit(config))], Document("1", TEXT, "s", "2024"))
    assert isinstance(outcome, Document) and outcome.metadata["pii"] == {"email": 1, "phone": 1, "key": 1}


def test_an_error_that_quotes_the_text_becomes_a_dead_letter_that_does_not(monkeypatch, caplog, capfd):
    def broken(text, *_):
        raise ValueError(f"cannot mask {text!r}")

    monkeypatch.setattr("data_beam.stages.pii.mask", broken)
    outcome = apply([("pii", Pii(CONFIG))], Document("1", TEXT, "s", "2024"))
    assert isinstance(outcome, DeadLetter) and outcome.error == "MaskingError: ValueError"
    assert not any(secret in shown(outcome) + caplog.text + "".join(capfd.readouterr()) for secret in SECRETS)


def test_the_error_does_not_carry_the_text_in_its_chain(monkeypatch):
    import traceback

    monkeypatch.setattr("data_beam.stages.pii.mask", lambda text, *_: [][int(f"cannot {text!r}")])
    with pytest.raises(Exception, match="ValueError") as caught:
        Pii(CONFIG)(Document("1", TEXT, "s", "2024"))
    printed = "".join(traceback.format_exception(caught.value))
    assert not any(secret in printed for secret in SECRETS)


def test_counts_of_an_earlier_run_are_added_to():
    stage = Pii(PiiConfig())
    once = stage(Document("1", TEXT, "s", "2024"))
    assert stage(once).metadata == once.metadata
    again = stage(once.with_text(once.text + " x@firm.com"))
    assert again.metadata["pii"] == {"email": 2, "key": 1, "phone": 1}


def test_kinds_not_asked_for_stay_and_clean_documents_are_untouched():
    document = Document("1", TEXT, "s", "2024")
    assert Pii(PiiConfig(kinds=["ip"]))(document) is document
    masked = Pii(PiiConfig(kinds=["email"], placeholders="example"))(document)
    assert masked.text == TEXT.replace(SECRETS[0], "email@example.com")


def test_no_placeholder_is_a_special_token():
    assert not any(value.startswith("<|") for value in pii.NAMED.values())


def test_masking_happens_when_nothing_is_to_be_decided():
    stage = Pii(PiiConfig())
    assert stage.decide(stage.measure(Document("1", TEXT, "s", "2024"))) == stage(Document("1", TEXT, "s", "2024"))
