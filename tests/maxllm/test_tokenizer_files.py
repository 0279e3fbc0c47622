"""WordPiece, and the files of older folders: the same ids as the libraries that published them."""

from __future__ import annotations

import functools
import io
import json
import random
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import sentencepiece
import tokenizers
from flax import nnx
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from maxllm.cli.import_ import import_folder
from maxllm.config.errors import UserError
from maxllm.convert import hf, weights
from maxllm.data.special_ids import find
from maxllm.eval.held_out import score_dataset
from maxllm.tokenizer import Tokenizer
from maxllm.train.checkpoint import load_any, tokenizer_of
from tests.maxllm.models.encoders import changed, model

CORPUS = [
    "The cat sat on the mat; the dog's bowl wasn't there.",
    "Readable text: words, words, and unreadable WORDS (of 2026).",
    "Naïve café owners re-read what they'd written yesterday.",
] * 20
TEXTS = [
    "",
    "The CAT  sat,\n\ton\u00a0the mat!",
    "Naïve cafe\u0301 ﬁ① 日本語 x\ue000y",
    "[CLS] is text, as is <s> and <mask> [MASK]",
    "unbelievably " + "a" * 120,
]
BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def texts() -> list[str]:
    draw = random.Random(0)
    characters = list("aábcDdeE  \n\t.,'-日é①#") + ["the", " words", "read", "\u0301"]
    return TEXTS + CORPUS[:3] + ["".join(draw.choices(characters, k=draw.randint(1, 40))) for _ in range(300)]


@functools.cache
def bert(lowercase: bool = True) -> tokenizers.Tokenizer:
    """One a run: training WordPiece twice gives two vocabularies."""
    raw = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece(prefix="##")
    raw.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=160, special_tokens=[*BERT], show_progress=False)
    )
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return raw


def byte_level(special: tuple[str, ...], add_prefix_space: bool = False) -> tokenizers.Tokenizer:
    raw = tokenizers.Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=[*special], show_progress=False),
    )
    return raw


def sentence_piece(**settings) -> bytes:
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=written, vocab_size=90, model_type="bpe", minloglevel=2, **settings
    )
    return written.getvalue()


def folder_of(path: Path, **files: bytes | str | dict) -> Path:
    """`files`: name with _ for its dot -> content."""
    path.mkdir(exist_ok=True)
    for name, content in files.items():
        stem, _, ending = name.rpartition("_")
        content = json.dumps(content) if isinstance(content, dict) else content
        (path / f"{stem}.{ending}").write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def vocab_txt(raw: tokenizers.Tokenizer) -> str:
    return "".join(f"{raw.id_to_token(i)}\n" for i in range(raw.get_vocab_size()))


def pairs(raw: tokenizers.Tokenizer) -> dict[str, dict | str]:
    description = json.loads(raw.to_str())["model"]
    merges = "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in description["merges"])
    return {"vocab_json": description["vocab"], "merges_txt": merges}


def assert_same_ids(ours: Tokenizer, raw: tokenizers.Tokenizer) -> None:
    raw.encode_special_tokens = True  # names of special tokens in a text are text
    for text in texts():
        want = raw.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == want, text
        assert ours.encode_batch([text]) == [want], text


@pytest.fixture(params=["tokenizer.json", "of 2020", "vocab.txt"])
def word_piece(request, tmp_path) -> Tokenizer:
    raw = bert()
    if request.param == "vocab.txt":
        return Tokenizer.load(folder_of(tmp_path / "bert", vocab_txt=vocab_txt(raw)))
    description = json.loads(raw.to_str())
    if request.param == "of 2020":
        del description["model"]["type"]
    return Tokenizer.load(folder_of(tmp_path / "bert", tokenizer_json=description))


def test_word_pieces_have_the_librarys_ids(word_piece):
    assert_same_ids(word_piece, bert())
    assert word_piece.special_tokens == {name: i for i, name in enumerate(BERT)}
    assert word_piece.encode("the cat", bos=True, eos=True) == bert().encode("the cat").ids


def test_word_pieces_give_readable_text(word_piece):
    ids = word_piece.encode("The misreader  CAT,\nre-read", bos=True, eos=True)
    assert word_piece.decode(ids) == "the misreader cat , re - read"
    assert any(not word_piece.token_bytes(i).startswith(b" ") for i in ids[1:-1])  # something was in pieces
    assert b"".join(map(word_piece.token_bytes, ids)) == b" the misreader cat , re - read"
    assert not word_piece.lossless


def test_bert_begins_with_cls_and_ends_with_sep(word_piece):
    assert (word_piece.pad_id, word_piece.bos_id, word_piece.eos_id) == (0, 2, 3)
    ids = find(word_piece, 256, "mlm", ("mask",))
    assert (ids.begin, ids.end, ids.mask) == (2, 3, 4)
    assert not ids.vocabulary[:5].any() and ids.vocabulary[5:].all()


def test_the_names_that_a_config_gives_win(tmp_path):
    raw = bert()
    settings = {"cls_token": "the", "sep_token": {"content": "cat"}, "bos_token": None, "do_lower_case": False}
    tokenizer = Tokenizer.load(folder_of(tmp_path / "bert", vocab_txt=vocab_txt(raw), tokenizer_config_json=settings))
    assert (tokenizer.bos_id, tokenizer.eos_id) == (raw.token_to_id("the"), raw.token_to_id("cat"))


@pytest.mark.parametrize("lowercase", [True, False])
def test_vocab_txt_is_the_tokenizer_json_of_the_same(lowercase, tmp_path):
    raw = bert(lowercase)
    settings = {"do_lower_case": lowercase, "tokenizer_class": "ElectraTokenizer"}
    older = folder_of(tmp_path / "older", vocab_txt=vocab_txt(raw), tokenizer_config_json=settings)
    tokenizer = Tokenizer.load(older)
    assert_same_ids(tokenizer, raw)
    made, want = json.loads(tokenizer.files["tokenizer.json"]), json.loads(raw.to_str())
    assert all(made[part] == want[part] for part in made.keys() - {"post_processor"})
    exported = tokenizers.Tokenizer.from_str(tokenizer.files["tokenizer.json"].decode())
    pair = exported.encode("the cat", "on the mat"), raw.encode("the cat", "on the mat")
    assert pair[0].ids == pair[1].ids and pair[0].type_ids == pair[1].type_ids


@pytest.mark.parametrize("special", [("<|endoftext|>",), ROBERTA, BERT], ids=["gpt2", "roberta", "deberta"])
def test_vocab_json_and_merges_are_the_tokenizer_json_of_the_same(special, tmp_path):
    raw = byte_level(special)
    older = Tokenizer.load(folder_of(tmp_path / "older", **pairs(raw)))
    newer = Tokenizer.load(folder_of(tmp_path / "newer", tokenizer_json=raw.to_str()))
    assert_same_ids(older, raw)
    assert older.special_tokens == newer.special_tokens == {name: i for i, name in enumerate(special)}
    assert (older.bos_id, older.eos_id, older.pad_id) == (newer.bos_id, newer.eos_id, newer.pad_id)
    assert older.lossless
    assert all(older.decode(older.encode(text)) == text for text in texts())


def test_roberta_encloses_a_pair_as_transformers_does(tmp_path):
    older = Tokenizer.load(folder_of(tmp_path / "older", **pairs(byte_level(ROBERTA))))
    made = tokenizers.Tokenizer.from_str(older.files["tokenizer.json"].decode())
    one, other = older.encode("a"), older.encode("b")
    assert made.encode("a", "b").ids == [0, *one, 2, 2, *other, 2]


def test_tokens_added_to_a_vocabulary_keep_their_ids(tmp_path):
    raw = byte_level(("<|endoftext|>",))
    size = raw.get_vocab_size()
    added = {"<cat>": size + 1, "<pad>": size}
    named = {"pad_token": "<pad>", "mask_token": {"content": "<hole>", "lstrip": True}}
    folder = folder_of(tmp_path / "older", **pairs(raw), added_tokens_json=added, special_tokens_map_json=named)
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.special_tokens == {"<|endoftext|>": 0, "<pad>": size, "<hole>": size + 2}
    assert tokenizer.encode("a<cat>") == [*tokenizer.encode("a"), size + 1]
    assert tokenizer.decode([size, size + 1]) == "<cat>"
    (folder / "added_tokens.json").write_text(json.dumps({"<pad>": size + 7}))
    with pytest.raises(UserError, match="should have id"):
        Tokenizer.load(folder)


def test_gpt1_marks_the_ends_of_words(tmp_path):
    raw = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False
    )
    raw.train_from_iterator(CORPUS, trainer)
    tokenizer = Tokenizer.load(folder_of(tmp_path / "older", **pairs(raw)))
    assert_same_ids(tokenizer, raw)
    assert tokenizer.decode(tokenizer.encode("The unreadable  cat")) == "the unreadable cat "
    assert not tokenizer.lossless


def test_deberta_v3s_model_has_a_mask_beyond_its_pieces(tmp_path):
    pieces = {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}
    written = sentence_piece(pad_id=0, bos_id=1, eos_id=2, unk_id=3, **pieces)
    settings = {"do_lower_case": False, "vocab_type": "spm"}
    folder = folder_of(tmp_path / "v3", spm_model=written, tokenizer_config_json=settings)
    for tokenizer in (Tokenizer.load(folder), Tokenizer(Tokenizer.load(folder).files)):
        assert tokenizer.special_tokens == {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "[MASK]": 90}
        assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.vocab_size) == (1, 2, 0, 91)
        assert find(tokenizer, 128, "mlm", ("mask",)).mask == 90
        original = sentencepiece.SentencePieceProcessor(model_proto=written)
        assert all(tokenizer.encode(text) == original.encode(text) for text in texts())
        assert tokenizer.decode([1, *tokenizer.encode("the cat"), 90, 2]) == "the cat"
    folder_of(folder, tokenizer_config_json={"do_lower_case": True})
    with pytest.raises(UserError, match="do_lower_case"):
        Tokenizer.load(folder)


def test_t5s_sentinels_lie_beyond_its_pieces_last_first(tmp_path):
    written = sentence_piece(pad_id=0, eos_id=1, unk_id=2, bos_id=-1, pad_piece="<pad>")
    told = folder_of(tmp_path / "told", spiece_model=written, config_json={"model_type": "t5"})
    listed = [f"<extra_id_{i}>" for i in range(100)]
    named = folder_of(
        tmp_path / "named", spiece_model=written, tokenizer_config_json={"additional_special_tokens": listed}
    )
    for tokenizer in (Tokenizer.load(told), Tokenizer.load(named)):
        assert tokenizer.vocab_size == 190
        assert [tokenizer.special_tokens[f"<extra_id_{i}>"] for i in (0, 1, 99)] == [189, 188, 90]
        assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (None, 1, 0)
        assert not tokenizer.lossless
    Tokenizer.load(told).save_huggingface(tmp_path / "out")
    assert (tmp_path / "out" / "spiece.model").read_bytes() == written
    back = Tokenizer.load(tmp_path / "out")
    assert (back.special_tokens, back.fingerprint) == (tokenizer.special_tokens, tokenizer.fingerprint)


def test_words_together_are_the_sentence(word_piece, tmp_path):
    words = ["The", "dog's", "unreadable", "bowl", ",", "(", "WORDS", "2026", "café"]
    with_space = byte_level(ROBERTA, add_prefix_space=True)
    others = [
        folder_of(tmp_path / "gpt2", **pairs(byte_level(("<|endoftext|>",)))),
        folder_of(tmp_path / "bart", **pairs(with_space), tokenizer_config_json={"add_prefix_space": True}),
        folder_of(tmp_path / "spm", tokenizer_model=sentence_piece()),
    ]
    for tokenizer in (word_piece, *map(Tokenizer.load, others)):
        ids = tokenizer.encode_words(words)
        assert len(ids) == len(words) and all(ids)
        assert [i for word in ids for i in word] == tokenizer.encode(" ".join(words))
    assert word_piece.encode_words([]) == []


def test_an_export_is_the_same_tokenizer(word_piece, tmp_path):
    word_piece.save_huggingface(tmp_path / "out")
    back = Tokenizer.load(tmp_path / "out")
    assert back.fingerprint == word_piece.fingerprint
    assert (back.special_tokens, back.bos_id, back.eos_id) == (word_piece.special_tokens, 2, 3)
    assert_same_ids(back, bert())
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    roles = [settings[f"{role}_token"] for role in ("pad", "unk", "cls", "sep", "mask")]
    assert roles == [*BERT] and settings["additional_special_tokens"] == []


def test_a_bert_folder_with_vocab_txt_goes_in_and_out(tmp_path):
    folder = tmp_path / "bert"
    folder.mkdir()
    raw = bert()
    built = model(changed(vocab_size=raw.get_vocab_size()))
    weights.save(built, folder, "float32", 10**9)
    folder_of(
        folder,
        config_json=hf.settings_of(built.config),
        vocab_txt=vocab_txt(raw),
        tokenizer_config_json={"do_lower_case": True},
    )
    import_folder(folder, tmp_path / "run")
    loaded, tokenizer, config = load_any(tmp_path / "run")
    assert config == built.config and tokenizer_of(tmp_path / "run").fingerprint == Tokenizer.load(folder).fingerprint
    hf.save(loaded, tokenizer, tmp_path / "out")
    back, same, _ = hf.load(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, nnx.state(back), nnx.state(built))
    assert same.fingerprint == tokenizer.fingerprint
    assert_same_ids(same, raw)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert [written[f"{role}_token_id"] for role in ("bos", "eos", "pad")] == [2, 3, 0]


def test_electras_discriminator_goes_in_and_out(tmp_path):
    golden = Path(__file__).parent / "families" / "golden" / "electra_discriminator"
    folder = folder_of(Path(shutil.copytree(golden, tmp_path / "electra")), vocab_txt="\n".join([*BERT, "a"]))
    config = import_folder(folder, tmp_path / "run")
    loaded, tokenizer, kept = load_any(tmp_path / "run")
    assert kept == config == hf.load_config(folder)
    hf.save(loaded, tokenizer, tmp_path / "out")
    one, other = hf.load_decoder(tmp_path / "out"), hf.load_decoder(folder)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(one), nnx.state(other))


def test_bits_per_byte_of_a_changed_text_are_refused(word_piece, tmp_path, monkeypatch):
    class Words:
        tokenizer_fingerprint = word_piece.fingerprint

        def __init__(self, path: str) -> None:
            pass

    monkeypatch.setattr("maxllm.eval.held_out.Dataset", Words)
    with pytest.raises(UserError, match="model's tokenizer changes them"):
        score_dataset(None, word_piece, str(tmp_path), max_documents=1, meter=None)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"vocab_txt": "a\nb\n"}, "no \\[UNK\\]"),
        ({"vocab_txt": "[UNK]\n", "config_json": {"model_type": "mpnet"}}, "tokenizer of mpnet"),
        ({"vocab_txt": "[UNK]\n", "tokenizer_config_json": {"tokenizer_class": "BertJapaneseTokenizer"}}, "Japanese"),
        ({"vocab_json": {"a": 0}, "merges_txt": "a b\n"}, "do not make a tokenizer"),
        ({"vocab_json": "[", "merges_txt": ""}, "do not make a tokenizer"),
        ({"vocab_json": {"a": 0}}, "no tokenizer among"),
        ({"spiece_model": b"nonsense"}, "do not make a tokenizer"),
        ({"tokenizer_json": tokenizers.Tokenizer(models.WordLevel({"a": 0}, "a")).to_str()}, "WordLevel"),
    ],
)
def test_what_is_not_read_is_a_sentence_that_says_what_to_give(files, reason, tmp_path):
    with pytest.raises(UserError, match=reason) as caught:
        Tokenizer.load(folder_of(tmp_path / "folder", **files))
    assert "; give " in str(caught.value) and "\n" not in str(caught.value)
