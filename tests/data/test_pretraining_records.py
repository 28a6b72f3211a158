"""Records on disk: the same bytes however they are written, and what breaks them."""

import collections
import gc
import json
import tracemalloc

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="the data sets are tf.data's")
pytest.importorskip("tokenizers", reason="the engine on the host")

from keras_tformer.data import (  # noqa: E402
    padding_share,
    pretraining_records_dataset,
    read_documents,
    read_manifest,
    segment_pairs,
    write_pretraining_records,
)
from keras_tformer.text import WordPieceTokenizer  # noqa: E402

T, B, P = 61, 23, 11


@pytest.fixture(scope="module")
def documents(data_folder):
    stream = read_documents(data_folder / "wiki" / "enwiki_sample.txt.xz")
    short = (d for d in stream if len(d.paragraphs) < 19)
    return [document for document, _ in zip(short, range(37), strict=False)]


@pytest.fixture(scope="module")
def tokenizer(data_folder):
    return WordPieceTokenizer(data_folder / "vocab" / "bert-base-uncased-vocab.txt")


@pytest.fixture(scope="module")
def write(documents, tokenizer):
    def write(folder, given=documents, **options):
        options = {"seed": 3, "documents_per_shard": 7, **options}
        totals = write_pretraining_records(given, folder, tokenizer, T, **options)
        manifest = read_manifest(folder)
        assert totals.pop("num_shards") == manifest["num_shards"]
        for name, total in totals.items():
            assert total == sum(shard[name] for shard in manifest["shards"])
        return manifest

    return write


@pytest.fixture(scope="module")
def folder(write, tmp_path_factory):
    """Records without masks, for the tests that only read them."""
    folder = tmp_path_factory.mktemp("records")
    write(folder)
    return folder


def content(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def batches(folder, tokenizer, count, **options):
    options = {"max_predictions": P, **options}
    dataset = pretraining_records_dataset(folder, tokenizer, B, **options)
    return list(dataset.take(count).as_numpy_iterator())


def rows(batches, task="next_sentence"):
    """Rows before masking, with their labels."""
    found = []
    for inputs, targets, weights in batches:
        ids = inputs["token_ids"].copy()
        row, place = np.nonzero(weights["masked_lm"])
        positions = inputs["mask_positions"][row, place]
        ids[row, positions] = targets["masked_lm"][row, place]
        found += [
            (*ids[i][: inputs["padding_mask"][i].sum()].tolist(), int(label))
            for i, label in enumerate(targets[task])
        ]
    return found


def assert_equal(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, one, other)


def test_manifest(folder, documents):
    manifest = read_manifest(folder)
    assert manifest["complete"]
    # 37 = 5 x 7 + 2
    counts = [shard["documents"] for shard in manifest["shards"]]
    assert counts == [7, 7, 7, 7, 7, 2]
    files = [shard["file"] for shard in manifest["shards"]]
    assert set(content(folder)) == {"manifest.jsonl", *files}
    for shard in manifest["shards"]:
        count = sum(1 for _ in tf.data.TFRecordDataset(str(folder / shard["file"])))
        assert count == shard["rows"]
        assert (folder / shard["file"]).stat().st_size == shard["bytes"]


def test_a_last_document_is_not_left_alone(write, documents, tmp_path):
    manifest = write(tmp_path, documents[:15])
    assert [shard["documents"] for shard in manifest["shards"]] == [7, 8]


def test_a_shard_ends_with_its_characters(write, tmp_path):
    """By hand: 5, 5 | 9, 3 | 1, 1, 1, 5 | 2, and the 4 that would be left alone."""
    texts = [["a" * n] for n in (5, 5, 9, 3, 1, 1, 1, 5, 2, 4)]
    manifest = write(
        tmp_path, texts, documents_per_shard=5, characters_per_shard=8
    )  # fmt: skip
    assert [shard["documents"] for shard in manifest["shards"]] == [2, 2, 4, 2]
    manifest = write(tmp_path / "b", texts[:9], characters_per_shard=8)
    assert [shard["documents"] for shard in manifest["shards"]] == [2, 2, 5]


def test_rows_are_the_pairs(folder, documents, tokenizer):
    """Nothing is lost or doubled between the pairs and the batches."""
    expected = collections.Counter()
    for number in range(6):
        for pair in segment_pairs(
            documents[7 * number : 7 * number + 7],
            tokenizer,
            T,
            seed=3 + (number << 32),
        ):
            ids = [101, *pair.first, 102, *pair.second, 102, pair.label]
            expected[tuple(ids)] += 1
    found = collections.Counter(rows(batches(folder, tokenizer, -1, num_epochs=1)))
    assert not found - expected
    assert 0 <= expected.total() - found.total() < B  # the rest of a batch
    twice = collections.Counter(rows(batches(folder, tokenizer, -1, num_epochs=2)))
    assert not twice - (expected + expected)
    assert twice.total() > 2 * found.total() - B


def test_same_bytes_after_a_restart(write, folder, documents, tmp_path):
    def breaks_off():
        yield from documents[:23]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, breaks_off())
    assert not read_manifest(tmp_path)["complete"]
    done = {f.name: f.stat().st_mtime_ns for f in tmp_path.glob("*.tfrecord")}
    assert len(done) == 3
    (tmp_path / ".shard-000003.tfrecord.5").write_bytes(b"half of a shard")
    write(tmp_path)
    assert content(tmp_path) == content(folder)
    for name, time in done.items():
        assert (tmp_path / name).stat().st_mtime_ns == time


def test_a_lost_shard_is_written_again(write, folder, tmp_path):
    for name, data in content(folder).items():
        (tmp_path / name).write_bytes(data)
    lost = tmp_path / "shard-000002.tfrecord"
    lost.unlink()
    damaged = tmp_path / "shard-000004.tfrecord"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    write(tmp_path)
    assert content(tmp_path) == content(folder)


@pytest.mark.slow
def test_same_bytes_from_two_processes(write, folder, tmp_path):
    write(tmp_path, num_processes=2)
    assert content(tmp_path) == content(folder)


def test_another_seed_and_corpus(write, folder, documents, tmp_path):
    manifest = write(tmp_path / "a", documents[:14], seed=4)
    assert content(tmp_path / "a") != content(folder)
    with pytest.raises(ValueError, match="seed=4, not 3"):
        write(tmp_path / "a", documents[:14])
    with pytest.raises(
        ValueError, match="shard-000001.tfrecord was made of other docu"
    ):
        write(tmp_path / "a", documents[:11], seed=4)
    assert len(manifest["shards"]) == 2


def test_masks_are_new_in_every_epoch(folder, tokenizer):
    num_rows = sum(shard["rows"] for shard in read_manifest(folder)["shards"])
    count = 2 * num_rows // B
    seen = collections.defaultdict(set)
    for batch in batches(folder, tokenizer, count, num_epochs=2):
        for i, row in enumerate(rows([batch])):
            weights = batch[2]["masked_lm"][i] > 0
            seen[row].add(tuple(batch[0]["mask_positions"][i][weights]))
    pairs = [masks for row, masks in seen.items() if len(row) > 29]
    assert np.mean([len(masks) == 2 for masks in pairs]) > 0.9


@pytest.mark.slow
def test_same_batches_on_any_number_of_threads(folder, tokenizer):
    def on(num_threads):
        options = tf.data.Options()
        options.threading.private_threadpool_size = num_threads
        dataset = pretraining_records_dataset(
            folder, tokenizer, B, P, shuffle_buffer=53
        )
        return list(dataset.with_options(options).take(13).as_numpy_iterator())

    one = on(1)
    assert_equal(one, on(7))
    assert_equal(
        one[5:9], batches(folder, tokenizer, 4, shuffle_buffer=53, first_step=5)
    )
    other = batches(folder, tokenizer, 13, shuffle_buffer=53, seed=1)
    assert rows(one) != rows(other)


@pytest.mark.slow
def test_workers_share_the_rows(folder, tokenizer):
    """Each row on one worker, and with the masks that it would have on any other."""

    def with_masks(**options):
        found = {}
        for inputs, targets, weights in batches(
            folder, tokenizer, -1, num_epochs=1, **options
        ):
            (row,) = (rows([(inputs, targets, weights)]),)
            found.update(zip(row, inputs["token_ids"].tolist(), strict=True))
        return found

    alone = with_masks()
    parts = [with_masks(worker_index=w, num_workers=3) for w in range(3)]
    assert not set(parts[0]) & set(parts[1])
    for part in parts:
        for row, ids in part.items():
            assert alone.get(row, ids) == ids
    assert len(alone) - 3 * B < sum(map(len, parts)) <= len(alone) + 3 * B


@pytest.mark.parametrize("masking", ["whole_word", "ngram"])
def test_fixed_masks(write, documents, tokenizer, tmp_path, masking):
    manifest = write(
        tmp_path, documents[:14], masking=masking, max_predictions=P,
        num_duplicates=2, pair_task="sentence_order",
    )  # fmt: skip
    single = write(tmp_path / "b", documents[:14], pair_task="sentence_order")
    count, once = (sum(s["tokens"] for s in m["shards"]) for m in (manifest, single))
    assert count == pytest.approx(2 * once, rel=0.001)
    first = batches(tmp_path, tokenizer, 5, shuffle_buffer=1)
    chosen = sum(weights["masked_lm"].sum() for _, _, weights in first)
    total = sum(inputs["padding_mask"].sum() - 3 * B for inputs, _, _ in first)
    assert 0.13 < chosen / total < 0.17
    for inputs, targets, weights in first:
        kept = weights["masked_lm"] > 0
        row, place = np.nonzero(kept)
        now = inputs["token_ids"][row, inputs["mask_positions"][row, place]]
        assert 0.7 < (now == tokenizer.mask_id).mean() < 0.9
        assert not targets["masked_lm"][~kept].any()
    # Fixed: both epochs show the same rows with the same masks.
    epochs = batches(tmp_path, tokenizer, -1, num_epochs=2, shuffle_buffer=1)
    found = collections.Counter(
        tuple(ids) for inputs, _, _ in epochs for ids in inputs["token_ids"].tolist()
    )
    assert np.mean([count == 2 for count in found.values()]) > 0.9


def test_shapes_are_static(folder, tokenizer):
    dataset = pretraining_records_dataset(folder, tokenizer, B, P, num_epochs=3)
    for spec in tf.nest.flatten(dataset.element_spec):
        assert spec.shape.is_fully_defined()
    assert int(dataset.cardinality()) == len(list(dataset))


@pytest.mark.parametrize("kind", ["truncated", "flipped", "missing"])
def test_damaged_shards(folder, tokenizer, tmp_path, kind):
    for name, data in content(folder).items():
        (tmp_path / name).write_bytes(data)
    file = tmp_path / "shard-000001.tfrecord"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    options = {"num_epochs": 1}
    if kind == "missing":
        file.unlink()
    else:
        file.write_bytes(data[:-5] if kind == "truncated" else data)
    message = {"flipped": "another checksum"}.get(kind, kind)
    with pytest.raises(ValueError, match=f"shard-000001.tfrecord (is|has) {message}"):
        batches(tmp_path, tokenizer, 1, **options)
    skipped = collections.Counter()
    found = rows(batches(tmp_path, tokenizer, -1, skipped=skipped, **options))
    assert skipped == {"damaged shard": 1}
    whole = rows(batches(folder, tokenizer, -1, num_epochs=1))
    assert 0 < len(found) < len(whole)


def test_wrong_folders(folder, write, tokenizer, tmp_path, documents):
    with pytest.raises(ValueError, match="holds no manifest.jsonl"):
        batches(tmp_path, tokenizer, 1)
    lines = (folder / "manifest.jsonl").read_text().splitlines(keepends=True)
    header = json.loads(lines[0])
    for text, message in (
        ("{", "manifest.jsonl cannot be read"),
        (json.dumps({**header, "format": 1}), "another format than this version"),
        (json.dumps({**header, "complete": False}), "is not complete"),
    ):
        (tmp_path / "manifest.jsonl").write_text(text)
        with pytest.raises(ValueError, match=message):
            batches(tmp_path, tokenizer, 1)
    for text, message in (
        ("".join(lines)[:-9], "manifest.jsonl cannot be read"),
        ("".join(lines[:-1]), "manifest.jsonl names 5 shards where it says 6"),
    ):
        (tmp_path / "manifest.jsonl").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_manifest(tmp_path)
    other = WordPieceTokenizer(tokenizer.vocabulary[:-1])
    with pytest.raises(ValueError, match="another vocabulary"):
        batches(folder, other, 1)
    with pytest.raises(ValueError, match="at least one shard for each"):
        batches(folder, tokenizer, 1, num_workers=7)
    with pytest.raises(ValueError, match="no documents"):
        write(tmp_path / "b", [])
    with pytest.raises(ValueError, match="documents_per_shard is 1"):
        write(tmp_path / "c", documents_per_shard=1)
    with pytest.raises(ValueError, match="characters_per_shard 0"):
        write(tmp_path / "c", characters_per_shard=0)
    with pytest.raises(ValueError, match="num_duplicates is 0"):
        write(tmp_path / "c", num_duplicates=0)


def test_packed_documents(write, documents, tokenizer, tmp_path):
    """Without pairs: whole documents side by side, each token once, little padding."""
    short = [[p] for document in documents for p in document.paragraphs]
    manifest = write(tmp_path, short, pair_task=None, documents_per_shard=53)
    num_rows = sum(shard["rows"] for shard in manifest["shards"])
    dataset = pretraining_records_dataset(tmp_path, tokenizer, 1, P, num_epochs=1)
    for spec in tf.nest.flatten(dataset.element_spec):
        assert spec.shape.is_fully_defined()
    found = collections.Counter()
    for inputs, targets, weights in dataset.as_numpy_iterator():
        ids, document_ids = inputs["token_ids"][0].copy(), inputs["document_ids"][0]
        place = np.flatnonzero(weights["masked_lm"][0])
        ids[inputs["mask_positions"][0, place]] = targets["masked_lm"][0, place]
        assert ((document_ids > 0) == inputs["padding_mask"][0]).all()
        for number in range(1, document_ids.max() + 1):
            text = ids[document_ids == number]
            assert text[0] == 101 and text[-1] == 102
            found[tuple(text[1:-1].tolist())] += 1
        num_rows -= 1
    assert num_rows == 0
    expected = tokenizer.encode([p for (p,) in short])
    assert sum(map(len, found.elements())) == sum(map(len, expected))
    whole = collections.Counter(tuple(i) for i in expected if 0 < len(i) <= T - 2)
    assert whole and not whole - found
    num_tokens = sum(len(text) + 2 for text in found.elements())
    alone = 1 - num_tokens / (T * found.total())
    assert padding_share(dataset) < alone / 4


def test_packed_documents_with_fixed_masks(write, documents, tokenizer, tmp_path):
    write(tmp_path, documents[:5], pair_task=None, masking="ngram", max_predictions=P)
    dataset = pretraining_records_dataset(tmp_path, tokenizer, B)
    for spec in tf.nest.flatten(dataset.element_spec):
        assert spec.shape.is_fully_defined()
    first = batches(tmp_path, tokenizer, 2, shuffle_buffer=1)
    assert_equal(first, batches(tmp_path, tokenizer, 2, shuffle_buffer=1))
    for inputs, targets, weights in first:
        assert set(targets) == set(weights) == {"masked_lm"}
        row, place = np.nonzero(weights["masked_lm"])
        hidden = targets["masked_lm"][row, place]
        now = inputs["token_ids"][row, inputs["mask_positions"][row, place]]
        assert not np.isin(hidden, [0, 101, 102]).any()
        assert 0.7 < (now == tokenizer.mask_id).mean() < 0.9
        assert 0.13 < len(hidden) / inputs["padding_mask"].sum() < 0.17


def python_peak(function):
    """Most bytes that Python holds at once beyond what it had."""
    tracemalloc.start()
    function()
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(write, documents, tmp_path):
    """Python allocates as much at most for 24 shards as for 6."""
    file = tmp_path / "corpus.txt"
    texts = ["\n".join(document.paragraphs) for document in documents[:21]]
    file.write_text("\n\n".join(texts), "utf-8")

    def peak(copies):
        # Read again and again, so that no two documents are one object.
        stream = (d for _ in range(copies) for d in read_documents(file))
        return python_peak(lambda: write(tmp_path / str(copies), stream))

    peak(1)  # what is made once
    assert peak(8) < 1.1 * peak(2)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_shards(tmp_path):
    """Nothing is kept of a shard that is done, and little of one that is read."""
    tokenizer = WordPieceTokenizer("[PAD] [UNK] [CLS] [SEP] [MASK] text".split())
    options = {"documents_per_shard": 2, "pair_task": None}

    def peaks(count):
        folder = tmp_path / str(count)

        def stream():
            for number in range(2 * count):
                gc.collect()  # TensorFlow leaves rings behind
                yield [f"Text {number}."]

        writing = python_peak(
            lambda: write_pretraining_records(stream(), folder, tokenizer, T, **options)
        )
        reading = python_peak(
            lambda: pretraining_records_dataset(folder, tokenizer, 1, P)
        )
        return np.array([writing, reading])

    peaks(3)  # what is made once
    gc.freeze()  # so that rings are found quickly, and never many are there
    try:
        growth = (peaks(331) - peaks(31)) / 300  # bytes a shard
    finally:
        gc.unfreeze()
    assert (growth < 100).all(), growth
