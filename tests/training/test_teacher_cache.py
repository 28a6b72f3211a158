import json

import keras
import numpy as np
import pytest

from keras_tformer.training import Distiller, cache_teacher

tf = pytest.importorskip("tensorflow")

ROWS = 11


def distiller(seed=0):
    """Two small models of a dict of inputs; no encoder is needed here."""
    keras.utils.set_random_seed(seed)
    models = []
    for units in (5, 2):
        inputs = {name: keras.Input((3,), name=name) for name in ("a", "b")}
        x = keras.layers.Concatenate()([inputs["a"], inputs["b"]])
        x = keras.layers.Dense(units)(x)
        models.append(keras.Model(inputs, keras.layers.Dense(4)(x)))
    return Distiller(*models)


def rows(seed=1, count=ROWS):
    random = np.random.default_rng(seed)
    x = {name: random.normal(size=(count, 3)).astype("float32") for name in "ab"}
    return x, np.arange(count, dtype="int32"), np.ones(count, "float32")


def dataset(data=None):
    return tf.data.Dataset.from_tensor_slices(data or rows()).batch(3)


def counting(distiller):
    """Counts how many batches the teacher is asked for."""
    teach, asked = distiller.teacher_outputs, []

    def teacher_outputs(x):
        tf.py_function(lambda: asked.append(1), [], [])
        return teach(x)

    distiller.teacher_outputs = teacher_outputs
    return asked


def test_the_batches_hold_what_the_teacher_says(tmp_path):
    pupil = distiller()
    arguments = {"batch_size": 4, "shuffle": True, "shard_batches": 2}
    cached = cache_teacher(pupil, dataset(), tmp_path, **arguments)
    seen = []
    for x, y, weight in cached:
        expected = pupil.teacher_outputs({name: x[name] for name in "ab"})
        np.testing.assert_allclose(
            x["teacher_outputs"]["outputs"], expected["outputs"], atol=1e-6
        )
        assert weight.shape == y.shape
        seen += y.numpy().tolist()
    assert sorted(seen) == list(range(ROWS)) != seen
    assert seen != [int(i) for _, y, _ in cached for i in y]  # another order
    x, y, weight = rows()
    loss = pupil.compute_loss
    pupil.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    batch = next(iter(cached))
    labels = batch[1] % 4
    plain = {name: batch[0][name] for name in "ab"}
    with_cache = loss(batch[0], labels, pupil(batch[0], training=True), batch[2])
    without = loss(plain, labels, pupil(plain, training=True), batch[2])
    np.testing.assert_allclose(with_cache, without, rtol=1e-5)


def test_the_teacher_runs_once_and_goes_on_where_it_was_killed(tmp_path):
    pupil = distiller()
    asked = counting(pupil)
    fails = dataset().map(lambda *row: row)
    arguments = {"batch_size": 4, "shard_batches": 2}

    def dies():
        for number, element in enumerate(dataset().as_numpy_iterator()):
            if number == 3:
                raise KeyboardInterrupt
            yield element

    class Dying:
        element_spec = fails.element_spec
        cardinality = fails.cardinality
        as_numpy_iterator = staticmethod(dies)

    with pytest.raises(KeyboardInterrupt):
        cache_teacher(pupil, Dying(), tmp_path, **arguments)
    assert len(asked) == 2  # one shard of two batches is written
    cache_teacher(pupil, dataset(), tmp_path, **arguments)
    assert len(asked) == 4
    cached = cache_teacher(pupil, dataset(), tmp_path, **arguments)
    assert len(asked) == 4
    assert [len(y) for _, y, _ in cached] == [4, 4, 3]
    assert not list(tmp_path.glob("unfinished*"))


def test_a_stale_or_damaged_cache_is_refused(tmp_path):
    arguments = {"batch_size": 4, "shard_batches": 2}
    cache_teacher(distiller(), dataset(), tmp_path, **arguments)
    with pytest.raises(ValueError, match="another teacher"):
        cache_teacher(distiller(seed=2), dataset(), tmp_path, **arguments)
    with pytest.raises(ValueError, match="other examples"):
        cache_teacher(distiller(), dataset(rows(seed=2)), tmp_path, **arguments)
    with pytest.raises(ValueError, match="another dtype"):
        cache_teacher(distiller(), dataset(), tmp_path, dtype="float16", **arguments)
    with pytest.raises(ValueError, match="1 shards of examples"):
        cache_teacher(distiller(), dataset().take(2), tmp_path, **arguments)
    manifest = json.loads((tmp_path / "teacher_cache.json").read_text())
    file = tmp_path / manifest["shards"][1]["file"]
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="missing or damaged"):
        cache_teacher(distiller(), dataset(), tmp_path, **arguments)


def test_datasets_that_cannot_be_cached_are_refused(tmp_path):
    with pytest.raises(ValueError, match="without end"):
        cache_teacher(distiller(), dataset().repeat(), tmp_path, 4)
    tuples = dataset().map(lambda x, y, w: (x["a"], y))
    with pytest.raises(ValueError, match="Expected a dict"):
        cache_teacher(distiller(), tuples, tmp_path / "tuples", 4)
    with pytest.raises(ValueError, match="batch_size=0"):
        cache_teacher(distiller(), dataset(), tmp_path, 0)
