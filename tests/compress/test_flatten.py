"""Laid flat: same numbers, same weights, readable names; what cannot be is named."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_tformer as kt
from keras_tformer.compress import flatten

LENGTH = 7


def albert(**overrides):
    sizes = {
        "vocabulary_size": 37,
        "num_layers": 3,
        "num_heads": 2,
        "hidden_dim": 22,
        "intermediate_dim": 29,
        "embedding_dim": 11,
        "max_sequence_length": 13,
    }
    return kt.models.albert_encoder(**(sizes | overrides))


def batch(size=3, seed=1):
    random = np.random.default_rng(seed)
    mask = (np.arange(LENGTH) < random.integers(2, LENGTH, (size, 1))).astype("int32")
    return {
        "token_ids": random.integers(1, 37, (size, LENGTH)).astype("int32") * mask,
        "segment_ids": random.integers(0, 2, (size, LENGTH)).astype("int32"),
        "padding_mask": mask,
    }


def assert_same(flat, model, inputs):
    expected = keras.tree.flatten(model(inputs))
    for a, b in zip(keras.tree.flatten(flat(inputs)), expected, strict=True):
        np.testing.assert_array_equal(ops.cast(a, "float32"), ops.cast(b, "float32"))


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_shared_block_is_laid_flat_and_stays_shared(dtype):
    model = kt.models.sequence_classifier(albert(dtype=dtype), num_classes=3)
    names = [layer.name for layer in model._flatten_layers()]
    flat = flatten(model, sequence_length=LENGTH)
    assert_same(flat, model, batch())
    assert {id(w) for w in flat.weights} == {id(w) for w in model.weights}
    assert len(flat.weights) == len(model.weights)
    kinds = [type(layer).__name__ for layer in flat.layers]
    assert kinds.count("Dense") == 1 + 6 + 2  # projection, block, pooler and head
    assert not {"TransformerEncoder", "MultiHeadAttention", "FeedForward"} & {*kinds}
    assert "pooler.dense" in [layer.name for layer in flat.layers]
    assert [layer.name for layer in model._flatten_layers()] == names


@pytest.mark.slow
def test_flat_model_saves_loads_and_trains(tmp_path):
    model = kt.models.sequence_classifier(albert(), num_classes=3)
    flat = flatten(model, sequence_length=LENGTH)
    flat.save(tmp_path / "flat.keras")
    assert_same(keras.models.load_model(tmp_path / "flat.keras"), model, batch())
    before = model.get_weights()
    flat.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    flat.fit(batch(8), np.arange(8) % 3, epochs=1, verbose=0)
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(before, model.get_weights(), strict=True)
    )
    assert_same(flat, model, batch())


def test_dropout_works_in_training_only():
    flat = flatten(albert(dropout=0.5), sequence_length=LENGTH)
    inputs = batch()

    def pooled(training):
        return np.asarray(flat(inputs, training=training)["pooled_output"])

    np.testing.assert_array_equal(pooled(False), pooled(False))
    assert np.abs(pooled(True) - pooled(True)).max() > 1e-3
    assert np.abs(pooled(True) - pooled(False)).max() > 1e-3


def test_nested_models_and_sequential():
    inner = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(7, activation="relu", name="dense")],
        name="inner",
    )
    x = keras.Input((5,), name="x")
    head = keras.layers.Dense(3, name="dense")
    model = keras.Model(x, head(ops.concatenate([inner(x), inner(x * 2)])))
    flat = flatten(model)
    assert_same(flat, model, np.ones((2, 5), "float32"))
    names = [layer.name for layer in flat.layers]
    assert "inner.dense" in names and "dense" in names
    assert_same(flatten(inner), inner, np.ones((2, 5), "float32"))


def test_masks_of_embeddings_reach_attention():
    ids = keras.Input((LENGTH,), dtype="int32", name="ids")
    x = keras.layers.Embedding(11, 6, mask_zero=True)(ids)
    x = keras.layers.MultiHeadAttention(2, 3, dropout=0.1)(x, x)
    model = keras.Model(ids, keras.layers.GlobalAveragePooling1D()(x))
    inputs = np.array([[1, 2, 3, 0, 0, 0, 0], [4, 5, 6, 7, 8, 9, 10]])
    assert_same(flatten(model), model, inputs)


def test_transformer_with_a_constant_encoding():
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 22, "intermediate_dim": 29}
    model = kt.models.transformer(vocabulary_size=37, **sizes)
    flat = flatten(model, sequence_length=LENGTH)
    inputs = {
        f"{side}_{name}": batch()[name]
        for side in ("encoder", "decoder")
        for name in ("token_ids", "padding_mask")
    }
    assert_same(flat, model, inputs)


def test_given_model_is_not_changed():
    model = albert()
    nodes = [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    flatten(model, sequence_length=LENGTH)
    assert [len(layer._inbound_nodes) for layer in model._flatten_layers()] == nodes


class Counter(keras.layers.Layer):
    """Decides by the values that it sees: not a graph."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(3)

    def call(self, x):
        return self.dense(x) if float(ops.max(x)) > 0 else x

    def compute_output_spec(self, x):
        return keras.KerasTensor((*x.shape[:-1], 3), dtype=x.dtype)


class Scaled(keras.layers.Layer):
    """Has a weight of its own beside a sublayer."""

    def build(self, shape):
        self.dense = keras.layers.Dense(3)
        self.dense.build(shape)
        self.scale = self.add_weight(shape=())

    def call(self, x):
        return self.dense(x) * self.scale


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3)

    def call(self, x):
        return self.dense(x)


def test_what_cannot_be_laid_flat_is_named():
    x = keras.Input((3,))
    with pytest.raises(ValueError, match="'undecided'.*symbolic tensors"):
        flatten(keras.Model(x, Counter(name="undecided")(x)))
    model = keras.Model(x, Scaled(name="scaled")(x))
    with pytest.raises(ValueError, match="'scaled'.*weights of its own"):
        flatten(model)
    assert_same(flatten(model, keep=["scaled"]), model, np.ones((2, 3), "float32"))
    subclassed = Subclassed()
    with pytest.raises(ValueError, match="no weights yet"):
        flatten(subclassed)
    subclassed(np.ones((2, 3)))
    with pytest.raises(ValueError, match="subclassed"):
        flatten(subclassed)


class CountsCalls(keras.layers.Layer):
    """Scales by how often it was called: Python state."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(3)
        self.calls, self.seen = 0, []

    def call(self, x):
        self.calls += 1
        return self.dense(x) * self.calls


class RemembersShapes(CountsCalls):
    def call(self, x):
        self.seen.append(x.shape[-1])
        return self.dense(x) * len(self.seen)


class CountsWithoutWeights(keras.layers.Layer):
    calls = 0

    def call(self, x):
        self.calls += 1
        return x * self.calls


@pytest.mark.parametrize(
    ("kind", "attribute"),
    [
        (CountsCalls, "calls"),
        (RemembersShapes, "seen"),
        (CountsWithoutWeights, "calls"),
    ],
)
def test_state_in_python_is_named(kind, attribute):
    x = keras.Input((5,))
    model = keras.Model(x, kind(name="stateful")(x))
    with pytest.raises(ValueError, match=f"'stateful'.*attribute '{attribute}'"):
        flatten(model)
    inner = keras.Sequential([x, kind(name="stateful")], name="inner")
    with pytest.raises(ValueError, match=r"'inner\.stateful'"):
        flatten(keras.Model(x, inner(x)))


class ShiftedInTraining(keras.layers.Layer):
    """Its two modes: what follows `training` in Python, and what does not."""

    def __init__(self, mode, has_sublayer=True, **kwargs):
        super().__init__(**kwargs)
        self.mode = mode
        self.dense = keras.layers.Dense(3) if has_sublayer else None
        self.drop = keras.layers.Dropout(0.5) if has_sublayer else None

    def call(self, x, training=False):
        y = self.dense(x) if self.dense else x
        if self.mode == "operation":
            return y + 100 if training else y
        if self.mode == "number":
            return ops.add(y, 100.0 if training else 0.5)
        if self.mode == "layer":
            return self.drop(y) if training else y
        if self.mode == "order":
            return ops.relu(ops.tanh(y)) if training else ops.tanh(ops.relu(y))
        if self.mode == "axis":
            return ops.softmax(y, axis=-1 if training else 0)
        y = self.drop(y, training=training)  # as any sublayer is told of it
        return ops.softmax(y * 2 + 100 * np.ones(y.shape[-1], "float32"), axis=-1)


@pytest.mark.parametrize("mode", ["operation", "number", "layer", "order", "axis"])
def test_what_training_changes_in_python_is_named(mode):
    x = keras.Input((5,))
    model = keras.Model(x, ShiftedInTraining(mode, name="shifted")(x))
    with pytest.raises(ValueError, match="'shifted'.*training=True.*keep="):
        flatten(model)
    assert_same(flatten(model, keep=["shifted"]), model, np.ones((2, 5), "float32"))


def test_training_may_be_handed_to_sublayers():
    x = keras.Input((5,))
    model = keras.Model(x, ShiftedInTraining("told", name="told")(x))
    flat, inputs = flatten(model), np.ones((2, 5), "float32")
    assert_same(flat, model, inputs)
    assert np.abs(flat(inputs, training=True) - flat(inputs)).max() > 0


def test_a_weightless_layer_that_training_changes_stays_whole():
    x = keras.Input((5,))
    shifted = ShiftedInTraining("operation", has_sublayer=False, name="shifted")
    flat = flatten(keras.Model(x, keras.layers.Dense(3, name="dense")(shifted(x))))
    assert [layer.name for layer in flat.layers[1:]] == ["shifted", "dense"]


@pytest.mark.parametrize("name", ["BertBackbone", "AlbertBackbone"])
def test_keras_hub_backbones(name):
    hub = pytest.importorskip("keras_hub", reason="compares with KerasHub's models")
    sizes = {"embedding_dim": 11} if name == "AlbertBackbone" else {}
    model = getattr(hub.models, name)(
        vocabulary_size=37,
        num_layers=2,
        num_heads=2,
        hidden_dim=22,
        intermediate_dim=29,
        max_sequence_length=13,
        **sizes,
    )
    flat = flatten(model)
    assert_same(flat, model, batch())
    assert {id(w) for w in flat.weights} == {id(w) for w in model.weights}
    assert any("key" in layer.name for layer in flat.layers)
