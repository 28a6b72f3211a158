"""Tags on first pieces, worked out by hand and on real text."""

import collections

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="the data sets are tf.data's")
pytest.importorskip("tokenizers", reason="the engine on the host")

from keras_tformer.data import read_conll, tagging_task  # noqa: E402
from keras_tformer.data.tagging import TaggedSentence  # noqa: E402
from keras_tformer.text import SentencePieceTokenizer, WordPieceTokenizer  # noqa: E402

PIECES = "[PAD] [UNK] [CLS] [SEP] [MASK] an ##n ##a ran".split()
SENTENCES = [
    TaggedSentence(["Anna", "ran"], ["B-p", "O"]),
    TaggedSentence(["ran", "ran", "anna", "an"], ["O", "O", "B-p", "I-p"]),
]


def test_by_hand():
    task = tagging_task(SENTENCES, WordPieceTokenizer(PIECES), 7, 2)
    inputs, labels, weights = next(iter(task.dataset))
    assert inputs["token_ids"].numpy().tolist() == [
        [2, 5, 6, 7, 8, 3, 0],
        [2, 8, 8, 5, 6, 7, 3],  # the last word does not fit
    ]
    assert inputs["padding_mask"].numpy().sum(axis=1).tolist() == [6, 7]
    x = -100
    assert labels.numpy().tolist() == [[x, 1, x, x, 0, x, x], [x, 0, 0, 1, x, x, x]]
    assert ((labels.numpy() != x) == weights.numpy()).all()
    assert task.class_names == ["O", "B-p", "I-p"]
    assert task.class_counts == [3, 2, 0]
    assert task.skipped == {"word that did not fit": 1}


def test_given_tag_names():
    names = ["I-p", "B-p", "O", "B-x"]
    task = tagging_task(SENTENCES, WordPieceTokenizer(PIECES), 11, 2, tag_names=names)
    assert task.class_counts == [1, 2, 3, 0]
    with pytest.raises(ValueError, match="B-p are not among the tag names O, I-p"):
        tagging_task(
            SENTENCES, WordPieceTokenizer(PIECES), 11, 2, tag_names=["O", "I-p"]
        )


@pytest.mark.parametrize("kind", ["word_piece", "sentence_piece"])
def test_real_sentences(data_folder, kind):
    sentences = read_conll(data_folder / "wnut17" / "dev.conll.gz")
    assert len(sentences) == 1009
    assert sum(len(sentence.words) for sentence in sentences) == 15733
    if kind == "word_piece":
        file = data_folder / "vocab" / "bert-base-cased-vocab.txt"
        tokenizer = WordPieceTokenizer(file, lowercase=False)
    else:
        pytest.importorskip("sentencepiece", reason="the engine on the host")
        file = data_folder / "vocab" / "albert-30k-clean.model"
        tokenizer = SentencePieceTokenizer(file)
    task = tagging_task(sentences, tokenizer, 211, 1009)
    inputs, labels, _ = next(iter(task.dataset))
    assert task.skipped == {}
    expected = collections.Counter(t for s in sentences for t in s.tags)
    assert dict(zip(task.class_names, task.class_counts, strict=True)) == expected
    for row in range(0, 1009, 53):
        places = np.flatnonzero(labels[row].numpy() >= 0)
        found = [task.class_names[n] for n in labels[row].numpy()[places]]
        assert found == sentences[row].tags
        # From one labelled piece to the next: the pieces of one word.
        length = int(inputs["padding_mask"][row].numpy().sum())
        ids = inputs["token_ids"][row].numpy()
        ends = [*places[1:], length - 1]
        words = zip(places, ends, sentences[row].words, strict=True)
        for start, end, word in words:
            expected_ids = tokenizer.encode([word])[0] or [tokenizer.unknown_id]
            assert ids[start:end].tolist() == expected_ids


def test_layouts(tmp_path):
    file = tmp_path / "a.conll"
    file.write_text("-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\nx NN I-NP O\n\n\n")
    assert read_conll(file) == [TaggedSentence(["EU", "x"], ["B-ORG", "O"])]
    assert read_conll(file, tag_column=1)[0].tags == ["NNP", "NN"]
    file.write_text("1\tNew York\tB\n")
    assert read_conll(file, word_column=1)[0].words == ["New York"]


def test_bad_lines(tmp_path):
    file = tmp_path / "a.conll"
    file.write_bytes(b"a\tO\n\nb\tO\nc\n\nd\tO\n\ne\tO\n\xff\tO\n\nf\tO\n")
    with pytest.raises(ValueError, match="a.conll, line 4: 1 columns"):
        read_conll(file)
    skipped = collections.Counter()
    sentences = read_conll(file, skipped=skipped)
    assert [sentence.words for sentence in sentences] == [["a"], ["d"], ["f"]]
    assert skipped == {"missing word or tag": 1, "not UTF-8": 1}
    file.write_text("\n")
    with pytest.raises(ValueError, match="no readable sentence"):
        read_conll(file)
