"""Errors of typing, scanning and careless writing. Each function gives the text and how many places it changed.

A place is hit with probability `rate`, independently of the others, so that the number of hits is binomial; one that
an error before it has used up (the second of two swapped) is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from data_beam.augment.draw import Draw
from maxllm.config.augment import CharacterKind, WordKind

# Keys beside each key of a QWERTY keyboard.
_ROWS = ("1234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm")


def _neighbours() -> dict[str, str]:
    found: dict[str, str] = {}
    for row, keys in enumerate(_ROWS):
        for column, key in enumerate(keys):
            around = [(row, column - 1), (row, column + 1), (row - 1, column), (row - 1, column + 1)]
            around += [(row + 1, column - 1), (row + 1, column)]
            near = [_ROWS[r][c] for r, c in around if 0 <= r < len(_ROWS) and 0 <= c < len(_ROWS[r])]
            found[key] = "".join(near)
    return found


KEYBOARD = _neighbours()
# What a scanner takes for one another.
OCR = {
    **{"0": "Oo", "1": "lI", "2": "Z", "5": "S", "6": "b", "8": "B", "9": "g"},
    **{"O": "0Q", "Q": "O", "I": "l1", "l": "1I", "S": "5", "B": "8", "Z": "2", "D": "O", "G": "6", "E": "F", "F": "E"},
    **{"a": "o", "c": "e", "e": "c", "h": "b", "b": "h", "i": "l", "j": "i", "n": "u", "o": "0", "u": "n", "v": "y"},
    **{"g": "9", "q": "g", "f": "t", "t": "f", "s": "5"},
}
_PAIRS = {"m": "rn", "w": "vv", "d": "cl"}  # one letter read as two


def noisy_characters(text: str, rate: float, kinds: Sequence[CharacterKind], draw: Draw) -> tuple[str, int]:
    """Letters and digits replaced by a key beside them or a look-alike, swapped with the next, left out, doubled or
    with a neighbouring key beside them. Kinds that a character does not have (no key for é) are not drawn for it."""
    out: list[str] = []
    changed = place = 0
    while place < len(text):
        character = text[place]
        place += 1
        if not character.isalnum() or draw.random() >= rate:
            out.append(character)
            continue
        following = text[place] if place < len(text) else ""
        possible = [kind for kind in kinds if _possible(kind, character, following)]
        if not possible:
            out.append(character)
            continue
        changed += 1
        kind = draw.choice(possible)
        if kind == "swap":
            out.append(following + character)
            place += 1
        elif kind == "insert":
            out.append(
                character
                + (
                    _like(draw.choice(KEYBOARD[low]), character)
                    if (low := character.lower()) in KEYBOARD
                    else character
                )
            )
        elif kind == "keyboard":
            out.append(_like(draw.choice(KEYBOARD[character.lower()]), character))
        elif kind == "ocr":
            out.append(draw.choice([*OCR.get(character, ()), *([_PAIRS[character]] if character in _PAIRS else [])]))
    return "".join(out), changed


def _possible(kind: CharacterKind, character: str, following: str) -> bool:
    if kind == "keyboard":
        return character.lower() in KEYBOARD
    if kind == "ocr":
        return character in OCR or character in _PAIRS
    return kind != "swap" or (following.isalnum() and following != character)


def _like(letter: str, other: str) -> str:
    return letter.upper() if other.isupper() else letter


_WORDS = re.compile(r"\S+|\s+")


def noisy_words(text: str, rate: float, kinds: Sequence[WordKind], draw: Draw) -> tuple[str, int]:
    """Words (runs without white space) left out with the white space behind them, swapped with the next of their line,
    or written twice."""
    parts = _WORDS.findall(text)
    out: list[str] = []
    changed = place = 0
    while place < len(parts):
        word = parts[place]
        place += 1
        if word.isspace() or draw.random() >= rate:
            out.append(word)
            continue
        space = parts[place] if place < len(parts) else ""
        following = parts[place + 1] if place + 1 < len(parts) and "\n" not in space else ""
        possible = [kind for kind in kinds if kind != "swap" or (following and following != word)]
        if not possible:
            out.append(word)
            continue
        changed += 1
        kind = draw.choice(possible)
        if kind == "repeat":
            out.append(f"{word} {word}")
        elif kind == "swap":
            out += [following, space, word]
            place += 2
        elif "\n" not in space:  # a word left out at the end of a line leaves the line's end
            place += 1
    return "".join(out), changed
