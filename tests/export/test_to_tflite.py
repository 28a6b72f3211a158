import json
import zipfile

import keras
import numpy as np
import pytest
from conftest import LENGTH, SIZES

from keras_tformer import export

litert = pytest.importorskip(
    "ai_edge_litert.interpreter", reason="the files are proved on ai_edge_litert"
)


def run_alone(file, examples):
    """The file on LiteRT, without the code under test."""
    interpreter = litert.Interpreter(model_path=str(file))
    runner = interpreter.get_signature_runner("serving_default")
    rows = [
        runner(**{name: ids[i : i + 1] for name, ids in examples.items()})["output"]
        for i in range(len(examples["token_ids"]))
    ]
    return np.concatenate(rows)


@pytest.mark.parametrize(
    "quantization, weight_share, mean_error",
    [
        (None, 1.0, 1e-5),
        ("float16", 0.5, 1e-3),
        ("dynamic_range", 0.25, 0.03),
        ("int8", 0.25, 0.08),
        ("int16x8", 0.25, 0.03),
    ],
)
def test_mode_against_keras(
    classifier, examples, tmp_path, quantization, weight_share, mean_error
):
    file = tmp_path / "model.tflite"
    report = export.to_tflite(
        classifier,
        file,
        sequence_length=LENGTH,
        quantization=quantization,
        representative_data=examples,
    )
    expected = classifier.predict(examples, verbose=0)
    outputs = run_alone(file, examples)
    assert np.abs(outputs - expected).mean() <= mean_error * expected.std()
    assert report["verification"]["runtime"].startswith("ai_edge_litert")
    assert list(tmp_path.iterdir()) == [file]
    kinds = report["weight_bytes"]
    floats = kinds.get("float32", 0) + kinds.get("int16", 0)
    # Positions, segments and biases are too small for the dynamic-range quantizer.
    slack = 5000 if quantization == "dynamic_range" else 0
    stored = floats + kinds.get("float16", 0) + kinds.get("int8", 0)
    assert stored < 1.15 * weight_share * 4 * report["parameters"] + slack
    macs = report["macs_by_dtype"]
    if quantization == "int8":
        # The one position that is read makes what GELU and the head read; what is
        # summed before normalizations and what attention reads have float results.
        width, inner = SIZES["hidden_dim"], SIZES["intermediate_dim"]
        expected_macs = {
            "int8": (inner + width + 3) * width,
            "float32*int8": (2 * LENGTH * width + 2 * width + inner) * width,
            "float32": 2 * LENGTH * width,
        }
        assert macs == expected_macs
        assert report["int8_macs_share"] == macs["int8"] / report["macs"]
    elif quantization == "dynamic_range":
        assert macs["float32*int8"] > 0.5 * report["macs"]
    elif quantization == "int16x8":
        assert set(macs) == {"int16", "int16*int8"}
    else:
        assert set(macs) == {"float32"}


def test_one_wrong_class_of_many_is_refused(tmp_path, monkeypatch):
    """The mean difference is small, and yet most predictions are wrong."""
    from keras_tformer.export import tflite
    from keras_tformer.export.flatbuffer import parse
    from keras_tformer.export.packing import pack

    def convert(*arguments):
        content = parse(original(*arguments))
        (bias,) = (x for x in content.subgraphs[0].tensors if list(x.shape) == [101])
        data = content.buffers[bias.buffer].data.copy()
        data.view("float32")[7] += 6
        content.buffers[bias.buffer].data = data
        return pack(content)

    original = tflite.convert
    monkeypatch.setattr(tflite, "convert", convert)
    keras.utils.set_random_seed(5)
    x = keras.Input((37,), name="x")
    model = keras.Model({"x": x}, keras.layers.Dense(101)(x))
    model.layers[-1].bias.assign(np.linspace(-0.1, 0.1, 101))
    data = {"x": np.random.default_rng(3).normal(size=(64, 37)).astype("float32")}
    arguments = {"quantization": "dynamic_range", "representative_data": data}
    file = tmp_path / "model.tflite"
    with pytest.raises(ValueError, match=r"near ties aside \(at least 90.0%"):
        export.to_tflite(model, file, **arguments)
    assert not list(tmp_path.iterdir())
    arguments["minimum_clear_agreement"] = None
    found = export.to_tflite(model, file, **arguments)["verification"]
    assert found["relative_difference"] < 0.1  # all that would have been asked
    assert found["clear_agreement"] < 0.2


def test_names_shapes_and_builtin_operators(tflite_file):
    interpreter = litert.Interpreter(model_path=str(tflite_file))
    signature = interpreter.get_signature_list()["serving_default"]
    assert set(signature["inputs"]) == {"token_ids", "segment_ids", "padding_mask"}
    assert signature["outputs"] == ["output"]
    for detail in interpreter.get_input_details():
        assert tuple(detail["shape"]) == (1, LENGTH)
        assert detail["dtype"] == np.int32
    operators = export.report(tflite_file, show=False)["operators"]
    assert not [name for name in operators if name.startswith("Flex")]
    # Ids go into GATHER as they are, masks are arithmetic.
    assert not {"SELECT", "SELECT_V2", "LESS", "SHAPE"} & set(operators)
    assert operators["GELU"] == {"float32": 1}


def test_keys_and_values_have_no_zero_point(classifier, examples, tmp_path):
    """XNNPACK's int8 product takes no other: it leaves them to a slow kernel."""
    file = tmp_path / "model.tflite"
    export.to_tflite(
        classifier,
        file,
        sequence_length=LENGTH,
        quantization="int8",
        representative_data=examples,
        integer_only=True,
    )
    interpreter = litert.Interpreter(
        model_path=str(file),
        experimental_op_resolver_type=(
            litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        ),
    )
    tensors = {part["index"]: part for part in interpreter.get_tensor_details()}
    products = [
        operator
        for operator in interpreter._get_ops_details()
        if operator["op_name"] == "BATCH_MATMUL"
    ]
    assert len(products) == 2
    for operator in products:
        scale, zero_point = tensors[operator["inputs"][1]]["quantization"]
        assert scale > 0 and zero_point == 0


def test_more_rows_than_the_fixed_batch(classifier, examples, tmp_path):
    file = tmp_path / "model.tflite"
    export.to_tflite(classifier, file, sequence_length=LENGTH, batch_size=5)
    data = {name: ids[:12] for name, ids in examples.items()}
    outputs = export.predict(file, data)["output"]
    expected = classifier.predict(data, verbose=0)
    np.testing.assert_allclose(outputs, expected, atol=1e-4)


def test_quantization_aware_model_becomes_int8(tmp_path):
    model, data = fake_quantized_model()
    file = tmp_path / "model.tflite"
    report = export.to_tflite(model, file, sequence_length=LENGTH, quantization="int8")
    assert report["is_quantization_aware"]
    assert report["weight_bytes"]["int8"] >= 53 * 29 + 29 * 31
    expected = model.predict(data, verbose=0)
    interpreter = litert.Interpreter(model_path=str(file))
    runner = interpreter.get_signature_runner("serving_default")
    outputs = np.concatenate(
        [runner(token_ids=row[None])["output"] for row in data["token_ids"]]
    )
    assert np.abs(outputs - expected).mean() < 0.05 * expected.std()
    report = export.to_tflite(
        model,
        file,
        sequence_length=LENGTH,
        quantization="int8",
        representative_data=data,
    )
    assert report["int8_macs_share"] == 1.0
    # Without int8 the converter writes a file that computes something else.
    for quantization in (None, "float16", "dynamic_range"):
        with pytest.raises(ValueError, match="quantization-aware"):
            export.to_tflite(
                model, file, sequence_length=LENGTH, quantization=quantization
            )


def fake_quantized_model():
    """Two dense layers with TensorFlow's own fake-quantizers, by hand."""
    import tensorflow as tf

    fake = tf.quantization

    class FakeQuantEmbedding(keras.layers.Layer):
        def build(self, input_shape):
            uniform = keras.initializers.RandomUniform(-2, 2, seed=5)
            self.table = self.add_weight(shape=(53, 29), initializer=uniform)

        def call(self, ids):
            table = fake.fake_quant_with_min_max_args(self.table, -2, 2, 8, True)
            return tf.gather(table, ids)

        def compute_output_spec(self, ids):
            return keras.KerasTensor((*ids.shape, 29), "float32")

    class FakeQuantDense(keras.layers.Layer):
        def __init__(self, units, largest, **kwargs):
            super().__init__(**kwargs)
            self.units, self.largest = units, largest

        def build(self, input_shape):
            shape = (input_shape[-1], self.units)
            normal = keras.initializers.RandomNormal(stddev=0.1, seed=7)
            self.kernel = self.add_weight(shape=shape, initializer=normal)
            self.range = self.add_weight(
                shape=(self.units,), initializer="ones", trainable=False
            )
            self.range.assign(np.abs(self.kernel.numpy()).max(axis=0))

        def call(self, x):
            kernel = fake.fake_quant_with_min_max_vars_per_channel(
                self.kernel, -self.range, self.range, 8, True
            )
            x = tf.matmul(x, kernel)
            return fake.fake_quant_with_min_max_args(x, -self.largest, self.largest)

        def compute_output_spec(self, x):
            return keras.KerasTensor((*x.shape[:-1], self.units), "float32")

    ids = keras.Input((None,), dtype="int32", name="token_ids")
    x = FakeQuantDense(31, 2.5)(FakeQuantEmbedding()(ids))
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model({"token_ids": ids}, FakeQuantDense(3, 0.7)(x))
    data = np.random.default_rng(2).integers(0, 53, (41, LENGTH)).astype("int32")
    return model, {"token_ids": data}


def test_companions_of_the_file(classifier, tmp_path):
    text = pytest.importorskip("keras_tformer.text", reason="needs the text room")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "naïve", "##s"]
    tokenizer = text.WordPieceTokenizer(pieces, lowercase=False)
    report = export.to_tflite(
        classifier,
        tmp_path / "model.tflite",
        sequence_length=LENGTH,
        tokenizer=tokenizer,
        class_names=["a", "ß", "c"],
    )
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["model.json", "model.tflite", "vocab.txt"]
    vocabulary = (tmp_path / "vocab.txt").read_text(encoding="utf-8")
    assert vocabulary.split() == pieces
    card = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    assert card["classes"] == ["a", "ß", "c"]
    assert card["vocabulary"] == "vocab.txt" and card["lowercase"] is False
    assert card["sha256"] == report["sha256"]
    assert (card["start_id"], card["end_id"], card["padding_id"]) == (2, 3, 0)
    with zipfile.ZipFile(tmp_path / "model.tflite") as archive:
        assert archive.read("vocab.txt").decode("utf-8").split() == pieces
        assert archive.read("labels.txt").decode("utf-8") == "a\nß\nc\n"


@pytest.mark.slow
@pytest.mark.parametrize("quantization", [None, "dynamic_range", "int8"])
def test_tokenizer_inside(classifier, examples, tmp_path, quantization):
    text = pytest.importorskip("keras_tformer.text", reason="needs the text room")
    pytest.importorskip("tensorflow_text", reason="needs tensorflow-text")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "."]
    tokenizer = text.WordPieceTokenizer(pieces)
    file = tmp_path / "model.tflite"
    report = export.to_tflite(
        classifier,
        file,
        sequence_length=LENGTH,
        quantization=quantization,
        representative_data=examples,
        tokenizer=tokenizer,
        tokenizer_inside=True,
    )
    assert report["signatures"] == ["serving_default", "tokenize"]
    texts = ["The cats.", "", "Thé CAT", "the cats the dog . " * 9]
    inputs = export.predict(file, {"texts": np.array(texts)}, signature="tokenize")
    # The host's own tokenizer (Rust) as the other way to the ids.
    expected = text.pack(
        tokenizer.encode(texts),
        sequence_length=LENGTH,
        start_id=tokenizer.start_id,
        end_id=tokenizer.end_id,
    )
    assert set(inputs) == set(expected)
    for name, ids in expected.items():
        np.testing.assert_array_equal(inputs[name], ids)
    # The app that links no text operators still runs the model.
    outputs = run_alone(file, inputs)
    logits = classifier.predict(expected, verbose=0)
    limit = {None: 1e-5, "dynamic_range": 0.05, "int8": 0.15}[quantization]
    assert np.abs(outputs - logits).mean() < limit * logits.std()
    alone = export.to_tflite(
        classifier,
        file,
        sequence_length=LENGTH,
        quantization=quantization,
        representative_data=examples,
        verify=False,
    )
    # The tokenizer's tables, 610 kB whatever the vocabulary, and no weight again.
    sizes = [result["weight_bytes"] for result in (alone, report)]
    assert sizes[1].get("float32", 0) == sizes[0].get("float32", 0)
    assert 0 < sum(sizes[1].values()) - sum(sizes[0].values()) < 650_000
    with pytest.raises(ValueError, match="needs a tokenizer"):
        export.to_tflite(classifier, file, sequence_length=7, tokenizer_inside=True)


def test_converting_leaves_keras_as_it_was(tflite_file):
    # Tracing made GATHER plain: negative ids must wrap around again afterwards.
    x = keras.ops.take(np.array([3.0, 5.0, 7.0]), np.array([-1]))
    assert float(x[0]) == 7.0


@pytest.mark.slow
def test_keras_still_needs_the_plain_gather():
    """When this fails, `take` in tracing.py can go."""
    import tensorflow as tf

    spec = tf.TensorSpec((3,), tf.int32)
    function = tf.function(lambda ids: keras.ops.take(np.ones((5, 2)), ids, axis=0))
    graph = function.get_concrete_function(spec).graph
    assert "Less" in {operation.type for operation in graph.get_operations()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "albert"])
def test_keras_hub_backbone(kind, tmp_path):
    keras_hub = pytest.importorskip("keras_hub", reason="compares with KerasHub")
    sizes = {
        "vocabulary_size": 53,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 28,
        "intermediate_dim": 37,
        "max_sequence_length": 17,
    }
    if kind == "bert":
        model = keras_hub.models.BertBackbone(**sizes)
    else:
        model = keras_hub.models.AlbertBackbone(**sizes, embedding_dim=19)
    report = export.to_tflite(
        model, tmp_path / "model.tflite", sequence_length=LENGTH, batch_size=2
    )
    assert report["verification"]["largest_difference"] < 1e-4
    assert set(report["outputs"]) == {"sequence_output", "pooled_output"}


@pytest.mark.parametrize("quantization", ["int8", "int16x8"])
def test_examples_without_any_padding(classifier, examples, tmp_path, quantization):
    full = {name: np.ones_like(ids) for name, ids in examples.items()}
    full["token_ids"] = examples["token_ids"] + 5 * (1 - examples["padding_mask"])
    file = tmp_path / "model.tflite"
    export.to_tflite(
        classifier,
        file,
        sequence_length=LENGTH,
        quantization=quantization,
        representative_data=full,
    )
    # Padding, which the calibration never saw in the user's data, is masked.
    expected = classifier.predict(examples, verbose=0)
    outputs = run_alone(file, examples)
    assert np.abs(outputs - expected).mean() < 0.1 * expected.std()
