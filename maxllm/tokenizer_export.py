"""A SentencePiece tokenizer as Hugging Face files that give the same ids.

The pieces are written with real spaces instead of SentencePiece's U+2581. So the text needs no normaliser, and
a literal U+2581, which no piece holds, falls to bytes on both sides.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import sentencepiece
import tokenizers
from tokenizers import decoders, models, processors

from maxllm.config.errors import UserError
from maxllm.tokenizer_codecs import SPACE

if TYPE_CHECKING:
    from maxllm.tokenizer import Tokenizer

_OTHER_ROLES = {
    "unk_token": ("<unk>", "<|unknown|>", "[UNK]"),
    "cls_token": ("[CLS]",),
    "sep_token": ("[SEP]",),
    "mask_token": ("<mask>", "[MASK]"),
}
# Below any real score (a natural logarithm of a probability): names like <0x0A> in a text must not win over letters.
_NEVER = -1e6


def huggingface_files(tokenizer: Tokenizer, *, enclosed: bool = False) -> dict[str, bytes]:
    """File name -> content. The original `tokenizer.model` stays beside them, for its fingerprint and other readers;
    one by another name is what T5's and DeBERTa's readers look for, and goes out alone.

    enclosed: a text gets the end token too, as encoders read it, and a pair is one text.
    """
    files = dict(tokenizer.files)
    if "tokenizer.model" in files and "tokenizer.json" not in files:
        files["tokenizer.json"] = _from_sentencepiece(tokenizer, enclosed).to_str(pretty=True).encode()
    names = {i: name for name, i in tokenizer.special_tokens.items()}
    roles = {
        role: names[i]
        for role, i in (
            ("bos_token", tokenizer.bos_id),
            ("eos_token", tokenizer.eos_id),
            ("pad_token", tokenizer.pad_id),
        )
        if i is not None
    }
    for role, usual in _OTHER_ROLES.items():
        if name := next((name for name in usual if name in tokenizer.special_tokens), None):
            roles[role] = name
    settings: dict[str, Any] = {
        **({"tokenizer_class": "PreTrainedTokenizerFast"} if "tokenizer.json" in files else {}),
        **roles,
        "additional_special_tokens": [n for n in tokenizer.special_tokens if n not in roles.values()],
        "clean_up_tokenization_spaces": False,
        "model_max_length": 10**30,
    }
    if tokenizer.chat_template is not None:
        settings["chat_template"] = tokenizer.chat_template
    files.setdefault("tokenizer_config.json", _json(settings))
    files.setdefault("special_tokens_map.json", _json(roles))
    return files


def _from_sentencepiece(tokenizer: Tokenizer, enclosed: bool) -> tokenizers.Tokenizer:
    model = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.files["tokenizer.model"])
    if model.encode("a  b ", out_type=str) != model.encode(f"a{SPACE}{SPACE}b{SPACE}", out_type=str) or SPACE in str(
        model.encode("a", out_type=str)
    ):
        raise UserError("this SentencePiece model changes white space, so no tokenizer.json gives the same ids")
    size = model.get_piece_size()
    pieces = [model.id_to_piece(i) for i in range(size)]
    plain = [not (model.is_control(i) or model.is_unknown(i) or model.is_byte(i)) for i in range(size)]
    names = [piece.replace(SPACE, " ") if plain[i] else piece for i, piece in enumerate(pieces)]
    if _is_bpe(model, pieces, plain):
        merges = _merges({name: model.get_score(i) for i, name in enumerate(names) if plain[i]})
        core: models.Model = models.BPE(
            vocab={name: i for i, name in enumerate(names)},
            merges=merges,
            unk_token=pieces[model.unk_id()],
            byte_fallback=True,
        )
    else:
        scores = [model.get_score(i) if plain[i] else _NEVER for i in range(size)]
        core = models.Unigram(list(zip(names, scores, strict=True)), unk_id=model.unk_id(), byte_fallback=True)
    result = tokenizers.Tokenizer(core)
    result.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    special = sorted(tokenizer.special_tokens.items(), key=lambda item: item[1])
    result.add_special_tokens([tokenizers.AddedToken(name, special=True, normalized=False) for name, _ in special])
    if enclosed and tokenizer.bos_id is not None and tokenizer.eos_id is not None:
        bos, eos = pieces[tokenizer.bos_id], pieces[tokenizer.eos_id]
        result.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A {eos}",
            pair=f"{bos} $A {eos} $B:1 {eos}:1",
            special_tokens=[(bos, tokenizer.bos_id), (eos, tokenizer.eos_id)],
        )
    elif tokenizer.bos_id is not None:
        bos = pieces[tokenizer.bos_id]
        result.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, tokenizer.bos_id)]
        )
    return result


def _is_bpe(model: sentencepiece.SentencePieceProcessor, pieces: list[str], plain: list[bool]) -> bool:
    """The trainer scores the merges of BPE 0, -1, -2, ...; a unigram model's scores are log probabilities."""
    scores = [model.get_score(i) for i in range(len(pieces)) if plain[i]]
    return all(score == round(score) for score in scores)


def _merges(scores: dict[str, float]) -> list[tuple[str, str]]:
    """Every way to make a piece of two others, best piece first.

    SentencePiece ranks a merge by the piece it makes, ties by place in the text; a tokenizer.json ranks the pair.
    They can differ only where two ways to make the same piece overlap ("aba" in "ababa"), so the pair that would
    stand on the left goes first.
    """
    merges = []
    for piece in sorted((piece for piece in scores if len(piece) > 1), key=lambda piece: -scores[piece]):
        cuts = [cut for cut in range(1, len(piece)) if piece[:cut] in scores and piece[cut:] in scores]
        cuts.sort(key=lambda cut: (not piece.startswith(piece[cut:]), -cut))
        merges += [(piece[:cut], piece[cut:]) for cut in cuts]
    return merges


def _json(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()
