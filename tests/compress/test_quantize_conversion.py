"""The proof: int8 on LiteRT computes what the quantization-aware model does."""

import collections
import gzip
import tempfile

import keras
import numpy as np
import pytest

import keras_tformer as kt
from keras_tformer.compress import calibrate, quantize_model, sparsity

if keras.backend.backend() != "tensorflow":
    pytest.skip("conversion needs TensorFlow", allow_module_level=True)
litert = pytest.importorskip(
    "ai_edge_litert.interpreter", reason="runs the converted file"
)
import tensorflow as tf  # noqa: E402

pytestmark = pytest.mark.slow
LENGTH = 12
INTEGER_OPERATORS = {
    *("FULLY_CONNECTED", "BATCH_MATMUL", "SOFTMAX", "GELU", "TANH", "TRANSPOSE"),
    "GATHER",
}


def examples(size, seed):
    """The class is the quarter of the vocabulary that most tokens come from."""
    random = np.random.default_rng(seed)
    classes = random.integers(0, 4, size)
    mask = np.arange(LENGTH) < random.integers(6, LENGTH + 1, (size, 1))
    own = random.integers(0, 25, (size, LENGTH)) + 25 * classes[:, None]
    other = random.integers(0, 100, (size, LENGTH))
    ids = np.where(random.random((size, LENGTH)) < 0.6, own, other)
    inputs = {
        "token_ids": (ids + 1) * mask,
        "segment_ids": np.zeros_like(ids),
        "padding_mask": mask,
    }
    return {name: x.astype("int32") for name, x in inputs.items()}, classes


def fit(model, epochs, rate):
    inputs, classes = examples(1024, 1)
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    model.fit(inputs, classes, batch_size=32, epochs=epochs, verbose=0)


@pytest.fixture(scope="module")
def models():
    """A trained classifier with 70 % zeros, and the same made quantization-aware."""
    keras.utils.set_random_seed(4)
    encoder = kt.models.albert_encoder(
        vocabulary_size=101,
        num_layers=2,
        num_heads=2,
        hidden_dim=32,
        intermediate_dim=64,
        embedding_dim=16,
        max_sequence_length=LENGTH,
        initializer_range=0.1,
    )
    pruned = kt.models.sequence_classifier(encoder, num_classes=4)
    schedule = kt.compress.PolynomialDecay(0.0, 0.7, 32, 128, frequency=16)
    kt.compress.prune_low_magnitude(pruned, schedule)
    fit(pruned, 6, 3e-3)
    kt.compress.strip_pruning(pruned)
    aware = quantize_model(pruned, sequence_length=LENGTH)
    calibrate(aware, [examples(64, 2)])
    fit(aware, 2, 3e-4)
    return pruned, aware


def convert(model, representative=False):
    signature = {
        tensor.name: tf.TensorSpec((1, *tensor.shape[1:]), tensor.dtype, tensor.name)
        for tensor in model.inputs
    }

    @tf.function(autograph=False)
    def serve(**inputs):
        named = inputs if isinstance(model.input, dict) else list(inputs.values())
        return {"outputs": keras.tree.flatten(model(named, training=False))[0]}

    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    function = serve.get_concrete_function(**signature)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures={"serving_default": function})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter._experimental_qdq_conversion_mode = "STATIC"
        if representative:
            inputs, _ = examples(64, 3)
            converter.representative_dataset = lambda: (
                {name: x[i : i + 1] for name, x in inputs.items()} for i in range(64)
            )
        return converter.convert()


def operators(content):
    """{operator: {dtype of its output: count}} and the interpreter."""
    interpreter = litert.Interpreter(
        model_content=content,
        experimental_op_resolver_type=litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    dtypes = {x["index"]: x["dtype"] for x in interpreter.get_tensor_details()}
    counts = collections.defaultdict(collections.Counter)
    for operator in interpreter._get_ops_details():
        dtype = dtypes[operator["outputs"][0]]
        counts[operator["op_name"]][np.dtype(dtype).name] += 1
    return counts


def run(content, inputs):
    interpreter = litert.Interpreter(model_content=content)
    runner = interpreter.get_signature_runner("serving_default")
    rows = len(next(iter(inputs.values())))
    return np.concatenate(
        [
            runner(**{name: x[i : i + 1] for name, x in inputs.items()})["outputs"]
            for i in range(rows)
        ]
    )


@pytest.mark.parametrize("representative", [False, True])
def test_every_matrix_product_is_int8(models, representative):
    pruned, aware = models
    content = convert(aware, representative)
    counts = operators(content)
    for name in INTEGER_OPERATORS:
        assert set(counts[name]) == {"int8"}, (name, counts[name])
    assert counts["FULLY_CONNECTED"]["int8"] == 1 + 2 * 6 + 2
    assert counts["BATCH_MATMUL"]["int8"] == 2 * 2
    if representative:
        assert counts["MEAN"]["int8"] and not counts["MEAN"]["float32"]
    inputs, classes = examples(2048, 5)
    ours = np.asarray(aware(inputs))
    theirs = run(content, inputs)
    assert (theirs.argmax(1) == ours.argmax(1)).mean() >= 0.99
    assert np.abs(theirs - ours).mean() < 0.03 * ours.std()
    float_accuracy = (np.asarray(pruned(inputs)).argmax(1) == classes).mean()
    assert float_accuracy > 0.8
    assert (theirs.argmax(1) == classes).mean() > float_accuracy - 0.02


def test_zeros_are_in_the_file(models):
    pruned, aware = models
    content = convert(aware)
    interpreter = litert.Interpreter(model_content=content)
    shares = {}
    for tensor in interpreter.get_tensor_details():
        shape = tuple(int(n) for n in tensor["shape"])
        if tensor["dtype"] == np.int8 and "parameters" not in tensor["name"]:
            try:
                values = interpreter.get_tensor(tensor["index"])
            except ValueError:
                continue  # an activation: no value yet
            shares.setdefault(shape, []).append(float((values == 0).mean()))
    expected = {
        w.shape[::-1] if "kernel" in w.path else w.shape: sparsity(aware)[w.path]
        for w in aware.trainable_weights
        if len(w.shape) == 2 and sparsity(aware)[w.path] > 0.5
    }
    assert len(expected) >= 6
    for shape, share in expected.items():
        assert any(abs(x - share) < 0.02 for x in shares[shape]), (shape, shares)
    dense = quantize_model(pruned, sequence_length=LENGTH, preserve_sparsity=False)
    for weight in dense.trainable_weights:
        values = weight.numpy()
        noise = np.random.default_rng(1).normal(size=values.shape) * values.std()
        weight.assign(np.where(values == 0, noise, values))
    calibrate(dense, [examples(64, 2)])
    other = convert(dense)
    assert len(gzip.compress(content)) < 0.85 * len(gzip.compress(other))
    assert abs(len(content) - len(other)) < 0.05 * len(other)


def test_keras_hub_and_stock_attention_convert():
    hub = pytest.importorskip("keras_hub", reason="converts KerasHub's models")
    backbone = hub.models.BertBackbone(
        vocabulary_size=101,
        num_layers=2,
        num_heads=2,
        hidden_dim=22,
        intermediate_dim=29,
        max_sequence_length=LENGTH,
    )
    for weight in backbone.weights:
        weight.assign(weight * 5 if len(weight.shape) > 1 else weight)
    logits = keras.layers.Dense(4)(backbone.output["pooled_output"])
    hub_model = keras.Model(backbone.input, logits)
    ids = keras.Input((LENGTH,), dtype="int32", name="token_ids")
    x = keras.layers.Embedding(101, 22)(ids)
    x = keras.layers.MultiHeadAttention(2, 11)(x, x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    stock_model = keras.Model({"token_ids": ids}, keras.layers.Dense(4)(x))
    inputs, _ = examples(64, 6)
    for model in (hub_model, stock_model):
        own = {tensor.name: inputs[tensor.name] for tensor in model.inputs}
        aware = calibrate(quantize_model(model, sequence_length=LENGTH), [own])
        content = convert(aware)
        counts = operators(content)
        for name in ("FULLY_CONNECTED", "BATCH_MATMUL", "SOFTMAX"):
            assert set(counts[name]) == {"int8"}, (name, counts[name])
        ours = np.asarray(aware(own))
        assert np.abs(run(content, own) - ours).mean() < 0.05 * ours.std()
