"""The files in which tokenizers are published, brought to the two kinds that we read: .model and tokenizer.json.

Of older folders the SentencePiece model goes by another name, or the vocabulary lies in plain text, of which a
tokenizer.json is made with the classes of `tokenizers`, as `transformers` makes one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from maxllm.config.errors import UserError

COMPANIONS = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
# The models keep their names: transformers looks for them by these.
SENTENCE_PIECE = ("tokenizer.model", "spiece.model", "spm.model")
FILES = (*SENTENCE_PIECE, "tokenizer.json", *COMPANIONS)
# What a tokenizer can be read from, best first; names joined by a space go together.
READ = ("tokenizer.json", "tokenizer.model", "spiece.model", "spm.model", "vocab.json merges.txt", "vocab.txt")
_LISTED = ", ".join(names.replace(" ", " with ") for names in READ)
NAMES = (
    *dict.fromkeys(name for names in (*FILES, *READ) for name in names.split()),
    "added_tokens.json",
    "config.json",
)

# In the order in which transformers gives ids to those that a vocabulary lacks.
_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# Names that are special in the vocabulary of one family; the first of each is in no other's.
_USUAL = (
    ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"),
    ("<unk>", "<s>", "</s>", "<pad>", "<mask>"),
    ("<|endoftext|>",),
)
# Classes of transformers, by config.json's model_type where tokenizer_config.json names none, and what each reads.
_CLASSES = {
    "bert": "Bert",
    "distilbert": "DistilBert",
    "electra": "Electra",
    "gpt2": "GPT2",
    "roberta": "Roberta",
    "bart": "Bart",
    "deberta": "Deberta",
    "openai-gpt": "OpenAIGPT",
    "t5": "T5",
    "mt5": "MT5",
    "deberta-v2": "DebertaV2",
}
_READERS = {
    "spiece.model": ("T5", "MT5"),
    "spm.model": ("DebertaV2",),
    "vocab.json merges.txt": ("GPT2", "Roberta", "Bart", "Deberta", "OpenAIGPT"),
    "vocab.txt": ("Bert", "DistilBert", "Electra"),
}
_WORD_END = "</w>"  # GPT-1 marks the ends of words, not their beginnings
_SENTINEL = re.compile(r"<extra_id_(\d+)>")


def canonical(found: Mapping[str, bytes]) -> dict[str, bytes]:
    """Of a folder's files, name -> content, those that `Tokenizer` keeps.

    Raises UserError where none of them, or none that we read, holds a tokenizer.
    """
    files = {name: found[name] for name in ("tokenizer.model", "tokenizer.json", *COMPANIONS) if name in found}
    source = next((names for names in READ if set(names.split()) <= found.keys()), None)
    if source is None:
        raise UserError(f"there is no tokenizer among its files; give a folder with one of {_LISTED}")
    if source in files:
        return files
    try:
        settings = _settings(found)
        _check(source, settings)
        if source.endswith(".model"):
            return files | _sentence_piece(source, found, settings)
        made = _word_piece(found, settings) if source == "vocab.txt" else _byte_pairs(found, settings)
    except UserError:
        raise
    except Exception as error:  # tokenizers raises bare Exceptions
        raise UserError(
            f"{source} and its companions do not make a tokenizer ({error}); give tokenizer.json"
        ) from error
    return files | {"tokenizer.json": made.to_str().encode()}


def _settings(found: Mapping[str, bytes]) -> dict[str, Any]:
    """tokenizer_config.json, and what only other files say; `class` is transformers' class, "" where none is named."""
    told, older, added, model = (
        json.loads(found.get(name, b"{}"))
        for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json")
    )
    settings = older | {name: value for name, value in told.items() if value is not None}
    kind = (settings.get("tokenizer_class") or "").removesuffix("Fast").removesuffix("Tokenizer")
    model_type = model.get("model_type") or ""
    return settings | {"added_tokens": added, "class": kind or _CLASSES.get(model_type, model_type)}


def _check(source: str, settings: dict[str, Any]) -> None:
    """Raises UserError where transformers does more with these files than we do."""
    if settings["class"] and settings["class"] not in _READERS[source]:
        more = f"the tokenizer of {settings['class']}"
    else:
        asked = ("do_lower_case", "split_by_punct") if source.endswith(".model") else ()
        more = next((name for name in asked if settings.get(name)), None)
    if more:
        raise UserError(
            f"{more} makes more of {source} than we do; give its tokenizer.json, which transformers writes: "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )


def _sentence_piece(source: str, found: Mapping[str, bytes], settings: dict[str, Any]) -> dict[str, bytes]:
    """The model, and the tokens beyond its pieces as today's tokenizer_config.json names them."""
    files = {source: found[source]}
    model = sentencepiece.SentencePieceProcessor(model_proto=found[source])
    pieces = {model.id_to_piece(i): i for i in range(model.get_piece_size())}
    others = settings.get("additional_special_tokens") or []
    if settings["class"] == "T5" and not others and not any("<extra_id_" in piece for piece in pieces):
        settings["additional_special_tokens"] = [f"<extra_id_{i}>" for i in range(settings.get("extra_ids", 100))]
    if source == "spm.model" and not settings.get("mask_token"):  # DeBERTa v3's class knows its mask
        settings["mask_token"] = "[MASK]"
    beyond = {str(i): token for i, token in sorted(_special(settings, pieces).items()) if i >= len(pieces)}
    if beyond:
        told = json.loads(found.get("tokenizer_config.json", b"{}"))
        told["added_tokens_decoder"] = (told.get("added_tokens_decoder") or {}) | beyond
        files["tokenizer_config.json"] = json.dumps(told, ensure_ascii=False, indent=2).encode()
    return files


def _word_piece(found: Mapping[str, bytes], settings: dict[str, Any]) -> tokenizers.Tokenizer:
    lines = found["vocab.txt"].decode().replace("\r\n", "\n").removesuffix("\n").split("\n")
    vocabulary = {token: i for i, token in enumerate(lines)}
    unknown = _token(settings.get("unk_token") or "[UNK]")["content"]
    if unknown not in vocabulary:
        raise UserError(f"vocab.txt has no {unknown}, so it is not WordPiece's; give tokenizer.json")
    result = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=unknown, max_input_chars_per_word=100))
    result.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    result.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    result.decoder = decoders.WordPiece(prefix="##")
    return _completed(result, settings, vocabulary)


def _byte_pairs(found: Mapping[str, bytes], settings: dict[str, Any]) -> tokenizers.Tokenizer:
    vocabulary = json.loads(found["vocab.json"])
    lines = found["merges.txt"].decode().replace("\r\n", "\n").split("\n")
    merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    if any(token.endswith(_WORD_END) for token in vocabulary):
        result = tokenizers.Tokenizer(
            models.BPE(vocabulary, merges, unk_token="<unk>", end_of_word_suffix=_WORD_END, fuse_unk=False)
        )
        result.normalizer = normalizers.BertNormalizer(lowercase=True)
        result.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        result.decoder = decoders.BPEDecoder(suffix=_WORD_END)
        return _completed(result, settings, vocabulary)
    result = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    result.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=settings.get("add_prefix_space", False))
    result.decoder = decoders.ByteLevel()
    return _completed(result, settings, vocabulary)


def _completed(
    result: tokenizers.Tokenizer, settings: dict[str, Any], vocabulary: Mapping[str, int]
) -> tokenizers.Tokenizer:
    """With its special tokens, and what transformers puts around a text and around two."""
    for i, token in sorted(_special(settings, vocabulary).items()):
        content, special = token["content"], token["special"]
        sides = {side: bool(token.get(side)) for side in ("lstrip", "rstrip", "single_word")}
        result.add_tokens([tokenizers.AddedToken(content, special=special, normalized=not special, **sides)])
        if result.token_to_id(content) != i:
            raise UserError(
                f"{content} should have id {i}, and the ids before it are not all taken; give tokenizer.json"
            )
    if {"[CLS]", "[SEP]"} <= vocabulary.keys():
        begin, end, second = "[CLS]", "[SEP]", "$B:1 [SEP]:1"
    elif {"<s>", "</s>", "<mask>"} <= vocabulary.keys():  # RoBERTa, BART
        begin, end, second = "<s>", "</s>", "</s> $B </s>"
    else:
        return result
    result.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        pair=f"{begin} $A {end} {second}",
        special_tokens=[(name, vocabulary[name]) for name in (begin, end)],
    )
    return result


def _special(settings: dict[str, Any], vocabulary: Mapping[str, int]) -> dict[int, dict[str, Any]]:
    """Id -> token, of those that the settings name, those of usual names, and those added to the vocabulary."""
    named = {token["content"]: token for token in map(_token, _named(settings))}
    family = next((names for names in _USUAL if names[0] in vocabulary), ())
    usual = {name: _token(name) for name in family if name in vocabulary}
    known = usual | named
    found = {vocabulary[name]: token for name, token in known.items() if name in vocabulary}
    for name, i in settings["added_tokens"].items():
        found[i] = known.get(name) or _token(name) | {"special": False}
    for i, token in (settings.get("added_tokens_decoder") or {}).items():
        found[int(i)] = _token(token)
    given = {token["content"] for token in found.values()}
    for name in (name for name in named if name not in given):
        found[max([len(vocabulary) - 1, *vocabulary.values(), *found]) + 1] = named[name]
    return found


def _named(settings: dict[str, Any]) -> list[Any]:
    """By role, then the others; T5's sentinels last first, as its ids are."""
    others = settings.get("additional_special_tokens") or []
    sentinels = {int(match[1]): name for name in others if (match := _SENTINEL.fullmatch(_token(name)["content"]))}
    others = [name for name in others if name not in sentinels.values()]
    last_first = [sentinels[i] for i in sorted(sentinels, reverse=True)]
    return [settings[role] for role in _ROLES if settings.get(role)] + others + last_first


def _token(value: str | dict[str, Any]) -> dict[str, Any]:
    """As tokenizer_config.json spells it. A mask takes the space before it, in RoBERTa and BART."""
    token = {"content": value, "lstrip": value == "<mask>"} if isinstance(value, str) else dict(value)
    token.pop("__type", None)
    return {"special": True} | token
