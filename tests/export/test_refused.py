"""What makes no file: the error says why, and nothing is left behind."""

import keras
import numpy as np
import pytest
from conftest import LENGTH

from keras_tformer import export, text

pytest.importorskip("ai_edge_litert", reason="the files are proved on ai_edge_litert")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"quantization": "int4"}, "expected one of None"),
        ({"sequence_length": 19}, "positions for 17 tokens"),
        ({"sequence_length": 0}, "whole number of 1 or more"),
        ({"sequence_length": 7.0}, "sequence_length=7.0, expected a whole number"),
        ({"sequence_length": (7, True)}, "sequence_length=True"),
        ({"sequence_length": None}, r"open shape \(1, None\)"),
        ({"sequence_length": None, "quantization": "int8"}, "open shape"),
        ({"sequence_length": (7, 7)}, "several different ones"),
        ({"sequence_length": ()}, "several different ones"),
        ({"sequence_length": (7, 19)}, "positions for 17 tokens"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"quantization": "int8"}, "representative_data is None"),
        ({"quantization": "int16x8"}, "representative_data is None"),
        ({"quantization": "int8", "representative_data": []}, "is empty"),
        ({"quantization": "dynamic_range", "sparse": True}, "refused"),
        ({"quantization": "int16x8", "sequence_length": (7, 13)}, "whole process"),
        ({"quantization": "int8", "integer_only": True}, "ranges measured"),
        ({"integer_only": True}, "only int8 files"),
        ({"quantization": "float16", "sparse": True}, "refused"),
        ({"quantization": "int16x8", "sparse": True}, "refused"),
        ({"sparse": True, "verify": False}, "shows only when it runs"),
        ({"class_names": ["a", "b"]}, "2 class_names"),
        ({"class_names": [0, 1, 2]}, "Expected strings"),
        ({"tokenizer": "vocab.txt"}, "Expected a tokenizer"),
        (
            {"representative_data": {"token_ids": np.ones((2, 5))}},
            r"lacks the inputs \['padding_mask', 'segment_ids'\]",
        ),
    ],
)
def test_errors_leave_no_file(classifier, tmp_path, arguments, message):
    arguments = {"sequence_length": LENGTH} | arguments
    with pytest.raises(ValueError, match=message):
        export.to_tflite(classifier, tmp_path / "model.tflite", **arguments)
    assert not list(tmp_path.iterdir())


def test_numbers_of_numpy_are_taken(classifier, tmp_path):
    numbers = {"sequence_length": np.int64(LENGTH), "batch_size": np.int32(1)}
    report = export.to_tflite(classifier, tmp_path / "model.tflite", **numbers)
    assert report["inputs"]["token_ids"]["shape"] == [1, LENGTH]


def test_a_tokenizer_of_more_pieces_than_tokens(classifier, tmp_path):
    words = [f"word{number}" for number in range(5000)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = text.WordPieceTokenizer(special + words)
    for write in (export.to_tflite, export.to_saved_model):
        with pytest.raises(ValueError, match="5005 pieces, but .* a table of"):
            write(
                classifier,
                tmp_path / "model.tflite",
                sequence_length=LENGTH,
                tokenizer=tokenizer,
            )
    assert not list(tmp_path.iterdir())


def test_a_file_that_was_cut_off_is_told(tflite_file, tmp_path):
    file = tmp_path / "half.tflite"
    file.write_bytes(tflite_file.read_bytes()[: tflite_file.stat().st_size // 2])
    with pytest.raises(ValueError, match="cannot be read to its end"):
        export.report(file, show=False)


def test_models_that_cannot_be_converted(tmp_path):
    file = tmp_path / "model.tflite"
    with pytest.raises(ValueError, match="not built"):
        export.to_tflite(keras.Sequential([keras.layers.Dense(3)]), file)
    text = keras.Input((), dtype="string", name="text")
    with pytest.raises(ValueError, match="takes strings"):
        export.to_tflite(keras.Model(text, keras.layers.Identity()(text)), file)
    x = keras.Input((5,), name="x")
    model = keras.Model(x, keras.layers.Dense(3)(x))
    model.quantize("int8")
    with pytest.raises(ValueError, match="quantized by Keras itself"):
        export.to_tflite(model, file)
    fixed = keras.Input((7,), dtype="int32", name="token_ids")
    model = keras.Model(fixed, keras.layers.Embedding(11, 3)(fixed))
    with pytest.raises(ValueError, match="built for sequences of 7"):
        export.to_tflite(model, file, sequence_length=13)
    assert not list(tmp_path.iterdir())


def test_an_operator_that_phones_lack_is_named(tmp_path):
    import tensorflow as tf

    class Lower(keras.layers.Layer):
        def call(self, x):
            return tf.cast(tf.raw_ops.Betainc(a=x, b=x, x=x), "float32")

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, "float32")

    x = keras.Input((5,), name="x")
    file = tmp_path / "model.tflite"
    with pytest.raises(RuntimeError, match="Betainc"):
        export.to_tflite(keras.Model(x, Lower()(x)), file)
    assert not list(tmp_path.iterdir())


class Inverse(keras.layers.Layer):
    def call(self, x):
        import tensorflow as tf

        return tf.linalg.inv(x)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


def test_flex_operators_must_be_asked_for(tmp_path):
    x = keras.Input((3, 3), name="x")
    model, file = keras.Model(x, Inverse()(x)), tmp_path / "model.tflite"
    with pytest.raises(RuntimeError, match="MatrixInverse"):
        export.to_tflite(model, file, verify=False)
    with pytest.raises(ValueError, match="cannot run Flex"):
        export.to_tflite(model, file, flex_operators=True)
    arguments = {"flex_operators": True, "verify": False}
    with pytest.raises(ValueError, match="measure the ranges"):
        export.to_tflite(
            model,
            file,
            quantization="int8",
            representative_data={"x": np.ones((5, 3, 3), "float32")},
            **arguments,
        )
    assert not list(tmp_path.iterdir())
    report = export.to_tflite(model, file, **arguments)
    assert [name for name in report["operators"] if "MatrixInverse" in name]
    assert report["verification"] is None and report["delegate_partitions"] is None


def test_a_wrong_file_is_not_left_behind(classifier, examples, tmp_path):
    file = tmp_path / "model.tflite"
    file.write_bytes(b"the older file")
    with pytest.raises(ValueError, match="No file was written"):
        export.to_tflite(
            classifier,
            file,
            sequence_length=LENGTH,
            quantization="dynamic_range",
            tolerance=1e-9,
        )
    assert file.read_bytes() == b"the older file"
    assert list(tmp_path.iterdir()) == [file]


def test_a_disk_that_is_full_leaves_nothing(classifier, tmp_path):
    resource = pytest.importorskip("resource", reason="limits the size of a file")
    (tmp_path / "model.tflite").write_bytes(b"the older file")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        for write in (export.to_tflite, export.to_saved_model):
            with pytest.raises(ValueError, match="Cannot write .* File too large"):
                write(classifier, tmp_path / f"new-{write.__name__}", sequence_length=7)
        with pytest.raises(ValueError, match="Cannot write .*"):
            export.to_tflite(classifier, tmp_path / "model.tflite", sequence_length=7)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["model.tflite"]
    assert (tmp_path / "model.tflite").read_bytes() == b"the older file"


def test_a_folder_that_cannot_be_written(classifier, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="Cannot write to the folder"):
        export.to_tflite(classifier, tmp_path / "file" / "model.tflite")
