import sys

import numpy as np
import pytest

from keras_tformer import export

# B 1, T 13, D 34, F 37, C 3, one layer; counted by hand.
TOKEN = 13 * (4 * 34 * 34 + 2 * 34 * 37)
ATTENTION = 2 * 13 * 13 * 34
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
    assert "BATCH_MATMUL" in capsys.readouterr().out


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


def test_benchmark(tflite_file):
    result = export.benchmark(tflite_file, num_threads=(1, 2), repetitions=7, warmup=1)
    assert set(result["latency"]) == {1, 2}
    for times in result["latency"].values():
        assert 0 < times["best_ms"] <= times["median_ms"] <= times["p90_ms"]
        assert np.isfinite(times["p90_ms"])
    assert result["macs"] > 0 and result["runtime"]


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
