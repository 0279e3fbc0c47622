"""Text to the words of an n-gram model, the same for the trainer and the stage.

A line is a sentence. What lmplz treats as white space, and the names of its three special words, are not words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator

from data_beam.io.files import open_file
from maxllm.config.errors import UserError
from maxllm.config.perplexity import PreparationConfig

BOS, EOS, UNK = "<s>", "</s>", "<unk>"
SPECIAL = frozenset({BOS, EOS, UNK})
_SPECIAL = re.compile(r"</?s>|<unk>")

# CCNet (Wenzek et al. 2020, arXiv 1911.00359), cc_net/text_normalizer.py. Left out: its fullwidth 1, which the rule
# for digits has turned into a 0 before.
_PUNCTUATION = str.maketrans(
    {
        **dict.fromkeys("„”“«»」「《》", '"'),
        **dict.fromkeys("´’", "'"),
        **dict.fromkeys("∶：", ":"),
        **dict.fromkeys("–━►", "-"),
        **dict(zip("，。、？！（）；～〈〉【】％", ",.,?!();~<>[]%", strict=True)),
        "—": " - ",
        "．": ". ",
        "…": "...",
        # Control characters are taken out, as everything else that CCNet calls non-printing.
        **dict.fromkeys(map(chr, [*range(32), *range(127, 160)]), ""),
    }
)
_DIGIT = re.compile(r"\d")
# No ARPA file can hold these inside a word.
_IN_WORDS = str.maketrans({" ": "\u2581", "\t": "<0x09>", "\n": "<0x0A>", "\r": "<0x0D>", "\0": "<0x00>"})


def normalise_ccnet(line: str) -> str:
    """Lower case, no accents (what is left of NFD), every digit 0, ASCII punctuation, no control characters."""
    line = line.strip().lower()
    if not line.isascii():
        line = "".join(c for c in unicodedata.normalize("NFD", line) if unicodedata.category(c) != "Mn")
    return _DIGIT.sub("0", line).translate(_PUNCTUATION)


class Preparation:
    def __init__(self, config: PreparationConfig) -> None:
        self._normalise = normalise_ccnet if config.normalisation == "ccnet" else None
        self._split = _splitter(config.tokenizer) if config.tokenizer else str.split

    def lines(self, text: str) -> Iterator[list[str]]:
        """The words of each line that has any."""
        if "\0" in text:
            text = text.replace("\0", " ")
        for line in text.split("\n"):
            if self._normalise:
                line = self._normalise(line)
            words = self._split(line) if line and not line.isspace() else ()
            if words and _SPECIAL.search(line):
                words = [word for word in words if word not in SPECIAL]
            if words:
                yield list(words)


def _splitter(path: str) -> Callable[[str], list[str]]:
    """A SentencePiece .model gives its pieces, as in CCNet; another tokenizer (a file or folder) its ids."""
    if path.endswith(".model"):
        import sentencepiece

        try:
            with open_file(path) as stream:
                model = sentencepiece.SentencePieceProcessor(model_proto=stream.read())
        except OSError as error:
            raise UserError(f"preparation.tokenizer: cannot read {path} ({error})") from None
        except RuntimeError as error:
            raise UserError(f"preparation.tokenizer: {path} is not a SentencePiece model ({error})") from None
        return lambda line: [piece.translate(_IN_WORDS) for piece in model.encode(line, out_type=str)]
    from data_beam.tokens import read_tokenizer

    tokenizer = read_tokenizer(path)
    return lambda line: [str(number) for number in tokenizer.encode(line)]
