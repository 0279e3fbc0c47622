"""Keys, tokens and passwords.

The forms are those of detect-secrets 1.5 (which StarCoder used for keys) and of gitleaks' default rules. Left out of
them: strings that are only of high entropy, which in data sets are nearly all checksums and encoded data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import log2

# Prefixes that providers give their tokens so that they can be found. The text before it must not run on into it, and
# lengths are bounded: both keep time linear.
_TOKENS: dict[str, str] = {
    "AKIA": r"AKIA[0-9A-Z]{16}\b",  # AWS access key id
    "ASIA": r"ASIA[0-9A-Z]{16}\b",  # the same, temporary
    "ghp_": r"ghp_[0-9A-Za-z]{36}\b",  # GitHub: personal, OAuth, user-to-server, server-to-server, refresh
    "gho_": r"gho_[0-9A-Za-z]{36}\b",
    "ghu_": r"ghu_[0-9A-Za-z]{36}\b",
    "ghs_": r"ghs_[0-9A-Za-z]{36}\b",
    "ghr_": r"ghr_[0-9A-Za-z]{36,76}\b",
    "github_pat_": r"github_pat_[0-9A-Za-z_]{82}\b",
    "glpat-": r"glpat-[0-9A-Za-z_-]{20,50}",  # GitLab
    "xox": r"xox[abeoprs]-[0-9A-Za-z-]{10,200}",  # Slack
    "hooks.slack.com": r"hooks\.slack\.com/services/T[0-9A-Za-z_]{6,16}/B[0-9A-Za-z_]{6,16}/[0-9A-Za-z_]{16,48}",
    "AIza": r"AIza[0-9A-Za-z_-]{35}",  # Google API
    "k_live_": r"[rs]k_live_[0-9A-Za-z]{24,99}",  # Stripe
    "SG.": r"SG\.[0-9A-Za-z_-]{22}\.[0-9A-Za-z_-]{43}",  # SendGrid
    "npm_": r"npm_[0-9A-Za-z]{36}\b",
    "pypi-AgE": r"pypi-AgE[0-9A-Za-z_-]{70,250}",
    "T3BlbkFJ": r"sk-[0-9A-Za-z_-]{0,100}[0-9A-Za-z]{20}T3BlbkFJ[0-9A-Za-z_-]{20,100}",  # OpenAI
    "sk-ant-": r"sk-ant-[0-9A-Za-z_-]{80,120}",  # Anthropic
    "hf_": r"hf_[A-Za-z]{34}\b",  # Hugging Face
    "dop_v1_": r"dop_v1_[0-9a-f]{64}\b",  # DigitalOcean
    # JSON Web Token, RFC 7519: two objects in base64url, which begin with {", and a signature.
    "eyJ": r"eyJ[0-9A-Za-z_-]{10,4000}+\.eyJ[0-9A-Za-z_-]{10,8000}+\.[0-9A-Za-z_-]{10,1000}+",
}
_COMPILED = {prefix: re.compile(rf"(?<![0-9A-Za-z_-])(?:{pattern})") for prefix, pattern in _TOKENS.items()}

# PEM (RFC 7468) and OpenPGP armour. The body runs to the next five dashes, whatever they begin.
_PRIVATE_KEY = re.compile(r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_KEY_BODY = re.compile(r"(?:[^-]|-(?!----)){40,20000}+")
_KEY_END = re.compile(r"-----END (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_ENCODED = re.compile(r"[0-9A-Za-z+/=\\\s\"',]*+")
_ENCODED_LINE = re.compile(r"[0-9A-Za-z+/=]{32}")

# Names of what is secret, in lower case. A key is one if it is a key to something.
_NAMES = ("passw", "passphrase", "pwd", "secret", "token", "credential", "key")
_KEY_TO = re.compile(r"(?:api|access|auth|private|account|service|client|secret|signing|encryption)[_-]?$")
# The rest of a name, and name = "value", name: 'value', "name" => "value", name: str = "value". Only the value is
# masked, so that code still parses.
_QUOTED = re.compile(
    r"[\w.-]{0,40}[\"'`\]]{0,2}\s{0,4}(?::\s{0,2}[\w.\[\]]{1,20}\s{0,2}=|:=|=>|[:=]|,)\s{0,4}"
    r"[brfuBRFU@]?([\"'`])([^\"'`\s]{6,200})\1"
)
# NAME=value to the end of a line, as in .env, .ini and shell. Without quotes it may be any expression: see `_random`.
_UNQUOTED = re.compile(
    r"[\w.-]{0,40}[ \t]{0,4}[=:][ \t]{0,4}([0-9A-Za-z+/_=.~!@#$%^&*-]{12,200})[ \t]{0,20}(?=[\r\n]|$)"
)
# scheme://user:password@host. An @ in a password should be written %40, and often is not: up to the last one.
_IN_URL = re.compile(r"://[^\s:/@\"'<>{}]{1,64}:([^\s:/\"'<>{}|]{3,128})@(?=[\w.-])")
# Stand-ins and references instead of a secret.
_STAND_IN = re.compile(
    r"example|sample|dummy|fake|change.?me|your|placeholder|redacted|insert|secret|passw|token|api.?key|undefined|null"
    r"|none|true|false|test|default|\*{3}|x{4}|\.{3}|\|\|\||[<>{}()\[\]$%]|\bos\.|env|^[/.]|://",
    re.IGNORECASE,
)
MIN_ENTROPY = 3.5  # bits a character: gitleaks' generic-api-key


def find(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, `key` or `password`): tokens with a provider's prefix, private key blocks, JSON Web Tokens, random
    values given to names of keys, values given to names of passwords, passwords in URLs. They may overlap."""
    for prefix, pattern in _COMPILED.items():
        if prefix in text:
            yield from ((*match.span(), "key") for match in pattern.finditer(text))
    if "PRIVATE KEY" in text:
        yield from ((start, end, "key") for start, end in _private_keys(text))
    if "://" in text and "@" in text:
        for match in _IN_URL.finditer(text):
            if not _STAND_IN.search(match.group(1)):
                yield *match.span(1), "password"
    yield from _assigned(text)


def _assigned(text: str) -> Iterator[tuple[int, int, str]]:
    lower = text.lower()
    if len(lower) != len(text):  # a few capitals are two small letters, and places must agree
        lower = "".join(low if len(low := character.lower()) == 1 else character for character in text)
    for name in _NAMES:
        place = lower.find(name)
        while place >= 0:
            end = place + len(name)
            if name != "key" or _KEY_TO.search(lower[max(0, place - 12) : place]):
                password = name[0] == "p" and not lower.startswith("key", end)
                if match := _QUOTED.match(text, end):
                    value = match.group(2)
                    if _like_a_password(value) if password else _random(value):
                        yield *match.span(2), "password" if password else "key"
                elif (match := _UNQUOTED.match(text, end)) and _random(match.group(1)):
                    yield *match.span(1), "key"
            place = lower.find(name, end)


def entropy(value: str) -> float:
    """Shannon's, of the characters' frequencies, in bits a character."""
    counts = [value.count(character) for character in set(value)]
    return -sum(count / len(value) * log2(count / len(value)) for count in counts)


def _random(value: str) -> bool:
    """As keys are: 16 characters or more, letters and two digits, of high entropy, and no stand-in."""
    if len(value) < 16 or _STAND_IN.search(value):
        return False
    digits = sum(character.isdigit() for character in value)
    return digits >= 2 and digits < len(value) and entropy(value) >= MIN_ENTROPY


def _like_a_password(value: str) -> bool:
    """A letter, and a digit or a sign that is not in names: words are the names of fields and messages."""
    if _STAND_IN.search(value):
        return False
    signs = any(character.isdigit() or character in "!@#^&*+=;~?" for character in value)
    return signs and any(character.isalpha() for character in value)


def _private_keys(text: str) -> Iterator[tuple[int, int]]:
    last = 0
    for begin in _PRIVATE_KEY.finditer(text):
        if begin.start() < last:
            continue
        body = _KEY_BODY.match(text, begin.end())
        if body is None or not _ENCODED_LINE.search(body.group()):  # named, not shown
            continue
        end = _KEY_END.match(text, body.end())
        if end is None:  # cut off: as far as it looks encoded
            end = _ENCODED.match(text, begin.end())
        last = end.end() if end else body.end()
        yield begin.start(), last
