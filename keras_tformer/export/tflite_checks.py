"""Requests that make wrong `.tflite` files, refused with reason and alternative."""

import operator

import keras
import numpy as np

from keras_tformer.export.repeated_calls import (
    FEWEST_CALLS,
    called_beside_loops,
    has_repeated_calls,
)
from keras_tformer.export.tracing import leaf_layers, named_inputs

MODES = (None, "float16", "dynamic_range", "int8", "int16x8")
SPARSE_FROM = 0.3  # share of zeros from which the converter stores a kernel sparsely
BLOCK = 16  # LiteRT's only sparse int8 kernel: this many inputs of one output


def check_request(model, quantization, sparse, verify):
    """Refuse unknown modes and sparse encodings known to fail on LiteRT."""
    if quantization not in MODES:
        raise ValueError(
            f"Received quantization={quantization!r}, expected one of "
            f"{', '.join(map(repr, MODES))}."
        )
    _check_weights(model)
    if quantization in ("int8", "int16x8"):
        _check_recurrence(model, quantization)
    if not sparse:
        return
    if quantization not in (None, "int8"):
        raise ValueError(
            f"sparse=True with quantization={quantization!r} is refused: such files do "
            "not load, or compute wrong numbers under LiteRT's default delegate. Use "
            "sparse=False (gzip shrinks the zeros as well), or quantization=None or "
            "'int8'."
        )
    if not verify:
        raise ValueError(
            "sparse=True with verify=False is refused: whether a sparse file loads and "
            "computes the right numbers shows only when it runs. Leave verify=True."
        )
    if quantization == "int8":
        _check_blocks(model)


def _check_weights(model):
    for weight in model.weights:
        if "float" in str(weight.dtype) and np.isnan(weight.numpy()).any():
            raise ValueError(
                f"The weight {weight.path!r} holds NaN: training diverged. Load the "
                "last good state (training.StopOnNaN saves one)."
            )


def _check_recurrence(model, quantization):
    for layer in leaf_layers(model):
        if isinstance(layer, keras.layers.RNN) and not layer.unroll:
            raise ValueError(
                f"The recurrent layer {layer.name!r} with quantization="
                f"{quantization!r} is refused: TensorFlow's calibrator ends the "
                "process in its loop. Build it with unroll=True, or use "
                "'dynamic_range'."
            )


def _check_blocks(model):
    for weight in model.weights:
        if len(weight.shape) != 2 or "kernel" not in weight.name:
            continue
        zeros = weight.numpy() == 0
        if zeros.mean() < SPARSE_FROM:
            continue
        rows = zeros[: len(zeros) // BLOCK * BLOCK]
        blocks = rows.reshape(-1, BLOCK, zeros.shape[1]).all(axis=1)
        if blocks.mean() < SPARSE_FROM or BLOCK * blocks.sum() < 0.9 * zeros.sum():
            raise ValueError(
                f"sparse=True with quantization='int8': the zeros of {weight.path!r} "
                f"({zeros.mean():.0%}) do not lie in whole blocks of {BLOCK} inputs; "
                "LiteRT's default delegate does not load such a file. Prune with "
                f"block_size=({BLOCK}, 1), or use sparse=False (gzip shrinks the zeros "
                "as well)."
            )


def check_flex(flex_operators, quantization, verify):
    """Refuse Flex where somebody believes that the file was proved, or measured."""
    if not flex_operators:
        return
    if verify:
        raise ValueError(
            "flex_operators=True with verify=True is refused: Python's runtimes cannot "
            "run Flex operators, so nothing can be proved. Add verify=False and test "
            "the file in the app that links TensorFlow's Flex delegate, or leave out "
            "flex_operators."
        )
    if quantization in ("int8", "int16x8"):
        raise ValueError(
            f"flex_operators=True with quantization={quantization!r} is refused: no "
            "runtime here can measure the ranges of activations. Use None, 'float16' "
            "or 'dynamic_range'."
        )


def check_precision(model):
    """Refuse layers that compute in half precision."""
    for layer in leaf_layers(model):
        if layer.compute_dtype not in ("float32", None) and layer.weights:
            raise ValueError(
                f"The layer {layer.name!r} computes in {layer.compute_dtype}; LiteRT "
                "wants float32. Build the model again under "
                "keras.config.set_dtype_policy('float32') and hand the weights over: "
                "new_model.set_weights(model.get_weights())."
            )


def check_mode(quantization, is_aware, representative_data, integer_only):
    """Refuse a mode that does not fit the model, or lacks the data it needs."""
    if integer_only and (quantization != "int8" or representative_data is None):
        given = "None" if representative_data is None else "given"
        raise ValueError(
            f"integer_only=True with quantization={quantization!r} and "
            f"representative_data {given}: only int8 files are made of integers, from "
            "ranges measured on examples. Give quantization='int8' and "
            "representative_data."
        )
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


def check_finite(examples, quantization):
    """Raises ValueError for examples without ranges: the calibrator takes them."""
    if examples is None or quantization not in ("int8", "int16x8"):
        return
    for arrays in examples.values():
        for name, values in arrays.items():
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise ValueError(
                    f"representative_data[{name!r}] holds NaN or infinite numbers, of "
                    f"which quantization={quantization!r} can measure no range. Take "
                    "these rows out, and let masks be large numbers, such as -30."
                )


def check_sixteen_bits(quantization, lengths, tokenizer_inside):
    """Refuse what the converter cannot make of int16x8, or what ends the process."""
    if quantization != "int16x8":
        return
    if len(lengths) > 1:
        raise ValueError(
            f"sequence_length={lengths} with quantization='int16x8' is refused: LiteRT "
            "ends the whole process when it runs such a file. Write one file a length, "
            "or use quantization='int8'."
        )
    if tokenizer_inside:
        raise ValueError(
            "tokenizer_inside=True with quantization='int16x8' is refused: LiteRT ends "
            "the whole process when it runs a second signature of such a file. Use "
            "quantization='int8', or leave the tokenizer beside the file."
        )


def check_loops(model, loop_shared_layers, quantization, max_length):
    """Refuse a loop that is asked for where there can be none."""
    if not loop_shared_layers:
        return
    if quantization == "int16x8" or max_length is not None:
        raise ValueError(
            f"loop_shared_layers=True with quantization={quantization!r} and "
            f"max_length={max_length} is refused: int16x8 files and files that write "
            "text have no loops. Leave loop_shared_layers out."
        )
    if not has_repeated_calls(model):
        raise ValueError(
            "loop_shared_layers=True, but no layer of the model is called "
            f"{FEWEST_CALLS} times or more in a row, each time on its own output and "
            "with the same other arguments (a quantization-aware model has other "
            "ranges at every call). Leave loop_shared_layers out."
        )
    beside = called_beside_loops(model)
    if quantization == "int8" and beside:
        raise ValueError(
            "loop_shared_layers=True with quantization='int8' is refused: besides the "
            f"calls in a row, {', '.join(sorted(set(beside)))} is called elsewhere, "
            "on which TensorFlow's converter crashes. Leave loop_shared_layers out."
        )


def check_decoding(
    model, lengths, max_length, quantization, class_names, tokenizer_inside
):
    """Refuse what does not go with a file that writes text."""
    if max_length < 2:
        raise ValueError(
            f"Received max_length={max_length!r}, expected 2 or more: the token that a "
            "text starts with, and one that is written."
        )
    if len(lengths) > 1:
        raise ValueError(
            f"Received sequence_length={lengths} with max_length={max_length}: a file "
            "that writes text has one length of sources. Give one number."
        )
    if quantization == "int16x8" and "encoder_token_ids" in named_inputs(model):
        raise ValueError(
            f"Received max_length={max_length} with quantization='int16x8': LiteRT "
            "ends the process when it runs a second signature of such a file, and this "
            "model has one for its sources. Use 'int8' or 'dynamic_range'."
        )
    if class_names is not None or tokenizer_inside:
        raise ValueError(
            f"Received max_length={max_length} with class_names or tokenizer_inside. A "
            "file that writes text has no classes, and its tokenizer stays outside. "
            "Leave both out; tokenizer=... is written beside the file."
        )


def check_fixed(shapes):
    """Refuse open dimensions: LiteRT plans its memory and its int8 products once."""
    for name, shape in shapes.items():
        if None in shape:
            raise ValueError(
                f"The input {name!r} would have the open shape {shape}. Expected fixed "
                "numbers: a file with open shapes is slower and cannot be quantized. "
                "Give sequence_length=128 (or a tuple of lengths, for one signature "
                "each), or build the model with fixed inputs."
            )


def as_lengths(sequence_length):
    """One length or several as a tuple, the longest first.

    Raises:
        ValueError: no length at all, one twice, or something else.
    """
    if sequence_length is None:
        return (None,)
    if hasattr(sequence_length, "tolist"):  # NumPy's arrays and numbers
        sequence_length = sequence_length.tolist()
    several = isinstance(sequence_length, (tuple, list))
    given = sequence_length if several else [sequence_length]
    lengths = {as_whole_number("sequence_length", length) for length in given}
    if not lengths or len(lengths) < len(given):
        raise ValueError(
            f"Received sequence_length={sequence_length!r}, expected one whole number "
            "or several different ones."
        )
    return tuple(sorted(lengths, reverse=True))


def as_whole_number(name, value):
    """A number of 1 or more as Python's int: NumPy's are taken, too."""
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise ValueError(
            f"Received {name}={value!r}, expected a whole number of 1 or more."
        )
    return number
