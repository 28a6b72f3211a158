"""Labelled texts from every layout of table, and from broken ones."""

import json
import lzma

import pytest

tf = pytest.importorskip("tensorflow", reason="the data sets are tf.data's")
pytest.importorskip("tokenizers", reason="the engine on the host")

from keras_tformer.data import read_examples, table_task  # noqa: E402
from keras_tformer.text import WordPieceTokenizer  # noqa: E402

TOKENIZER = WordPieceTokenizer("[PAD] [UNK] [CLS] [SEP] [MASK] a b c d e".split())


def written(folder, text, name):
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'text,label\n"One, ""two""\nlines",x\nThree,y\n'),
        ("a.csv", '\ufefflabel,i,text\r\nx,1,"One, ""two""\r\nlines"\r\n\r\ny,2,Three'),
        ("a.jsonl", '{"text": "One, \\"two\\"\\nlines", "label": "x"}\n\n'
         '{"label": "y", "text": "Three"}'),
    ],
)  # fmt: skip
def test_layouts(tmp_path, name, text):
    examples = read_examples(written(tmp_path, text, name))
    assert examples.texts == ['One, "two"\nlines', "Three"]
    assert examples.labels == ["x", "y"]
    assert (examples.class_names, examples.class_counts) == (["x", "y"], [1, 1])
    assert examples.second_texts is None
    assert examples.skipped == {}


def test_tabs_and_pairs(tmp_path):
    file = written(tmp_path, 'q\tr\tlabel\n"so\tit\t1\nno\tyes\t0\n', "a.tsv")
    examples = read_examples(file, "q", "r")
    assert examples.texts == ['"so', "no"]
    assert examples.second_texts == ["it", "yes"]


def test_glue_as_it_came(tmp_path):
    cola = written(tmp_path, "gj04\t1\t\tIt is.\nks08\t0\t*\tIs it it.\n", "cola.tsv")
    assert read_examples(cola, glue_task="cola").texts == ["It is.", "Is it it."]
    header = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    mrpc = written(tmp_path, header + "1\t5\t7\tOne.\tTwo.\n", "mrpc.tsv")
    examples = read_examples(mrpc, glue_task="mrpc")
    assert (examples.texts, examples.second_texts) == (["One."], ["Two."])


GLUE_OWN = {  # headers of GLUE's archive, a row of each and its label
    "qqp": ("id qid1 qid2 question1 question2 is_duplicate", "7 1 2 One? Two? 1", "1"),
    "mnli": (
        "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse "
        "sentence1_parse sentence2_parse sentence1 sentence2 label1 gold_label",
        "0 31 31n news (One.) (Two.) (R) (R) One. Two. neutral entailment",
        "entailment",
    ),
    "qnli": (
        "index question sentence label",
        "0 One? Two. not_entailment",
        "not_entailment",
    ),
    "wnli": ("index sentence1 sentence2 label", "0 One. Two. 1", "1"),
    "stsb": (
        "index genre filename year old_index source1 source2 sentence1 sentence2 score",
        "0 news MSR 2012 1 none none One. Two. 2.5",
        2.5,
    ),
}
GLUE_HUB = {  # columns on the Hugging Face hub
    "qqp": ("question1 question2 label idx", "One? Two? 1 7", "1"),
    "mnli": ("premise hypothesis label idx", "One. Two. 0 7", "0"),
    "qnli": ("question sentence label idx", "One? Two. 1 7", "1"),
    "wnli": ("sentence1 sentence2 label idx", "One. Two. 1 7", "1"),
    "stsb": ("sentence1 sentence2 label idx", "One. Two. 2.5 7", 2.5),
}


@pytest.mark.parametrize("kind", ["tabs.tsv", "tabs.csv", "commas.csv", "rows.jsonl"])
@pytest.mark.parametrize("task", GLUE_OWN)
def test_pairs_of_glue_in_every_layout(tmp_path, task, kind):
    for columns in (GLUE_OWN, GLUE_HUB):
        *lines, label = columns[task]
        header, row = (line.split() for line in lines)
        separator = "\t" if kind.startswith("tabs") else ","
        text = f"{separator.join(header)}\n{separator.join(row)}\n"
        if kind.endswith("jsonl"):
            text = json.dumps(dict(zip(header, row, strict=True)))
        examples = read_examples(written(tmp_path, text, kind), glue_task=task)
        assert [text[:3] for text in examples.texts] == ["One"]
        assert [text[:3] for text in examples.second_texts] == ["Two"]
        assert examples.labels == [label]


def test_names_of_glue_are_no_other_tables(tmp_path):
    file = written(tmp_path, "text\tQuality\na\tgood\n", "a.tsv")
    assert read_examples(file, label_column="Quality").labels == ["good"]
    with pytest.raises(ValueError, match="no column 'label', found 'text', 'Quality'"):
        read_examples(file)


@pytest.mark.parametrize(
    ("name", "task", "counts"),
    [
        ("sst2/dev_a.tsv", "sst2", [212, 224]),
        ("glue_small/cola_train.tsv.gz", "cola", [2528, 6023]),
        ("glue_small/mrpc_train.tsv.gz", "mrpc", [1323, 2753]),
        ("glue_small/rte_train.tsv.gz", "rte", [1249, 1241]),
        ("glue_small/stsb_dev_a.tsv", "stsb", []),
    ],
)
def test_real_glue(data_folder, name, task, counts):
    examples = read_examples(data_folder / name, glue_task=task)
    assert examples.class_counts == counts
    if task == "stsb":
        assert len(examples.labels) == 750
        assert 0 <= min(examples.labels) < max(examples.labels) <= 5
    assert (examples.second_texts is None) == (task in ("sst2", "cola"))


def test_real_csv(data_folder, tmp_path):
    text = lzma.decompress((data_folder / "ag_news/train_part.csv.xz").read_bytes())
    file = written(tmp_path, b"class,title,text\n" + text, "ag.csv")
    examples = read_examples(file, "title", "text", "class")
    assert examples.class_counts == [2630, 2452, 2594, 2753]


WRONG = {
    "fields": ("a.csv", "text,label\na,1\nb,c,0\n", "line 3: 3 fields where the"),
    "quote": ("a.csv", 'text,label\na,1\n"b,0\nc,1\n', "line 3: not a readable row"),
    "empty": ("a.csv", "text,label\na,1\n  ,0\n", "line 3: the text is empty"),
    "label": ("a.tsv", "text\tlabel\na\t1\nb\t\n", "line 3: the label is empty"),
    "utf-8": ("a.tsv", b"text\tlabel\na\t1\n\xff\t0\n", "line 3: not UTF-8"),
    "json": ("a.jsonl", '{"text": "a", "label": 1}\n{', "line 2: not JSON"),
    "null": (
        "a.jsonl",
        '{"text": "a", "label": 1}\n{"text": "b", "label": null}',
        "line 2: no field 'label'",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_rows_end_the_run_or_are_counted(tmp_path, case):
    name, text, message = WRONG[case]
    file = written(tmp_path, text, name)
    with pytest.raises(ValueError) as error:
        read_examples(file)
    assert message in str(error.value)
    assert str(file) in str(error.value)
    examples = read_examples(file, skip_bad_rows=True)
    assert examples.texts == ["a"]
    assert sum(examples.skipped.values()) == 1


def test_bad_files(tmp_path):
    for text in ("", "text,label\n", "\n\n"):
        with pytest.raises(ValueError, match="no readable row"):
            read_examples(written(tmp_path, text, "a.csv"))
    with pytest.raises(
        ValueError, match="line 1: no column 'label', found 'text', 'c'"
    ):
        read_examples(written(tmp_path, "text,c\na,1\n", "a.csv"), skip_bad_rows=True)
    file = written(tmp_path, "text,label\na,1.5\nb,nan\n", "a.csv")
    with pytest.raises(ValueError, match="line 3: the label 'nan' is no finite number"):
        read_examples(file, regression=True)
    with pytest.raises(ValueError, match="glue_task is 'squad'"):
        read_examples(file, glue_task="squad")


def test_task(tmp_path):
    text = "text,second,label\na b,e,y\nc,a b c d e,x\nd,d,y\n"
    examples = read_examples(written(tmp_path, text, "a.csv"), "text", "second")
    task = table_task(examples, TOKENIZER, 7, 2)
    assert (task.class_names, task.class_counts) == (["x", "y"], [1, 2])
    assert task.num_examples == 3
    (inputs, labels), _ = task.dataset
    assert inputs["token_ids"].numpy().tolist() == [
        [2, 5, 6, 3, 9, 3, 0],
        [2, 7, 3, 5, 6, 7, 3],
    ]
    assert labels.numpy().tolist() == [1, 0]
    swapped = table_task(examples, TOKENIZER, 7, 2, class_names=["y", "x", "z"])
    assert swapped.class_counts == [2, 1, 0]
    assert next(iter(swapped.dataset))[1].numpy().tolist() == [0, 1]


def test_regression(tmp_path):
    file = written(tmp_path, "text,label\na,1.5\nb,-2\n", "a.csv")
    task = table_task(read_examples(file, regression=True), TOKENIZER, 5, 2)
    _, labels = next(iter(task.dataset))
    assert labels.dtype == tf.float32
    assert labels.numpy().tolist() == [1.5, -2.0]
    assert (task.class_names, task.class_counts) == ([], [])
