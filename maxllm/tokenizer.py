"""Text to token ids and back.

    tokenizer = Tokenizer.load("runs/tokens/tokenizer")
    ids = tokenizer.encode("def f(x):", bos=True)

`decode(encode(text)) == text` for the tokenizers that we train, byte-level BPE and SentencePiece that changes nothing.
Others join white space, and may fold case and accents and drop unknown characters: WordPiece (BERT, ELECTRA), GPT-1's
BPE, SentencePiece with a normaliser (T5, DeBERTa v3). `Tokenizer.lossless` tells them apart.

A tokenizer is a handful of small files: a SentencePiece `tokenizer.model` or a Hugging Face `tokenizer.json`,
and beside it perhaps `tokenizer_config.json` and `chat_template.jinja`; `maxllm.tokenizer_files` makes these of older
folders. Special tokens met in ordinary text are text; only `encode(..., special=True)` and `encode_chat` give them
their meaning.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from maxllm.config.errors import UserError
from maxllm.tokenizer_codecs import Codec, HuggingFaceCodec, SentencePieceCodec
from maxllm.tokenizer_files import COMPANIONS, FILES, NAMES, SENTENCE_PIECE, canonical

CHATML = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Names by which tokenizers without a tokenizer_config.json mark a beginning, an end and padding.
_ROLES = {
    "bos_token": ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "[CLS]"),
    "eos_token": ("</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>", "[SEP]"),
    "pad_token": ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>"),
}
# BERT's kin name no beginning and no end, but what stands there.
_INSTEAD = {"bos_token": "cls_token", "eos_token": "sep_token"}
# Capitals, runs of white space, accents joined and apart, compatibility forms, a character of no vocabulary. No space
# before it: some encoders that put one there do not tell it from the text's own.
_FRAGILE = "A  b\t\n\n    \xc9 e\u0301 \ufb01\u2460 \ue000  "
_SURROGATES = re.compile("[\ud800-\udfff]")
_HIDDEN = "\ufdd0"  # a noncharacter: hides special tokens inside chat messages from the template's own


class Tokenizer:
    """`files` maps names from `FILES` to their contents; use `Tokenizer.load` for a path."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = {name: files[name] for name in FILES if name in files}
        self._settings = json.loads(self.files.get("tokenizer_config.json", b"{}"))
        self._codec = self._choose()
        self._pieces = self._codec.pieces
        self.vocab_size = len(self._pieces)
        self.special_tokens: dict[str, int] = dict(self._codec.special)
        self.special_ids = frozenset(self.special_tokens.values())
        self.bos_id, self.eos_id, self.pad_id = (self.special_tokens.get(self._role(role) or "") for role in _ROLES)
        self.chat_template = self._find_chat_template()

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """`path`: a SentencePiece `.model`, a Hugging Face `tokenizer.json`, or a folder holding either or what
        older ones are made of."""
        path = Path(path)
        if path.is_dir():
            files = {name: (path / name).read_bytes() for name in NAMES if (path / name).is_file()}
        elif path.is_file() and path.suffix == ".json":
            files = {name: (path.parent / name).read_bytes() for name in COMPANIONS if (path.parent / name).is_file()}
            files["tokenizer.json"] = path.read_bytes()
        elif path.is_file():
            files = {"tokenizer.model": path.read_bytes()}
        else:
            raise UserError(f"there is no tokenizer at {path}; give a .model, a tokenizer.json or their folder")
        try:
            return cls(canonical(files))
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def save(self, folder: str | Path) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)

    def save_huggingface(self, folder: str | Path, *, enclosed: bool = False) -> None:
        """Writes `tokenizer.json` and its companions: the same ids, for `transformers` and its kin.

        enclosed: a text that it is given there ends with the end token too, as encoders read it.
        """
        from maxllm.tokenizer_export import huggingface_files

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in huggingface_files(self, enclosed=enclosed).items():
            (folder / name).write_bytes(content)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the file that decides the ids."""
        return hashlib.sha256(self.files[self._main_file]).hexdigest()

    def encode(self, text: str, *, bos: bool = False, eos: bool = False, special: bool = False) -> list[int]:
        """Ids of `text`. A lone surrogate, which no UTF-8 can hold, becomes U+FFFD.

        special: names of special tokens in the text become those tokens.
        """
        text = without_surrogates(text)
        if special and self.special_tokens:
            ids = []
            for part in self._special_pattern.split(text):
                ids += [self.special_tokens[part]] if part in self.special_tokens else self._codec.encode(part)
        else:
            ids = self._codec.encode(text)
        return self._enclose(ids, bos, eos)

    def encode_batch(self, texts: list[str], *, bos: bool = False, eos: bool = False) -> list[list[int]]:
        """`encode` of each text, on all cores."""
        encoded = self._codec.encode_batch([without_surrogates(text) for text in texts])
        return [self._enclose(ids, bos, eos) for ids in encoded]

    def encode_words(self, words: list[str]) -> list[list[int]]:
        """The ids of each word, which together are those of the words joined by single spaces. A word holds no white
        space."""
        if self._codec.adds_space:
            return self.encode_batch(words)
        return self.encode_batch([word if i == 0 else " " + word for i, word in enumerate(words)])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`. Special tokens and ids that are a model's alone give nothing; bytes that are not UTF-8
        give U+FFFD."""
        text = b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")
        return text[1:] if self._codec.adds_space and text.startswith(" ") else text

    def token_bytes(self, token_id: int) -> bytes:
        """What one id adds to the text; b"" for a special token, and for one that only a model's table has
        (sentinels, rows that round it up). Perhaps only a part of a character."""
        return self._pieces[token_id] if token_id < self.vocab_size else b""

    @cached_property
    def lossless(self) -> bool:
        """Whether `decode(encode(text))` is the text, but perhaps for a space that it begins with; found by trying."""
        return self.decode(self.encode(_FRAGILE)) == _FRAGILE

    def byte_stream(self) -> ByteStream:
        return ByteStream(self)

    def apply_chat_template(self, messages: list[dict[str, Any]], *, add_generation_prompt: bool = True) -> str:
        """The conversation as one text. To get ids use `encode_chat`, which keeps messages from forging roles."""
        if self.chat_template is None:
            raise UserError("this tokenizer has no chat template; use plain completions, or give chat_template.jinja")
        import jinja2

        try:
            return self._compiled_template.render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                **{role: self._role(role) or "" for role in _ROLES},
            )
        except (jinja2.TemplateError, TypeError) as error:
            raise UserError(f"the chat template does not accept these messages: {error}") from error

    def encode_chat(self, messages: list[dict[str, Any]], *, add_generation_prompt: bool = True) -> list[int]:
        """Ids of the conversation. A special token's name inside a message is text, as anywhere else."""
        shown = [
            {**message, "content": self._hide_special(message["content"])}
            if isinstance(message.get("content"), str)
            else message
            for message in messages
        ]
        text = without_surrogates(self.apply_chat_template(shown, add_generation_prompt=add_generation_prompt))
        ids = []
        for part in self._special_pattern.split(text):
            if part in self.special_tokens:
                ids.append(self.special_tokens[part])
            else:
                ids += self._codec.encode(
                    self._hidden_pattern.sub(lambda match: match[0].replace(_HIDDEN, "", 1), part)
                )
        return ids

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokenizer, (self.files,)

    def _choose(self) -> Codec:
        """Folders of converted models hold both files. If they agree in size, the SentencePiece one is the original."""
        self._main_file = next((name for name in SENTENCE_PIECE if name in self.files), "tokenizer.json")
        if "tokenizer.json" not in self.files:
            return SentencePieceCodec(self.files[self._main_file], self._settings.get("added_tokens_decoder"))
        huggingface = HuggingFaceCodec(self.files["tokenizer.json"])
        if self._main_file != "tokenizer.json":
            original = SentencePieceCodec(self.files[self._main_file])
            if len(original.pieces) == len(huggingface.pieces):
                return original
        self._main_file = "tokenizer.json"
        return huggingface

    def _role(self, role: str) -> str | None:
        """The name of the token in this role, from tokenizer_config.json or by custom."""
        named = self._settings.get(role) or self._settings.get(_INSTEAD.get(role, role))
        named = named.get("content") if isinstance(named, dict) else named
        return named or next((name for name in _ROLES[role] if name in self.special_tokens), None)

    def _find_chat_template(self) -> str | None:
        if "chat_template.jinja" in self.files:
            return self.files["chat_template.jinja"].decode()
        template = self._settings.get("chat_template")
        if isinstance(template, list):
            template = next((entry["template"] for entry in template if entry["name"] == "default"), None)
        if template is None and {"<|im_start|>", "<|im_end|>"} <= self.special_tokens.keys():
            return CHATML
        return template

    @cached_property
    def _compiled_template(self) -> Any:
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
        environment.globals["raise_exception"] = _raise_template_error
        return environment.from_string(self.chat_template or "")

    @cached_property
    def _special_pattern(self) -> re.Pattern[str]:
        names = sorted(self.special_tokens, key=len, reverse=True)
        return re.compile("(" + ("|".join(map(re.escape, names)) or "(?!)") + ")")

    @cached_property
    def _hidden_pattern(self) -> re.Pattern[str]:
        names = sorted(self.special_tokens, key=len, reverse=True)
        hidden = [re.escape(name[:1]) + _HIDDEN + re.escape(name[1:]) for name in names]
        return re.compile("|".join(hidden) or "(?!)")

    def _hide_special(self, text: str) -> str:
        return self._special_pattern.sub(lambda match: match[0][:1] + _HIDDEN + match[0][1:], text)

    def _enclose(self, ids: list[int], bos: bool, eos: bool) -> list[int]:
        before = [self.bos_id] if bos and self.bos_id is not None else []
        after = [self.eos_id] if eos and self.eos_id is not None else []
        return before + ids + after if before or after else ids


class ByteStream:
    """Turns ids into text as they come, holding back the bytes of an unfinished character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The characters that `token_id` completes, perhaps none."""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        """U+FFFD if the stream ended inside a character, else nothing."""
        return self._decoder.decode(b"", final=True)


def without_surrogates(text: str) -> str:
    """Lone surrogates, which JSON lets in and UTF-8 does not hold, become U+FFFD."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return _SURROGATES.sub("\ufffd", text)


def _raise_template_error(message: str) -> None:
    import jinja2

    raise jinja2.TemplateError(message)
