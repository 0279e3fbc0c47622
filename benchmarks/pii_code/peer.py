"""Runs where the peer's packages are: made-up values by Faker and phonenumbers, or datatrove's formatter at work.

python peer.py values SEED > values.json      {kind: [value, ...]}
python peer.py datatrove < texts.json         {"seconds": processor time of one pass, the best of three}
"""

from __future__ import annotations

import json
import sys
from time import process_time


def values(seed: int) -> dict[str, list[str]]:
    import phonenumbers
    from faker import Faker

    Faker.seed(seed)
    fake = Faker(["en_US", "en_GB", "de_DE", "fr_FR"])
    us = fake["en_US"]
    result = {
        "email": [us.ascii_free_email() for _ in range(500)]
        + [fake["de_DE"].ascii_company_email() for _ in range(500)],
        "ip": [us.ipv4_public() for _ in range(700)],
        "card": [us.credit_card_number(card_type=kind) for kind in ("visa16", "mastercard", "amex", "discover") * 150],
        "iban": [fake[locale].iban() for locale in ("en_GB", "de_DE", "fr_FR") for _ in range(200)],
        "ssn": [us.ssn() for _ in range(500)],
        "phone en_US": [us.phone_number() for _ in range(500)],
    }
    international = phonenumbers.PhoneNumberFormat.INTERNATIONAL
    national = phonenumbers.PhoneNumberFormat.NATIONAL
    for name, form in (("phone international", international), ("phone national", national)):
        result[name] = []
        for region in sorted(phonenumbers.SUPPORTED_REGIONS):
            for kind in (phonenumbers.PhoneNumberType.FIXED_LINE, phonenumbers.PhoneNumberType.MOBILE):
                if (number := phonenumbers.example_number_for_type(region, kind)) is not None:
                    result[name].append(phonenumbers.format_number(number, form))
    return result


def datatrove(texts: list[str]) -> dict[str, float]:
    from datatrove.pipeline.formatters.pii import PIIFormatter

    formatter, times = PIIFormatter(), []
    for _ in range(3):
        start = process_time()
        for text in texts:
            formatter.format(text)
        times.append(process_time() - start)
    return {"seconds": min(times)}


if __name__ == "__main__":
    json.dump(values(int(sys.argv[2])) if sys.argv[1] == "values" else datatrove(json.load(sys.stdin)), sys.stdout)
