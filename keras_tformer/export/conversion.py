"""One call of TensorFlow's converter: graphs in, the bytes of a `.tflite` out."""

import itertools
import tempfile
import warnings

import numpy as np

from keras_tformer.export.files import full_disk_explained
from keras_tformer.export.flatbuffer import custom_operators, parse
from keras_tformer.export.float_operators import float_operators
from keras_tformer.export.kernels import rescale_what_sums_read, store_kernels
from keras_tformer.export.packing import pack, shorten_names, take_out_unread
from keras_tformer.export.ranges import (
    cut_masked_scores,
    make_symmetric,
    measure_ranges,
    raise_masks,
)
from keras_tformer.export.rounding import round_kernels
from keras_tformer.export.row_factors import scale_rows
from keras_tformer.export.sixteen_bits import (
    prepared_for_sixteen_bits,
    quantize_to_sixteen_bits,
)
from keras_tformer.export.tables import share_tables, store_summands
from keras_tformer.export.text_signature import SIGNATURE, text_operators
from keras_tformer.export.tracing import model_variables

# What a `WordPieceTokenizer` and a `SentencePieceTokenizer` become.
TEXT_OPERATORS = {
    "FastBertNormalize",
    "TFText>FastSentencepieceTokenize",
    "FastWordpieceTokenizeWithOffsets",
    "RaggedTensorToTensor",
}


def convert(
    model,
    functions,
    quantization,
    is_aware,
    sparse,
    feed,
    integer_only=False,
    flex_operators=False,
):
    """Convert the functions of one model into one file; they share its weights.

    Args:
        model: the `keras.Model` whose weights the functions read.
        functions: `{signature: concrete function}`.
        quantization, sparse, integer_only, flex_operators: as in `to_tflite`.
        is_aware: whether the graphs hold fake-quantizers.
        feed: function that yields `(signature, {input name: array})` to measure ranges
            on, or None.

    Raises:
        RuntimeError: the converter refused the graph.
        ValueError: no room for its scratch files.
    """
    import tensorflow as tf

    graphs = functions.values()
    module = tf.Module()
    module.model_variables = model_variables(model, graphs)
    with tempfile.TemporaryDirectory() as scratch:
        # Through a SavedModel on disk: the other routes lose names or weights.
        with full_disk_explained(scratch):
            tf.saved_model.save(module, scratch, signatures=functions)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            scratch, signature_keys=list(functions)
        )
        _set_mode(tf, converter, quantization, is_aware, sparse)
        if flex_operators:
            converter.target_spec.supported_ops.append(tf.lite.OpsSet.SELECT_TF_OPS)
        registerers = []
        if SIGNATURE in functions:
            converter.allow_custom_ops = True
            # The interpreter that measures ranges must load the tokenizer, too.
            registerers = text_operators()
            spec = converter.target_spec
            spec._experimental_custom_op_registerers = registerers
        if feed is not None and quantization in ("int8", "int16x8"):
            converter.representative_dataset = feed
            # A float graph to measure: then the choice of what becomes int8 is ours.
            converter._experimental_calibrate_only = True
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: itertools.islice(feed(), 1)
        try:
            with warnings.catch_warnings():
                # The converter calibrates with its own interpreter, not by our choice.
                warnings.filterwarnings("ignore", r"(?s).*tf\.lite\.Interpreter is dep")
                content = converter.convert()
                if converter._experimental_calibrate_only:
                    if quantization == "int16x8":
                        content = prepared_for_sixteen_bits(content)
                    measured = measure_ranges(content, feed, registerers)
                    if not is_aware:
                        round_kernels(measured, feed, registerers)
                    if quantization == "int8":
                        content = _quantize(measured, sparse, integer_only)
                    else:
                        content = quantize_to_sixteen_bits(measured, feed)
        except Exception as error:
            advice = ""
            if quantization == "int16x8":
                advice = " Use quantization='int8' or 'dynamic_range'."
            raise RuntimeError(
                f"TensorFlow's converter refused the model {model.name!r} with "
                f"quantization={quantization!r}: {_first_lines(error)}{advice}"
            ) from error
    if SIGNATURE in functions:
        _check_custom_operators(content, flex_operators)
    parsed = parse(content)
    share_tables(parsed, quantization)
    if quantization == "int8":
        if not is_aware:  # what training left in float stays float
            store_kernels(parsed)
        store_summands(parsed)
        rescale_what_sums_read(parsed)
    if quantization in ("int8", "dynamic_range") and not is_aware:
        scale_rows(parsed, _matrices(model))
    take_out_unread(parsed)
    shorten_names(parsed)
    return pack(parsed)


def _matrices(model):
    """The model's matrices, of which one may be a tied table."""
    return [
        weight.numpy().astype("float32")
        for weight in model.weights
        if len(weight.shape) == 2 and "float" in str(weight.dtype)
    ]


def _quantize(measured, sparse, integer_only):
    """A parsed float file with its ranges as int8, but for `float_operators`."""
    from tensorflow.lite.python.convert import mlir_quantize, mlir_sparsify

    if integer_only:  # else attention is in float, masks and all
        make_symmetric(measured)
        raise_masks(measured)
        cut_masked_scores(measured)
    kept = float_operators(measured, integer_only, sparse)
    content = mlir_quantize(pack(measured), denylisted_nodes=kept)
    return mlir_sparsify(content) if sparse else content


def _check_custom_operators(content, flex_operators):
    """Nothing but TF Text's operators: allowing them allows all that is unknown."""
    unknown = sorted(
        name
        for name in set(custom_operators(content)) - TEXT_OPERATORS
        if not (flex_operators and name.startswith("Flex"))
    )
    if unknown:
        raise RuntimeError(
            f"LiteRT has no operators for {', '.join(unknown)}: the file would not run "
            "on a phone. Leave these layers out, or write them with keras.ops."
        )


def _set_mode(tf, converter, quantization, is_aware, sparse):
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    optimizations = [] if quantization is None else [tf.lite.Optimize.DEFAULT]
    if sparse:
        optimizations.append(tf.lite.Optimize.EXPERIMENTAL_SPARSITY)
    converter.optimizations = optimizations
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if is_aware and hasattr(converter, "_experimental_qdq_conversion_mode"):
        # Without it the converter fails on kernels with a range for each channel.
        converter._experimental_qdq_conversion_mode = "STATIC"


def calibration_feed(examples, functions):
    """A function that yields `(signature, inputs)` of all examples.

    Args:
        examples: `{signature: {input name: array}}`.
        functions: `{signature: concrete function}`, which say how many rows a call has.
    """

    def feed():
        for signature, arrays in examples.items():
            specs = functions[signature].structured_input_signature[1]
            rows = next(iter(specs.values())).shape[0]
            total = len(next(iter(arrays.values())))
            for start in range(0, total, rows):
                take = np.arange(start, start + rows) % total
                batch = {name: array[take] for name, array in arrays.items()}
                yield signature, batch

    return feed


def _first_lines(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "error:" in line or "ops:" in line]
    return " ".join((telling or lines)[:4])[:800]
