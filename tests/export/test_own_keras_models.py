"""Models of Keras' own layers, and of layers that read a weight in two ways."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_tformer import export

litert = pytest.importorskip(
    "ai_edge_litert.interpreter", reason="the files are proved on ai_edge_litert"
)
LENGTH, WIDTH = 16, 64


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).normal(size=(64, LENGTH, WIDTH)).astype("float32")


def attention(x):
    return layers.MultiHeadAttention(4, 16)(x, x, use_causal_mask=True)


def scaled_afterwards(x):
    """Scores times a number, and a mask without end."""
    query, key, value = (layers.Dense(WIDTH)(x) for _ in range(3))
    later = np.triu(np.ones((1, LENGTH, LENGTH), "float32"), 1)
    scores = ops.matmul(query, ops.transpose(key, (0, 2, 1))) * 0.2
    masked = scores + ops.convert_to_tensor(np.where(later > 0, -np.inf, 0 * later))
    return ops.matmul(ops.softmax(masked), value)


class ReadTwice(layers.Layer):
    """A square weight that a product, a sum and a scaling may read."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def build(self, input_shape):
        normal = keras.initializers.RandomNormal(stddev=1.0, seed=1)
        self.table = self.add_weight(shape=(LENGTH, WIDTH), initializer=normal)

    def call(self, x):
        return self.function(x, self.table)


def product_and_sum(x, table):
    wider = ops.convert_to_tensor(np.eye(LENGTH, WIDTH, dtype="float32"))
    scores = ops.matmul(x, ops.transpose(table))  # (B, LENGTH, LENGTH)
    return ops.matmul(scores, wider) + table  # (B, LENGTH, WIDTH)


BLOCKS = {
    "attention": lambda: attention,
    "scaled afterwards": lambda: scaled_afterwards,
    "product and sum": lambda: ReadTwice(product_and_sum),
    "scaled and summed": lambda: ReadTwice(lambda x, table: x * table + table),
    "product and scaled": lambda: ReadTwice(
        lambda x, table: product_and_sum(x, table) - table + x * table
    ),
}


@pytest.mark.parametrize("quantization", ["int8", "int16x8"])
@pytest.mark.parametrize("name", BLOCKS)
def test_is_right_from_the_first_call(name, quantization, rows, tmp_path):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((LENGTH, WIDTH), name="x")
    hidden = layers.LayerNormalization()(inputs + BLOCKS[name]()(inputs))
    model = keras.Model({"x": inputs}, layers.Dense(5)(hidden))
    report = export.to_tflite(
        model,
        tmp_path / "model.tflite",
        quantization=quantization,
        representative_data={"x": rows},
    )
    expected = model.predict({"x": rows}, verbose=0)
    limit = {"int8": 0.03, "int16x8": 0.01}[quantization] * expected.std()
    for resolver in ("AUTO", "BUILTIN_WITHOUT_DEFAULT_DELEGATES"):
        interpreter = litert.Interpreter(
            model_path=report["file"],
            experimental_op_resolver_type=litert.OpResolverType[resolver],
        )
        run = interpreter.get_signature_runner("serving_default")
        first = run(x=rows[:1])["output"]
        assert np.abs(first - expected[:1]).mean() < 2 * limit, resolver
        answers = np.concatenate([run(x=row[None])["output"] for row in rows])
        assert np.abs(answers - expected).mean() < limit, resolver


@pytest.mark.parametrize("quantization", ["int8", "int16x8"])
def test_tied_table_with_a_bias_and_an_activation(quantization, tmp_path):
    keras.utils.set_random_seed(1)
    normal = keras.initializers.RandomNormal(stddev=0.5, seed=1)
    ids = keras.Input((LENGTH,), dtype="int32", name="token_ids")
    table = layers.Embedding(101, WIDTH, embeddings_initializer=normal)
    hidden = layers.Dense(WIDTH)(table(ids))

    class Tied(layers.Layer):
        def build(self, input_shape):
            self.bias = self.add_weight(shape=(101,), initializer=normal)

        def call(self, x):
            product = ops.matmul(x, ops.transpose(table.embeddings))
            return ops.relu(product + self.bias)

    model = keras.Model({"token_ids": ids}, Tied()(hidden))
    rows = np.random.default_rng(0).integers(0, 101, (64, LENGTH)).astype("int32")
    report = export.to_tflite(
        model,
        tmp_path / "model.tflite",
        sequence_length=LENGTH,
        quantization=quantization,
        representative_data={"token_ids": rows},
    )
    assert report["verification"]["relative_difference"] < 0.03
    assert sum(report["weight_bytes"].values()) < 1.1 * report["parameters"] + 1000


def test_a_head_that_is_nearly_the_table_keeps_its_own_bias(tmp_path):
    draw = np.random.default_rng(1)
    ids = keras.Input((LENGTH,), dtype="int32", name="token_ids")
    table, head = layers.Embedding(83, 24), layers.Dense(83)
    model = keras.Model({"token_ids": ids}, head(table(ids)))
    values = draw.normal(size=(83, 24)).astype("float32")
    table.set_weights([values])
    noise = draw.normal(0, 1e-3, (24, 83))
    head.set_weights([values.T + noise, draw.normal(size=83)])
    rows = draw.integers(0, 83, (64, LENGTH)).astype("int32")
    report = export.to_tflite(
        model,
        tmp_path / "model.tflite",
        sequence_length=LENGTH,
        quantization="int8",
        representative_data={"token_ids": rows},
    )
    assert report["verification"]["relative_difference"] < 0.03
    assert report["verification"]["agreement"] > 0.95


@pytest.mark.parametrize("factor", [1, 3])
def test_what_is_masked_is_not_seen_in_rows_larger_than_measured(tmp_path, factor):
    """A mask of -1e9 must not become what hides the scores of calibration alone."""
    keras.utils.set_random_seed(1)
    x = keras.Input((LENGTH, 32), name="x")
    mask = keras.Input((LENGTH,), dtype="int32", name="padding_mask")
    query, key, value = (layers.Dense(32, use_bias=False)(x) for _ in range(3))
    scores = ops.matmul(query, ops.transpose(key, (0, 2, 1))) * 0.2
    hidden = ops.expand_dims(1 - ops.cast(mask, "float32"), 1) * -1e9  # (B, 1, T)
    y = layers.Dense(32)(ops.matmul(ops.softmax(scores + hidden), value))
    model = keras.Model({"x": x, "padding_mask": mask}, y)
    generator = np.random.default_rng(1)
    rows = generator.normal(size=(60, LENGTH, 32)).astype("float32")
    kept = np.arange(LENGTH) < generator.integers(2, LENGTH, (60, 1))
    data = {"x": rows, "padding_mask": kept.astype("int32")}
    file = tmp_path / "model.tflite"
    export.to_tflite(
        model,
        file,
        sequence_length=LENGTH,
        quantization="int8",
        representative_data=data,
    )
    others = np.where(kept[..., None], rows, 5 * rows[::-1])
    first, second = (
        export.predict(file, data | {"x": factor * x})["output"][kept]
        for x in (rows, others.astype("float32"))
    )
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_attention_of_keras_with_a_mask_is_float_between_its_products(tmp_path):
    x = keras.Input((LENGTH, WIDTH), name="x")
    mask = keras.Input((LENGTH,), dtype="bool", name="padding_mask")
    y = layers.MultiHeadAttention(4, 16)(x, x, attention_mask=ops.expand_dims(mask, 1))
    model = keras.Model({"x": x, "padding_mask": mask}, y)
    generator = np.random.default_rng(1)
    data = {
        "x": 5 * generator.normal(size=(60, LENGTH, WIDTH)).astype("float32"),
        "padding_mask": np.arange(LENGTH) < generator.integers(2, LENGTH, (60, 1)),
    }
    report = export.to_tflite(
        model,
        tmp_path / "model.tflite",
        quantization="int8",
        representative_data=data,
    )
    for name in ("BATCH_MATMUL", "SELECT_V2", "SOFTMAX"):
        assert set(report["operators"][name]) == {"float32"}, name
    assert report["verification"]["relative_difference"] < 0.03


@pytest.mark.parametrize("quantization", ["int8", "int16x8"])
@pytest.mark.parametrize("wrong", [np.nan, -np.inf])
def test_examples_that_are_no_numbers_are_refused(quantization, wrong, tmp_path):
    x = keras.Input((7,), name="x")
    model = keras.Model(x, layers.Dense(5)(x))
    rows = np.ones((11, 7), "float32")
    rows[3, 2] = wrong
    with pytest.raises(ValueError, match=r"representative_data\['x'\] holds NaN or"):
        export.to_tflite(
            model,
            tmp_path / "model.tflite",
            quantization=quantization,
            representative_data=rows,
        )
    assert not list(tmp_path.iterdir())


def test_recurrence_and_nan_are_refused(tmp_path):
    """TensorFlow's calibrator would end the process in a loop."""
    inputs = keras.Input((LENGTH, 7), name="x")
    data = {"x": np.zeros((8, LENGTH, 7), "float32")}
    model = keras.Model(
        {"x": inputs}, layers.Dense(3)(layers.Bidirectional(layers.GRU(5))(inputs))
    )
    file = tmp_path / "model.tflite"
    for quantization in ("int8", "int16x8"):
        with pytest.raises(ValueError, match="unroll=True, or use 'dynamic_range'"):
            export.to_tflite(
                model, file, quantization=quantization, representative_data=data
            )
    model.weights[0].assign(model.weights[0].numpy() * np.nan)
    with pytest.raises(ValueError, match="holds NaN"):
        export.to_tflite(model, file, verify=False)
    assert not list(tmp_path.iterdir())
