"""Layers that are called many times: one WHILE operator, and the same numbers."""

import keras
import numpy as np
import pytest
from conftest import LENGTH, SIZES, make_examples

from keras_tformer import export, models
from keras_tformer.export.tracing import input_specs, serving_function

litert = pytest.importorskip(
    "ai_edge_litert.interpreter", reason="the files are proved on ai_edge_litert"
)
ALBERT = SIZES | {"embedding_dim": 19, "initializer_range": 0.2}


def albert(**more):
    return models.albert_encoder(**ALBERT | more)


def nested(encoder):
    """The encoder as a layer of another model."""
    inputs = {
        name: keras.Input((None,), dtype="int32", name=name) for name in encoder.input
    }
    return keras.Model(inputs, keras.layers.Dense(3)(encoder(inputs)["pooled_output"]))


def with_implicit_masks():
    """A shared layer that reads the mask which an `Embedding` attaches."""
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    x = keras.layers.Embedding(53, 6, mask_zero=True)(ids)
    shared = keras.layers.LSTM(6, return_sequences=True)
    for _ in range(4):
        x = shared(x)
    return keras.Model({"token_ids": ids}, x)


def with_a_reader_between():
    """Calls in a row whose outputs something else reads, too."""
    x = inputs = keras.Input((5,), name="token_ids", dtype="int32")
    shared, total = keras.layers.Dense(5), 0.0
    for _ in range(4):
        x = shared(x)
        total = total + x
    return keras.Model({"token_ids": inputs}, total)


def backbone():
    keras_hub = pytest.importorskip("keras_hub", reason="another library's model")
    sizes = {name: ALBERT[name] for name in ("vocabulary_size", "num_heads")}
    return keras_hub.models.AlbertBackbone(
        num_layers=5,
        hidden_dim=34,
        embedding_dim=19,
        intermediate_dim=37,
        max_sequence_length=17,
        **sizes,
    )


GRAPHS = {  # name: (function that makes a model, loops in its graph)
    "albert": (lambda: albert(num_layers=6), 1),
    "two_groups": (lambda: albert(num_layers=6, num_groups=2), 2),
    "blocks_in_turn": (lambda: albert(num_layers=3, num_inner_repetitions=2), 1),
    "nested": (lambda: nested(albert(num_layers=4)), 1),
    "keras_hub": (backbone, 1),
    "too_few": (lambda: albert(num_layers=2), 0),
    "other_blocks": (lambda: models.bert_encoder(num_layers=4, **SIZES), 0),
    "states_are_read": (lambda: albert(num_layers=4, return_hidden_states=True), 0),
    "sums_are_read": (with_a_reader_between, 0),
    "implicit_masks": (with_implicit_masks, 0),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_graph_has_loops_where_calls_repeat(name):
    build, loops = GRAPHS[name]
    model = build()
    length = 5 if name == "sums_are_read" else LENGTH
    rows = make_examples(7, length)
    specs = input_specs(model, 7, length)
    function = serving_function(model, specs, in_loops=True)
    kinds = [part.type for part in function.graph.get_operations()]
    recurrences = 4 if name == "implicit_masks" else 0  # Keras' own
    assert kinds.count("While") + kinds.count("StatelessWhile") == loops + recurrences
    inputs = {name: rows[name] for name in specs}
    answers = function(**{name: keras.ops.array(x) for name, x in inputs.items()})
    expected = model.predict(inputs, verbose=0)
    expected = expected if isinstance(expected, dict) else {"output": expected}
    for name, values in answers.items():
        if name in expected:
            np.testing.assert_allclose(values, expected[name], atol=1e-5)


@pytest.fixture(scope="module")
def wide():
    """Five calls of a block whose weights are most of the model."""
    keras.utils.set_random_seed(11)
    sizes = {"hidden_dim": 128, "intermediate_dim": 512, "initializer_range": 0.05}
    return models.sequence_classifier(albert(num_layers=5, **sizes), num_classes=3)


@pytest.mark.slow
@pytest.mark.parametrize("quantization", [None, "float16", "dynamic_range", "int8"])
def test_a_loop_answers_as_calls_one_by_one(wide, examples, tmp_path, quantization):
    # Without the argument neither these few calls nor int8 files have a loop.
    unrolled, loop = (
        export.to_tflite(
            wide,
            tmp_path / f"{argument}.tflite",
            sequence_length=LENGTH,
            quantization=quantization,
            representative_data=examples,
            loop_shared_layers=argument,
        )
        for argument in (None, True)
    )
    assert "WHILE" not in unrolled["operators"]
    assert sum(loop["operators"]["WHILE"].values()) == 1
    assert loop["num_operators"] < 0.5 * unrolled["num_operators"]
    # The products of all rounds, counted from the loop's own bounds. One by one, the
    # last call makes the first position alone, but for its keys and values.
    macs = 13 * (4 * 128 * 128 + 2 * 128 * 512) + 2 * 13 * 13 * 128
    spared = 12 * (2 * 128 * 128 + 2 * 128 * 512) + 2 * 12 * 13 * 128
    assert loop["macs"] - unrolled["macs"] == spared
    assert 5 * macs < loop["macs"] < 5.1 * macs
    # Around the loop; in float16 one more, for the cut of the last call's positions.
    pieces = 3 if quantization == "float16" else 2
    assert loop["delegate_partitions"] <= unrolled["delegate_partitions"] + pieces
    expected = wide.predict(examples, verbose=0)
    limit = {None: 1e-5, "float16": 2e-3}.get(quantization, 0.1)
    for report in (unrolled, loop):
        interpreter = litert.Interpreter(model_path=report["file"])
        run = interpreter.get_signature_runner("serving_default")
        rows = [
            run(**{name: x[i : i + 1] for name, x in examples.items()})["output"]
            for i in range(67)
        ]
        difference = np.abs(np.concatenate(rows) - expected).mean()
        assert difference < limit * expected.std()


@pytest.mark.parametrize(("num_layers", "loops"), [(8, 0), (9, 1)])
@pytest.mark.parametrize("head", ["sequence_classifier", "token_classifier"])
def test_short_loops_are_for_heads_that_read_all(head, num_layers, loops, tmp_path):
    model = getattr(models, head)(albert(num_layers=num_layers), num_classes=3)
    report = export.to_tflite(model, tmp_path / "model.tflite", LENGTH, verify=False)
    loops = 1 if head == "token_classifier" else loops
    assert sum(report["operators"].get("WHILE", {}).values()) == loops


@pytest.mark.slow
def test_a_loop_takes_the_memory_of_one_block(wide, tmp_path):
    """XNNPACK packs the weights of every operator: five times, or once."""
    bytes_of = {}
    for in_loop in (False, True):
        file = tmp_path / f"{in_loop}.tflite"
        export.to_tflite(wide, file, LENGTH, loop_shared_layers=in_loop, verify=False)
        result = export.benchmark(file, num_threads=1, repetitions=1)
        bytes_of[in_loop] = result["process_bytes"]
    if bytes_of[True] is None:
        pytest.skip("the system does not tell what a process takes")
    block = 4 * (4 * 128 * 128 + 2 * 128 * 512)
    assert bytes_of[False] - bytes_of[True] > 3 * block


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "called 3 times or more in a row"),
        ({"quantization": "int16x8"}, "have no loops"),
        ({"max_length": 7}, "have no loops"),
    ],
)
def test_a_loop_that_cannot_be(classifier, examples, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        export.to_tflite(
            classifier,
            tmp_path / "model.tflite",
            sequence_length=LENGTH,
            representative_data=examples,
            loop_shared_layers=True,
            **arguments,
        )
    assert not list(tmp_path.iterdir())


def test_int8_loops_of_a_layer_that_is_called_elsewhere_are_refused(tmp_path):
    x = keras.Input((34,), name="x")
    shared = keras.layers.Dense(34, name="shared")
    y = shared(shared(shared(shared(x))))
    model = keras.Model({"x": x}, shared(keras.layers.Dense(34)(y)))
    with pytest.raises(ValueError, match="shared is called elsewhere"):
        export.to_tflite(
            model,
            tmp_path / "model.tflite",
            quantization="int8",
            representative_data={"x": np.ones((50, 34), "float32")},
            loop_shared_layers=True,
        )
