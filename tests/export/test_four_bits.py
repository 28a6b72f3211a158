"""4-bit kernels: the file is right, and LiteRT's own kernel rounds twice."""

import keras
import numpy as np
import pytest

from keras_tformer import compress, export

if keras.backend.backend() != "tensorflow":
    pytest.skip("conversion needs TensorFlow", allow_module_level=True)
litert = pytest.importorskip(
    "ai_edge_litert.interpreter", reason="runs the converted file"
)


def test_a_table_keeps_eight_bits(tmp_path):
    """LiteRT looks up no rows of four."""
    ids = keras.Input((7,), dtype="int32", name="token_ids")
    hidden = keras.layers.Flatten()(keras.layers.Embedding(53, 24)(ids))
    model = keras.Model({"token_ids": ids}, keras.layers.Dense(23)(hidden))
    aware = compress.quantize_model(model, weights="int4_per_channel")
    rows = np.random.default_rng(3).integers(0, 53, (64, 7)).astype("int32")
    compress.calibrate(aware, [{"token_ids": rows}])
    report = export.to_tflite(
        aware,
        tmp_path / "model.tflite",
        sequence_length=7,
        quantization="int8",
        representative_data={"token_ids": rows},
    )
    # 53 x 24 in 8 bits, 168 x 23 in 4.
    assert report["weight_bytes"]["int8"] == 53 * 24
    assert report["weight_bytes"]["int4"] == 168 * 23 // 2


@pytest.mark.parametrize("width", [16, 17])
def test_off_by_a_step_at_most_and_only_in_an_odd_width(width, tmp_path):
    inputs = keras.Input((width,), name="inputs")
    model = keras.Model(inputs, keras.layers.Dense(23, name="outputs")(inputs))
    aware = compress.quantize_model(model, weights="int4_per_channel")
    rows = np.random.default_rng(width).normal(size=(512, width)).astype("float32")
    compress.calibrate(aware, [rows])
    file = tmp_path / "model.tflite"
    export.to_tflite(aware, file, quantization="int8", representative_data=rows)
    expected = aware.predict(rows, verbose=0)
    step = np.diff(np.unique(expected.round(5))).min()

    def off(resolver):
        interpreter = litert.Interpreter(
            str(file), experimental_op_resolver_type=resolver
        )
        runner = interpreter.get_signature_runner()
        found = [runner(inputs=row[None])["output"] for row in rows]
        return np.abs(np.concatenate(found) - expected) / step

    reference = off(litert.OpResolverType.BUILTIN_REF)
    usual = off(litert.OpResolverType.AUTO)
    # A number within float rounding of a half step may go either way.
    assert np.mean(reference > 0.5) < 1e-3
    assert reference.max() < 1.1 and usual.max() < 1.1
    # XNNPACK leaves odd widths to a kernel that rounds twice: 3 % of the outputs here.
    assert np.mean(usual > 0.5) < (0.06 if width % 2 else 1e-3)
