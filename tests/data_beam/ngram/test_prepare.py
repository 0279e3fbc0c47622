from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_beam.ngram.prepare import Preparation, normalise_ccnet
from maxllm.config.errors import UserError
from maxllm.config.perplexity import PreparationConfig

PLAIN = Preparation(PreparationConfig())
CCNET = Preparation(PreparationConfig(normalisation="ccnet"))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("  In 1984, Zoë bought 3½ “naïve” cafés… ", 'in 0000, zoe bought 0½ "naive" cafes...'),
        ("He said：「今日は、１２時」。", 'he said:"今日は,00時".'),
        ("dash–dash — long ━ ► 〈x〉【y】％", "dash-dash  -  long - - <x>[y]%"),
        ("tab\there\x85 bell\x07", "tabhere bell"),
        ("Ελλάδα", "ελλαδα"),
    ],
)
def test_ccnet_normalisation(line, expected):
    assert normalise_ccnet(line) == expected


def test_a_line_is_a_sentence_and_an_empty_one_none():
    assert list(PLAIN.lines("a  b\n\n \t\nc\r\n")) == [["a", "b"], ["c"]]
    assert list(CCNET.lines("A\n1\n…")) == [["a"], ["0"], ["..."]]


def test_names_of_special_words_and_nul_are_not_words():
    assert list(PLAIN.lines("a <s> b\0c <unk> </s>\n<unk>")) == [["a", "b", "c"]]


@given(st.text())
def test_any_text_gives_words_that_an_arpa_file_can_hold(text):
    for preparation in (PLAIN, CCNET):
        for line in preparation.lines(text):
            assert line
            for word in line:
                assert word and not set(word) & set(" \t\n\r\0") and word not in ("<s>", "</s>", "<unk>")


def test_sentencepiece_gives_pieces_and_other_tokenizers_ids(shared_data, tmp_path):
    path = shared_data / "tokenizers" / "sentencepiece"
    model = next(path.glob("*botchan*"), None) or sorted(path.glob("*.model"))[0]
    lines = list(Preparation(PreparationConfig(tokenizer=str(model))).lines("the red shirt\nBotchan"))
    assert "".join(lines[0]) == "▁the▁red▁shirt" and len(lines) == 2
    (tmp_path / "tokenizer.model").write_bytes(model.read_bytes())
    ids = list(Preparation(PreparationConfig(tokenizer=str(tmp_path))).lines("the red shirt\nBotchan"))
    assert [len(line) for line in ids] == [len(line) for line in lines]
    assert all(word.isdigit() for line in ids for word in line)


def test_a_tokenizer_that_is_none_is_an_error_of_one_sentence(tmp_path):
    with pytest.raises(UserError, match="preparation.tokenizer: cannot read"):
        Preparation(PreparationConfig(tokenizer=str(tmp_path / "none.model")))
    (tmp_path / "bad.model").write_bytes(b"not one")
    with pytest.raises(UserError, match="not a SentencePiece model"):
        Preparation(PreparationConfig(tokenizer=str(tmp_path / "bad.model")))
