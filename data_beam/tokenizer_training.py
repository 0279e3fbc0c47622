"""Training a lossless SentencePiece tokenizer on words and how often they occur.

SentencePiece never lets white space into the middle of a piece, so that a newline and the indentation behind it
cost two tokens. Here the text is cut into words first, as GPT-4's tokenizer does, and while training a space is
an ordinary character; the trained pieces get SentencePiece's own sign for it afterwards. Training on distinct
words with counts also makes it a matter of a second rather than of minutes.
"""

from __future__ import annotations

import io
import re
import struct
from collections import Counter
from collections.abc import Iterable, Iterator

import apache_beam as beam
import sentencepiece

from data_beam.document import Document
from data_beam.token_format import hash64
from maxllm.config.errors import UserError
from maxllm.config.tokenize import TokenizerConfig

# In order of their ids. Not <s> and </s>, which are words of HTML: `transformers` takes special names out of any text.
SPECIAL_TOKENS = {"unk": "<|unknown|>", "bos": "<|begin_of_text|>", "eos": "<|end_of_text|>", "pad": "<|pad|>"}
# One digit; a word with what stands before it; punctuation with the newline and indentation behind it; white space.
WORDS = re.compile(r"\d|[^\r\n\w]?[^\W\d_]+| ?(?:[^\s\w]|_)+(?:[\r\n]+[ \t]*)?|[\r\n]+[ \t]*|[ \t]+(?!\S)|\s+")
# Private-use characters that stand for a space and a tab during training: SentencePiece gives both a meaning.
_IN_TRAINING = {" ": "\ue000", "\t": "\ue001"}
_AFTERWARDS = {"\ue000": "\u2581", "\ue001": "\t"}
# Left to the bytes: the stand-ins, SentencePiece's own signs, what ends a string in C, what no UTF-8 can hold.
_UNTRAINABLE = re.compile("[\ue000\ue001\u2581\u2585\0\ud800-\udfff]")
# Always pieces of their own: code must not fall to bytes, and names of special tokens in a text are spelled in them.
_ASCII = " \t\n" + "".join(map(chr, range(0x21, 0x7F)))
TEXT_CHARACTERS = 1 << 16  # of one document: a few long ones must not be the whole sample
_COVERAGE = 0.9995  # of the characters met; the rarer ones are spelled in bytes (SentencePiece's default)


class SmallestSample(beam.CombineFn):
    """Lists of documents -> texts of about `training_bytes`: those whose ids hash lowest, in that order.

    Which documents these are depends on the seed and the ids alone, not on how the work was divided.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        self._limit, self._seed = config.training_bytes, config.seed

    def create_accumulator(self) -> list[tuple[int, str]]:
        return []

    def add_input(self, held: list[tuple[int, str]], documents: list[Document]) -> list[tuple[int, str]]:
        for document in documents:
            held.append((hash64("sample", self._seed, document.id), document.text[:TEXT_CHARACTERS]))
        return self._smallest(held)

    def merge_accumulators(self, accumulators: Iterable[list[tuple[int, str]]]) -> list[tuple[int, str]]:
        return self._smallest([item for held in accumulators for item in held])

    def extract_output(self, held: list[tuple[int, str]]) -> list[str]:
        return [text for _, text in held]

    def _smallest(self, held: list[tuple[int, str]]) -> list[tuple[int, str]]:
        held.sort()
        room = self._limit
        for number, (_, text) in enumerate(held):
            room -= len(text.encode("utf-8", "replace"))
            if room <= 0:
                return held[: number + 1]
        return held


def train_tokenizer(texts: Iterable[str], config: TokenizerConfig) -> bytes:
    """A SentencePiece model (serialised) trained on `texts`.

    Ids 0-3 are `SPECIAL_TOKENS`; then come `config.special_tokens`, the 256 bytes, the pieces. The vocabulary is
    smaller than `config.vocab_size` where the texts do not give as many pieces.
    """
    words: Counter[str] = Counter()
    for text in texts:
        words.update(WORDS.findall(text))
    if not words:
        raise UserError("there is no text to train a tokenizer on; check `documents`, or give tokenizer.path")
    alphabet = _alphabet(words) | set(_ASCII + "".join(config.special_tokens))
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(words, alphabet),
            input_format="tsv",
            model_writer=model,
            model_type=config.algorithm,
            vocab_size=config.vocab_size,
            hard_vocab_limit=False,
            **{f"{role}_id": number for number, role in enumerate(SPECIAL_TOKENS)},
            **{f"{role}_piece": name for role, name in SPECIAL_TOKENS.items()},
            control_symbols=config.special_tokens,
            byte_fallback=True,
            character_coverage=1.0,
            split_digits=True,
            split_by_unicode_script=False,
            split_by_number=False,
            max_sentencepiece_length=32,
            max_sentence_length=1 << 20,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(f"SentencePiece could not train tokenizer.vocab_size={config.vocab_size}: {error}") from error
    return _finish_pieces(model.getvalue())


def _alphabet(words: Counter[str]) -> set[str]:
    """The most frequent characters, until they cover `_COVERAGE` of the texts."""
    characters: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            characters[character] += count
    wanted = _COVERAGE * characters.total()
    alphabet = set()
    for character, count in sorted(characters.items(), key=lambda item: (-item[1], item[0])):
        if wanted <= 0:
            break
        wanted -= count
        if not _UNTRAINABLE.match(character):
            alphabet.add(character)
    return alphabet


def _lines(words: Counter[str], alphabet: set[str]) -> Iterator[str]:
    """`word<tab>count`, in an order that the texts' order has no part in."""
    parts: Counter[str] = Counter(alphabet)
    for word, count in words.items():
        for part in "".join(c if c in alphabet else "\0" for c in word).split("\0"):
            parts[part] += count
    for part, count in sorted(parts.items()):
        if part:
            for character, stand_in in _IN_TRAINING.items():
                part = part.replace(character, stand_in)
            yield f"{part}\t{count}"


def _finish_pieces(model: bytes) -> bytes:
    """Puts the real characters back in the pieces of a serialised ModelProto, and rounds their scores.

    Done on the wire format, because sentencepiece's own protobuf module demands a protobuf that others do not take.
    In sentencepiece_model.proto the pieces are field 1 of the model; the text is field 1 of a piece, its score
    (a float) field 2. Multiples of 1/64 sum exactly in SentencePiece's float32 (up to some 30,000 tokens) as in the
    float64 of others, so that both break the ties between equal segmentations alike.
    """
    result = bytearray()
    place = 0
    while place < len(model):
        key, place = _read_varint(model, place)
        length, place = _read_varint(model, place)
        body = model[place : place + length]
        place += length
        if key == 1 << 3 | 2 and body[0] == 1 << 3 | 2:
            size, start = _read_varint(body, 1)
            text = body[start : start + size].decode()
            for stand_in, character in _AFTERWARDS.items():
                text = text.replace(stand_in, character)
            rest = body[start + size :]
            if rest[:1] == bytes([2 << 3 | 5]):
                (score,) = struct.unpack("<f", rest[1:5])
                rest = rest[:1] + struct.pack("<f", round(score * 64) / 64) + rest[5:]
            body = body[:1] + _varint(len(text.encode())) + text.encode() + rest
        result += _varint(key) + _varint(len(body)) + body
    return bytes(result)


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 127) << shift
        shift, place = shift + 7, place + 1
        if byte < 128:
            return value, place


def _varint(value: int) -> bytes:
    result = bytearray()
    while value > 127:
        result.append(value & 127 | 128)
        value >>= 7
    return bytes(result + bytes([value]))
