"""Keras model -> `.tflite` file, proved on the runtime before it is left behind."""

import contextlib
import json
import os
import tempfile
import warnings

import numpy as np

from keras_tformer.export.batches import numpy_batches, random_batch
from keras_tformer.export.files import gzip_size, make_parent, replaced_file, sha256
from keras_tformer.export.reporting import inspect_file
from keras_tformer.export.saved_model import check_class_names, vocabulary_name
from keras_tformer.export.tracing import (
    check_exportable,
    check_sequence_length,
    input_specs,
    is_fake_quantized,
    leaf_layers,
    model_variables,
    serving_function,
)
from keras_tformer.export.verification import verify as verify_artefact

MODES = (None, "float16", "dynamic_range", "int8", "int16x8")

# What a right file stays well below and a wrong one passes: rounding for the float
# files (largest difference), a share of the output's own spread for the others (mean).
TOLERANCES = {
    None: 1e-4,
    "float16": 1e-2,
    "dynamic_range": 0.1,
    "int8": 0.15,
    "int16x8": 0.1,
}
ADVICE = {
    None: "Please report the model: a float file should be exact.",
    "float16": "Values beyond 65504 do not fit into half precision: use None.",
    "dynamic_range": "Use 'float16', or train it through compress.quantize_model.",
    "int8": (
        "Give more and more typical representative_data, keep mask constants near -30 "
        "(-1e9 leaves all scores in one of 256 steps), train it through "
        "compress.quantize_model, or use 'dynamic_range'."
    ),
    "int16x8": "Give more representative_data, or use 'dynamic_range'.",
}
CALIBRATION_EXAMPLES = 200
VERIFICATION_EXAMPLES = 64


def to_tflite(
    model,
    file,
    sequence_length=128,
    batch_size=1,
    quantization=None,
    representative_data=None,
    tokenizer=None,
    class_names=None,
    verify=True,
    tolerance=None,
    sparse=False,
):
    """Write a model as a `.tflite` file that is proved to compute the same.

    All shapes are fixed, inputs and outputs keep their names in the signature
    `serving_default`, and only LiteRT's builtin operators are used. Before the file
    is left behind it runs on `ai_edge_litert` beside the Keras model; a file that
    computes something else is not written.

    Args:
        model: a built functional or Sequential `keras.Model` in float32.
        file: path to write; an older file is replaced.
        sequence_length: T, the length of every input.
        batch_size: B, rows a call.
        quantization: None (float32), `"float16"` (weights in half precision),
            `"dynamic_range"` (weights int8, activations float), `"int8"` (weights and
            activations int8: learned ranges of a quantization-aware model, or
            post-training from `representative_data`) or `"int16x8"` (activations
            int16, weights int8, post-training).
        representative_data: real examples (see `predict` for the forms) that measure
            the activations' ranges; the first 200 are used. A quantization-aware
            model needs none; with it, what has no learned range becomes int8, too.
        tokenizer: a tokenizer of `keras_tformer.text`, written beside the file
            (`vocab.txt`).
        class_names: list of C strings. With a tokenizer or class names, a card
            `<file>.json` says how to feed the file and read its answer.
        verify: compare the file with the model, on 64 representative examples or, where
            none are given, on random ids.
        tolerance: largest difference allowed. For None and `"float16"` absolute (in
            units of the largest output where that is above 1; 1e-4, 1e-2), else the
            mean difference in standard deviations of the output (0.1; int8 0.15).
        sparse: store zeros of pruned kernels sparsely; None and `"int8"` only.

    Returns:
        A dict: that of `report` and `quantization`, `is_quantization_aware`,
        `sequence_length`, `batch_size`, `parameters`, `sha256`, `verification` (the
        result of `verify`, or None), `vocabulary` and `card` (paths, or None).

    Raises:
        ValueError: the model, the words or the data do not fit (the message says what
            to change), the file cannot be written, or it fails the comparison.
        RuntimeError: the converter has no builtin operator for something.

    Example:
        >>> import keras, tempfile
        >>> ids = keras.Input((None,), dtype="int32", name="token_ids")
        >>> hidden = keras.layers.Embedding(11, 7)(ids)
        >>> hidden = keras.layers.GlobalAveragePooling1D()(hidden)
        >>> model = keras.Model({"token_ids": ids}, keras.layers.Dense(3)(hidden))
        >>> file = tempfile.mkdtemp() + "/model.tflite"
        >>> result = to_tflite(model, file, sequence_length=5)
        >>> result["verification"]["largest_difference"] < 1e-4
        True
    """
    _check_words(quantization, sparse)
    check_exportable(model)
    _check_precision(model)
    check_sequence_length(model, sequence_length)
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"Received batch_size={batch_size!r}, expected 1 or more.")
    file = make_parent(file)
    specs = input_specs(model, batch_size, sequence_length)
    shapes = {name: tuple(spec.shape) for name, spec in specs.items()}
    function = serving_function(model, specs, with_plain_gather=True)
    check_class_names(function, class_names)
    is_aware = is_fake_quantized(function)
    _check_mode(quantization, is_aware, representative_data)
    examples = _examples(representative_data, shapes, specs)
    content = _convert(
        model, function, quantization, is_aware, sparse, examples, shapes
    )
    verification = None
    with replaced_file(file) as temporary:
        with open(temporary, "wb") as stream:
            stream.write(content)
        if verify:
            data = examples or random_batch(model, shapes)
            verification = _verify(temporary, model, data, quantization, tolerance)
        result = {
            "file": file,
            "quantization": quantization,
            "is_quantization_aware": is_aware,
            "sequence_length": sequence_length,
            "batch_size": batch_size,
            "parameters": model.count_params(),
            **{k: v for k, v in inspect_file(temporary).items() if k != "file"},
            "gzip_bytes": gzip_size(temporary),
            "sha256": sha256(temporary),
            "verification": verification,
            **_write_companions(file, tokenizer, class_names),
        }
        if result["card"] is not None:
            _write_card(result, tokenizer, class_names)
    return result


def _check_words(quantization, sparse):
    if quantization not in MODES:
        raise ValueError(
            f"Received quantization={quantization!r}, expected one of "
            f"{', '.join(map(repr, MODES))}."
        )
    if sparse and quantization not in (None, "int8"):
        raise ValueError(
            f"sparse=True with quantization={quantization!r} is refused: such files do "
            "not load, or compute wrong numbers under LiteRT's default delegate. Use "
            "sparse=False (gzip shrinks the zeros as well), or quantization=None or "
            "'int8'."
        )


def _check_precision(model):
    for layer in leaf_layers(model):
        if layer.compute_dtype not in ("float32", None) and layer.weights:
            raise ValueError(
                f"The layer {layer.name!r} computes in {layer.compute_dtype}; LiteRT "
                "wants float32. Build the model again under "
                "keras.config.set_dtype_policy('float32') and hand the weights over: "
                "new_model.set_weights(model.get_weights())."
            )


def _check_mode(quantization, is_aware, representative_data):
    if is_aware and quantization != "int8":
        raise ValueError(
            f"The model is quantization-aware, received quantization={quantization!r}. "
            "Use quantization='int8', or export the float model that it was made from."
        )
    if quantization == "int16x8" or (quantization == "int8" and not is_aware):
        if representative_data is None:
            raise ValueError(
                f"quantization={quantization!r} measures the activations' ranges on "
                "examples, but representative_data is None. Give some hundred real "
                "examples, or use quantization='dynamic_range', which needs none."
            )


def _examples(representative_data, shapes, specs):
    """Up to 200 rows as one dict of arrays in the signature's dtypes, or None."""
    if representative_data is None:
        return None
    free = {name: (None, *shape[1:]) for name, shape in shapes.items()}
    parts = [
        inputs
        for inputs, _, _ in numpy_batches(
            representative_data, free, CALIBRATION_EXAMPLES
        )
    ]
    if not parts:
        raise ValueError(
            "representative_data is empty. Expected some hundred real examples (a "
            "generator that was used up before yields none)."
        )
    return {
        name: np.concatenate([part[name] for part in parts]).astype(
            spec.dtype.as_numpy_dtype
        )
        for name, spec in specs.items()
    }


def _convert(model, function, quantization, is_aware, sparse, examples, shapes):
    import tensorflow as tf

    module = tf.Module()
    module.model_variables = model_variables(model, [function])
    with tempfile.TemporaryDirectory() as scratch:
        # Through a SavedModel on disk: the other routes lose names or weights.
        tf.saved_model.save(module, scratch, signatures={"serving_default": function})
        converter = tf.lite.TFLiteConverter.from_saved_model(
            scratch, signature_keys=["serving_default"]
        )
        _set_mode(tf, converter, quantization, is_aware, sparse)
        if examples is not None and quantization in ("int8", "int16x8"):
            converter.representative_dataset = _feed(examples, shapes)
        try:
            with warnings.catch_warnings():
                # The converter calibrates with its own interpreter, not by our choice.
                warnings.filterwarnings("ignore", r"(?s).*tf\.lite\.Interpreter is dep")
                return converter.convert()
        except Exception as error:
            raise RuntimeError(
                f"TensorFlow's converter refused the model {model.name!r} with "
                f"quantization={quantization!r}: {_first_lines(error)}"
            ) from error


def _set_mode(tf, converter, quantization, is_aware, sparse):
    builtins = tf.lite.OpsSet.TFLITE_BUILTINS
    converter.target_spec.supported_ops = [builtins]
    optimizations = [] if quantization is None else [tf.lite.Optimize.DEFAULT]
    if sparse:
        optimizations.append(tf.lite.Optimize.EXPERIMENTAL_SPARSITY)
    converter.optimizations = optimizations
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantization == "int16x8":
        # Integer inputs and what has no 16 bit kernel stay as they are.
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
            builtins,
        ]
    if is_aware and hasattr(converter, "_experimental_qdq_conversion_mode"):
        # Without it the converter fails on kernels with a range for each channel.
        converter._experimental_qdq_conversion_mode = "STATIC"


def _feed(examples, shapes):
    rows = next(iter(shapes.values()))[0]

    def feed():
        total = len(next(iter(examples.values())))
        for start in range(0, total, rows):
            take = np.arange(start, start + rows) % total
            yield {name: array[take] for name, array in examples.items()}

    return feed


def _first_lines(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "error:" in line or "ops:" in line]
    return " ".join((telling or lines)[:4])[:800]


def _verify(file, model, data, quantization, tolerance):
    tolerance = TOLERANCES[quantization] if tolerance is None else tolerance
    absolute = quantization in (None, "float16")
    try:
        return verify_artefact(
            file,
            model,
            data,
            tolerance=tolerance if absolute else None,
            relative_tolerance=None if absolute else tolerance,
            max_examples=VERIFICATION_EXAMPLES,
        )
    except ValueError as error:
        raise ValueError(
            f"No file was written (quantization={quantization!r}). {error} "
            f"{ADVICE[quantization]}"
        ) from error


def _write_companions(file, tokenizer, class_names):
    vocabulary = card = None
    if tokenizer is not None:
        vocabulary = os.path.join(os.path.dirname(file), vocabulary_name(tokenizer))
        with replaced_file(vocabulary) as temporary:
            tokenizer.save(temporary)
    if tokenizer is not None or class_names is not None:
        card = os.path.splitext(file)[0] + ".json"
    return {"vocabulary": vocabulary, "card": card}


def _write_card(result, tokenizer, class_names):
    """What an app needs beside the file: how to feed it, how to read its answer."""
    card = {
        "file": os.path.basename(result["file"]),
        "sha256": result["sha256"],
        "size_bytes": result["size_bytes"],
        "quantization": result["quantization"],
        "sequence_length": result["sequence_length"],
        "batch_size": result["batch_size"],
        "inputs": result["inputs"],
        "outputs": result["outputs"],
        "classes": None if class_names is None else list(class_names),
        "vocabulary": None,
    }
    if tokenizer is not None:
        card["vocabulary"] = os.path.basename(result["vocabulary"])
        card["tokenizer"] = type(tokenizer).__name__
        for key in ("lowercase", "start_id", "end_id", "padding_id", "unknown_id"):
            with contextlib.suppress(AttributeError):
                card[key] = getattr(tokenizer, key)
    with replaced_file(result["card"]) as temporary:
        with open(temporary, "w", encoding="utf-8") as stream:
            json.dump(card, stream, indent=2, ensure_ascii=False)
            stream.write("\n")
