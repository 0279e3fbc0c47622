"""The two kinds of tokenizer file, behind one small face: text to ids, and id to bytes.

Neither codec knows of beginnings, ends or chat; `maxllm.tokenizer` adds those.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import sentencepiece
import tokenizers

from maxllm.config.errors import UserError

SPACE = "\u2581"  # SentencePiece's stand-in for a space
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Codec(Protocol):
    pieces: list[bytes]  # the bytes each id stands for, b"" for special tokens
    special: dict[str, int]  # tokens that stand for no text, by name
    adds_space: bool  # the encoder puts a space before the text, and decoding must take it away

    def encode(self, text: str) -> list[int]: ...
    def encode_batch(self, texts: list[str]) -> list[list[int]]: ...


class SentencePieceCodec:
    def __init__(self, model: bytes, added: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """`added`: tokens beyond the model's pieces, by id, as tokenizer_config.json's added_tokens_decoder has them.
        The encoder never gives them."""
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=model)
        except (RuntimeError, OSError) as error:
            raise UserError(f"the file is not a SentencePiece model ({error}); give another tokenizer") from error
        size = self._model.get_piece_size()
        names = [self._model.id_to_piece(i) for i in range(size)]
        is_special = [self._model.is_control(i) or self._model.is_unknown(i) for i in range(size)]
        self.special = {name: i for i, name in enumerate(names) if is_special[i]}
        self.pieces = [
            b""
            if is_special[i]
            else bytes([int(name[3:5], 16)])
            if self._model.is_byte(i)
            else name.replace(SPACE, " ").encode()
            for i, name in enumerate(names)
        ]
        beyond = {int(i): token for i, token in (added or {}).items() if int(i) >= size}
        self.special |= {token["content"]: i for i, token in sorted(beyond.items()) if token.get("special", True)}
        self.pieces += [b""] * (max(beyond, default=size - 1) + 1 - size)
        for i, token in beyond.items():
            self.pieces[i] = b"" if token.get("special", True) else token["content"].encode()
        self.adds_space = self.pieces[self._model.encode("a")[0]].startswith(b" ")
        byte_ids = {self.pieces[i]: i for i in range(size) if self._model.is_byte(i)}
        # SentencePiece would give a literal U+2581 back as a space, so it is spelled in bytes. A model that
        # adds spaces of its own cannot be fed text in parts, so there it stays as it is.
        spelled = [byte_ids.get(bytes([byte])) for byte in SPACE.encode()]
        self._spelled_space = None if None in spelled or self.adds_space else spelled

    def encode(self, text: str) -> list[int]:
        if SPACE not in text or self._spelled_space is None:
            return self._model.encode(text)
        first, *rest = (self._model.encode(part) for part in text.split(SPACE))
        for part in rest:
            first += self._spelled_space + part
        return first

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        encoded = self._model.encode(texts)
        return [self.encode(text) if SPACE in text else ids for text, ids in zip(texts, encoded, strict=True)]


class HuggingFaceCodec:
    def __init__(self, file: bytes) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(file.decode())
        except Exception as error:  # the library raises bare Exceptions
            raise UserError(f"the file is not a Hugging Face tokenizer.json ({error}); give another one") from error
        description = json.loads(file)
        model = self._tokenizer.model
        kind = type(model).__name__  # files of 2020 do not say
        if kind not in ("BPE", "Unigram", "WordPiece"):
            raise UserError(f"a {kind} tokenizer is not read; give a BPE, Unigram or WordPiece tokenizer.json")
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # "<s>" in ordinary text is three characters
        added = {token["id"]: token for token in description.get("added_tokens", [])}
        self.special = {token["content"]: i for i, token in added.items() if token["special"]}
        if kind == "WordPiece":
            to_bytes = _word_pieces_to_bytes(model.continuing_subword_prefix)
        else:
            to_bytes = _token_to_bytes(description.get("decoder") or {})
        self.pieces = [b""] * (max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1)
        for token, i in self._tokenizer.get_vocab(with_added_tokens=True).items():
            if i in added:
                word = b" " if kind == "WordPiece" else b""
                self.pieces[i] = b"" if added[i]["special"] else word + token.encode()
            else:
                self.pieces[i] = to_bytes(token)
        first = self.encode("a")[:1]
        self.adds_space = kind == "WordPiece" or any(self.pieces[i].startswith(b" ") for i in first)

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def _word_pieces_to_bytes(prefix: str) -> Callable[[str], bytes]:
    """A piece is a word with the space before it, or what continues one."""
    return lambda token: (token[len(prefix) :] if token.startswith(prefix) else " " + token).encode()


def _token_to_bytes(decoder: dict[str, Any]) -> Callable[[str], bytes]:
    """The function token -> bytes that a tokenizer.json's decoder describes."""
    parts = {part["type"]: part for part in decoder.get("decoders", [decoder]) if part}
    if "ByteLevel" in parts:
        table = _byte_level_alphabet()
        return lambda token: b"".join(table.get(character, character.encode()) for character in token)
    if "BPEDecoder" in parts:  # GPT-1
        suffix = parts["BPEDecoder"]["suffix"]
        return lambda token: (token.removesuffix(suffix) + " " if token.endswith(suffix) else token).encode()
    replaces_space = "Metaspace" in parts or parts.get("Replace", {}).get("pattern") == {"String": SPACE}
    spells_bytes = "ByteFallback" in parts

    def to_bytes(token: str) -> bytes:
        if spells_bytes and (match := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(match[1], 16)])
        return (token.replace(SPACE, " ") if replaces_space else token).encode()

    return to_bytes


def _byte_level_alphabet() -> dict[str, bytes]:
    """GPT-2's printable stand-ins for the 256 bytes (Radford et al. 2019, `bytes_to_unicode`)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): bytes([byte]) for byte in printable} | {
        chr(256 + i): bytes([byte]) for i, byte in enumerate(others)
    }
