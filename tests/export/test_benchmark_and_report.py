import json
import sys

import keras
import numpy as np
import pytest

from keras_tformer import export, models
from keras_tformer.export.__main__ import main
from keras_tformer.export.prediction import make_interpreter
from keras_tformer.export.reporting import digits

# B 1, T 13, D 34, F 37, C 3, one layer, keys and values of all tokens and the rest of
# the first one, which the classifier reads; counted by hand.
TOKEN = 13 * 2 * 34 * 34 + 2 * 34 * 34 + 2 * 34 * 37
ATTENTION = 2 * 1 * 13 * 34
HEADS = 34 * 34 + 34 * 3


def test_report_counts(tflite_file, capsys):
    result = export.report(tflite_file)
    assert result["macs"] == TOKEN + ATTENTION + HEADS
    assert result["macs_by_dtype"] == {"float32": result["macs"]}
    assert result["size_bytes"] == tflite_file.stat().st_size
    assert 0 < result["gzip_bytes"] < result["size_bytes"]
    assert result["operators"]["BATCH_MATMUL"] == {"float32": 2}
    assert result["inputs"]["token_ids"] == {"shape": [1, 13], "dtype": "int32"}
    assert result["outputs"]["output"] == {"shape": [1, 3], "dtype": "float32"}
    # At least the widest pair of tensors that one operator reads and writes.
    assert result["activation_bytes"] >= 4 * 13 * (34 + 37)
    # What is compared with other exporters: operators, and pieces for the delegate.
    assert result["num_operators"] == sum(
        sum(kinds.values()) for kinds in result["operators"].values()
    )
    assert result["delegate_partitions"] == 1
    printed = capsys.readouterr().out
    assert "BATCH_MATMUL" in printed and "pieces that XNNPACK takes" in printed


@pytest.mark.slow
def test_zeros_of_a_table_with_a_zero_point(tmp_path):
    """Post-training int8 stores 0 as -64 or so where values lie to one side."""
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    table = keras.layers.Embedding(101, 34)
    model = keras.Model({"token_ids": ids}, keras.layers.Dense(3)(table(ids)))
    generator = np.random.default_rng(7)
    values = generator.uniform(-0.3, 0.9, (101, 34))
    table.embeddings.assign(values * (generator.random((101, 34)) < 0.3))
    report = export.to_tflite(
        model,
        tmp_path / "model.tflite",
        sequence_length=5,
        quantization="int8",
        representative_data={"token_ids": generator.integers(0, 101, (40, 5))},
    )
    assert abs(report["zeros"] - 0.7 * 101 / (101 + 3)) < 0.03


def test_report_without_rich(tflite_file, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    export.report(tflite_file)
    assert "BATCH_MATMUL" in capsys.readouterr().out


def test_operators_agree_with_the_runtime(tflite_file):
    litert = pytest.importorskip("ai_edge_litert.interpreter", reason="LiteRT")
    interpreter = litert.Interpreter(
        model_path=str(tflite_file),
        experimental_op_resolver_type=(
            litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        ),
    )
    names = [detail["op_name"] for detail in interpreter._get_ops_details()]
    operators = export.report(tflite_file, show=False)["operators"]
    assert {name: sum(kinds.values()) for name, kinds in operators.items()} == {
        name: names.count(name) for name in set(names)
    }


def test_partitions(tmp_path):
    """XNNPACK has no kernel for running sums: they cut what it takes over in two."""
    x = keras.Input((5,), name="x")
    hidden = keras.layers.Dense(3)(x)
    counts = []

    def running_sum(x):
        return keras.ops.cumsum(x, axis=1)

    for between in (keras.ops.tanh, running_sum):
        model = keras.Model(x, keras.layers.Dense(2)(between(hidden)))
        report = export.to_tflite(model, tmp_path / "model.tflite", verify=False)
        report = export.report(report["file"], show=False)
        counts.append(report["delegate_partitions"])
    assert counts == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "albert"])
def test_graph_is_no_larger_than_keras_hubs(kind, tmp_path):
    """Operators and delegate pieces beside those of KerasHub's own export."""
    keras_hub = pytest.importorskip("keras_hub", reason="the other exporter")
    sizes = {
        "vocabulary_size": 53,
        "num_layers": 3,
        "num_heads": 2,
        "hidden_dim": 34,
        "intermediate_dim": 37,
        "max_sequence_length": 17,
    } | ({"embedding_dim": 19} if kind == "albert" else {})
    classes = keras_hub.models.BertBackbone, keras_hub.models.AlbertBackbone
    theirs = classes[kind == "albert"](**sizes)
    ours = getattr(models, f"{kind}_encoder")(**sizes)
    generator = np.random.default_rng(7)
    for weight in ours.weights + theirs.weights:  # nothing to fold at 1 and 0
        weight.assign(weight.numpy() + generator.normal(0, 0.1, weight.shape))
    specs = {
        name: keras.InputSpec(shape=(1, 13), dtype="int32", name=name)
        for name in theirs.input
    }
    file = str(tmp_path / "theirs.tflite")
    theirs.export(file, format="litert", verbose=False, input_signature=[specs])
    peer = export.report(file, show=False)
    for in_loop in (False, True) if kind == "albert" else (None,):
        file = tmp_path / "ours.tflite"
        report = export.to_tflite(ours, file, 13, loop_shared_layers=in_loop)
        assert report["num_operators"] <= peer["num_operators"]
        assert report["delegate_partitions"] <= peer["delegate_partitions"]


def test_benchmark(tflite_file, tmp_path, capsys):
    picture = tmp_path / "new" / "report.png"
    result = export.benchmark(
        tflite_file,
        num_threads=(1, 2),
        repetitions=7,
        warmup=1,
        show=True,
        picture=picture,
    )
    assert set(result["latency"]) == {1, 2}
    for times in result["latency"].values():
        assert 0 < times["best_ms"] <= times["median_ms"] <= times["p90_ms"]
        assert np.isfinite(times["p90_ms"])
    assert result["macs"] > 0 and result["runtime"]
    assert result["delegate_partitions"] >= 1
    if sys.platform == "linux":  # the weights are packed anew in the process's memory
        assert 100_000 < result["process_bytes"] < 100_000_000
    assert "latency, 2 thread(s)" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_inspect_from_the_shell(tflite_file, tmp_path, capsys):
    picture = tmp_path / "report.png"
    main(["inspect", str(tflite_file), "--picture", str(picture)])
    assert "multiply-accumulates" in capsys.readouterr().out
    assert picture.stat().st_size > 5000
    main(["inspect", str(tflite_file), "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed == export.report(tflite_file, show=False)
    with pytest.raises(SystemExit, match="2"):
        main(["inspect", str(tmp_path / "nothing.tflite")])
    assert "There is no file at" in capsys.readouterr().err


@pytest.mark.slow
def test_operators_are_those_of_one_signature(classifier, tflite_file, tmp_path):
    file = tmp_path / "model.tflite"
    both = export.to_tflite(classifier, file, sequence_length=(13, 7))
    alone = export.report(tflite_file, show=False)
    assert both["signatures"] == ["serving_default", "shorter_7"]
    assert both["macs"] == alone["macs"]
    assert both["operators"] == alone["operators"]
    assert both["inputs"] == alone["inputs"]
    # What runs without a signature's name, and is timed, is the same one.
    (shape,) = {
        tuple(detail["shape"])
        for detail in make_interpreter(str(file))[0].get_input_details()
    }
    assert shape == (1, 13)


def test_errors(tmp_path, tflite_file):
    with pytest.raises(ValueError, match="no file"):
        export.report(tmp_path / "nothing.tflite")
    (tmp_path / "text.tflite").write_text("not a flatbuffer")
    with pytest.raises(ValueError, match="not a TFLite file"):
        export.report(tmp_path / "text.tflite")
    with pytest.raises(ValueError, match="positive"):
        export.benchmark(tflite_file, repetitions=0)
    with pytest.raises(ValueError, match="positive"):
        export.benchmark(tflite_file, num_threads=())
    for name, value in (
        ("num_threads", "2"),
        ("num_threads", (1.5,)),
        ("num_threads", True),
        ("repetitions", 2.5),
        ("warmup", -1),
        ("use_default_delegate", 1),
    ):
        with pytest.raises(ValueError, match=f"Received {name}="):
            export.benchmark(tflite_file, **{name: value})


def test_numbers_of_numpy(tflite_file, classifier, examples):
    one, two = np.array([1, 2])
    result = export.benchmark(
        tflite_file, one, repetitions=two, warmup=one, use_default_delegate=np.True_
    )
    assert list(result["latency"]) == [1] and result["use_default_delegate"] is True
    some = {"num_threads": two, "use_default_delegate": np.False_}
    assert len(export.predict(tflite_file, examples, **some)["output"]) == 67
    result = export.verify(
        tflite_file, classifier, examples, max_examples=np.int64(5), **some
    )
    assert result["examples"] == 5 and result["num_threads"] == 2


def test_convolutions_are_products(tmp_path):
    """By hand: 5 x 6 places, 3 x 2 kernels; 7 of 4 channels, then one of each."""
    x = keras.Input((7, 7, 4), name="x")
    hidden = keras.layers.Conv2D(7, (3, 2))(x)  # (B, 5, 6, 7)
    y = keras.layers.DepthwiseConv2D((3, 2))(hidden)  # (B, 3, 5, 7)
    model = keras.Model({"x": x}, y)
    report = export.to_tflite(model, tmp_path / "model.tflite", verify=False)
    assert set(report["operators"]) == {"CONV_2D", "DEPTHWISE_CONV_2D"}
    assert report["macs"] == 5 * 6 * 7 * 3 * 2 * 4 + 3 * 5 * 7 * 3 * 2


def test_digits():
    values = [0, 0.0049869, 0.98765, 5.4321, 54.321, 543.21, 5432.1]
    shown = ["0", "0.00499", "0.988", "5.43", "54.3", "543", "5,432"]
    assert [digits(value) for value in values] == shown
