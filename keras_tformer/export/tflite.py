"""Keras model -> `.tflite` file, proved on the runtime before it is left behind."""

import numpy as np

from keras_tformer.export.batches import numpy_batches, random_batch
from keras_tformer.export.companions import attach, companion_paths, write_companions
from keras_tformer.export.conversion import calibration_feed, convert
from keras_tformer.export.decoding import (
    STEP,
    calibration_steps,
    decoding_functions,
    decoding_shapes,
)
from keras_tformer.export.files import file_target, gzip_size, replaced_files, sha256
from keras_tformer.export.flatbuffer import inspect_file
from keras_tformer.export.prediction import open_artefact
from keras_tformer.export.repeated_calls import loops_are_cheap
from keras_tformer.export.reporting import count_partitions
from keras_tformer.export.text_checks import (
    as_class_names,
    check_class_names,
    check_vocabulary,
    output_values,
)
from keras_tformer.export.text_signature import (
    SIGNATURE,
    check_tokenizer,
    tokenize_function,
)
from keras_tformer.export.tflite_checks import (
    as_lengths,
    as_whole_number,
    check_decoding,
    check_finite,
    check_fixed,
    check_flex,
    check_loops,
    check_mode,
    check_precision,
    check_request,
    check_sixteen_bits,
)
from keras_tformer.export.tracing import (
    check_exportable,
    check_sequence_length,
    input_specs,
    is_fake_quantized,
    serving_function,
)
from keras_tformer.export.verification import verify as verify_artefact

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
        "Give more and more typical representative_data, leave integer_only=False, "
        "train it through compress.quantize_model (with masks near -30: -1e9 leaves "
        "all scores in one of 256 steps), or use 'dynamic_range'."
    ),
    "int16x8": "Give more representative_data, or use 'dynamic_range'.",
}
FLOAT_MODES = (None, "float16", "dynamic_range")
CALIBRATION_EXAMPLES = 200
VERIFICATION_EXAMPLES = 64
DECODING_EXAMPLES = 32  # each is as many calls as it has tokens


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
    tokenizer_inside=False,
    max_length=None,
    integer_only=False,
    loop_shared_layers=None,
    minimum_clear_agreement=0.9,
    flex_operators=False,
):
    """Write a model as a `.tflite` file that is proved to compute the same.

    All shapes are fixed, inputs and outputs keep their names in the signature
    `serving_default`, and only LiteRT's builtin operators are used. Before the file
    is left behind it runs on `ai_edge_litert` beside the Keras model, with one and two
    threads, with and without the default delegate; a file that computes something else
    is not written.

    Args:
        model: a built functional or Sequential `keras.Model` in float32.
        file: path to write; an older file is replaced.
        sequence_length: T, the length of every input; or a tuple of lengths: one
            signature each, on the same weights. The longest is `serving_default`, the
            others are `shorter_<length>`: an app calls the shortest that fits.
        batch_size: B, rows a call.
        quantization: None (float32), `"float16"` (weights in half precision),
            `"dynamic_range"` (weights int8, activations float), `"int8"` (weights and
            activations int8: learned ranges of a quantization-aware model, or
            post-training from `representative_data`; layer normalization, the sums
            before it and attention stay float, and what is multiplied for them is
            rounded row by row by the runtime, see `integer_only`) or `"int16x8"`
            (activations int16, weights int8, post-training).
        representative_data: real examples (see `predict` for the forms) that measure
            the activations' ranges and, after training, by which kernels are rounded
            (`round_kernels`); the first 200 are used. A quantization-aware model needs
            none; with it, products and activations without a learned range become
            int8, too.
        tokenizer: a tokenizer of `keras_tformer.text`, written beside the file
            (`vocab.txt`, or `<stem>_vocab.txt` where another vocabulary has that name
            and belongs to another file; the card says which) and attached to it
            (`unzip model.tflite vocab.txt`).
        class_names: list of C strings, attached as `labels.txt`. With a tokenizer or
            class names, a card `<stem>.json` says how to feed the file and read its
            answer. The file, its vocabulary and its card are replaced together: all
            of them, or none.
        verify: compare every signature with the model, on 64 representative examples
            or, where none are given, on random ids.
        tolerance: largest difference allowed. For None and `"float16"` absolute (in
            units of the largest output where that is above 1; 1e-4, 1e-2), else the
            mean difference in standard deviations of the output (0.1; int8 0.15).
        sparse: store zeros of pruned kernels sparsely: a smaller file before
            compression, not a faster one. None, or `"int8"` with kernels pruned in
            blocks of `(16, 1)`; other files would not load or compute wrong numbers.
        tokenizer_inside: give the file a signature `tokenize`, `texts` `(B,)` to the
            inputs of `serving_default`, too. Its operators are TF Text's: the app must
            link them to call it, and only then. Word pieces (0.6 MB; ids differ from
            `encode` for rare signs, see `WordPieceTokenizer.tokenize`) and sentence
            pieces (0.5 MB for ALBERT's 30,000; see `SentencePieceTokenizer.tokenize`).
        max_length: T, for a model that writes text (`transformer`, `causal_lm`): the
            most tokens of a text, its first one included. The file then has the
            signatures `encode` (of sources of `sequence_length`) and `decode_step`,
            which writes a token a call with caches that go in and come out (see
            `decoding_functions`), instead of `serving_default`; `representative_data`
            are the model's inputs with their targets, as for training.
        integer_only: compute layer normalization, sums and attention in int8 as well,
            and give all products but a vocabulary's one range for all rows, for
            accelerators without float; less accurate, and slower on XNNPACK. Needs
            `quantization="int8"` and `representative_data`.
        loop_shared_layers: whether layers that are called three times or more in a row
            on their own output, as ALBERT's block is, become one WHILE operator: fewer
            operators, and a runtime that unpacks their weights once, not once a call.
            None: in float32, float16 and dynamic-range files; of classifiers from
            nine calls on, because a loop makes all positions in their last call, of
            which they read one. In int8 the calls of
            a loop share their ranges, and a quantization-aware model has other ranges
            at every call, so has no loop. Give False for delegates that take no loops
            (those of GPUs and NPUs).
        minimum_clear_agreement: smallest share of predictions (argmax over the last
            axis of each output) that must equal the model's, near ties aside (see
            `verify`): a mean difference may be small where predictions are wrong. The
            int8 files of the zoo's models with random weights had 1.0, where 0.84 to
            1.0 of the predictions were equal. None asks for none.
        flex_operators: let TensorFlow's own operators into the file where LiteRT has
            none. The app must link the Flex delegate (some 30 MB); no runtime here
            has it, so `verify=False` must be given, too.

    Returns:
        A dict: that of `report` and `quantization`, `is_quantization_aware`,
        `sequence_length`, `batch_size`, `max_length`, `parameters`, `sha256`,
        `verification` (the result of `verify`, or None; `verifications` of all
        signatures by name), `vocabulary` and `card` (paths, or None).

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
    check_exportable(model)
    check_request(model, quantization, sparse, verify)
    check_flex(flex_operators, quantization, verify)
    check_precision(model)
    batch_size = as_whole_number("batch_size", batch_size)
    class_names = as_class_names(class_names)
    file = file_target(file)
    check_vocabulary(model, tokenizer)
    companion_paths(file, tokenizer, class_names)  # refuses what could not be written
    lengths = as_lengths(sequence_length)
    check_sixteen_bits(quantization, lengths, tokenizer_inside)
    in_loops = loop_shared_layers
    if in_loops is None:
        in_loops = quantization in FLOAT_MODES and loops_are_cheap(model)
    check_loops(model, loop_shared_layers, quantization, max_length)
    if max_length is None:
        functions, shapes = _functions(model, lengths, batch_size, in_loops)
    else:
        max_length = as_whole_number("max_length", max_length)
        check_decoding(
            model, lengths, max_length, quantization, class_names, tokenizer_inside
        )
        functions = decoding_functions(model, batch_size, lengths[0], max_length)
        shapes = {STEP: decoding_shapes(functions)}
    main = next(iter(shapes))
    check_class_names(functions[main], class_names)
    is_aware = is_fake_quantized(functions[main])
    check_mode(quantization, is_aware, representative_data, integer_only)
    examples = _examples(representative_data, shapes, model)
    check_finite(examples, quantization)
    text = _text_function(tokenizer, tokenizer_inside, shapes[main])
    feed = _feed(examples, functions)
    content = convert(
        model,
        functions | text,
        quantization,
        is_aware,
        sparse,
        feed,
        integer_only,
        flex_operators,
    )
    verifications = {}
    with replaced_files(file) as stage:
        temporary = stage(file)
        with open(temporary, "wb") as stream:
            stream.write(content)
        attach(temporary, tokenizer, class_names)
        for name in text if verify else ():
            runner = open_artefact(temporary, signature=name)
            check_tokenizer(runner, text[name], tokenizer)
        for name in shapes if verify else ():
            data = examples[name] if examples else random_batch(model, shapes[name])
            verifications[name] = _verify(
                temporary,
                model,
                data,
                quantization,
                tolerance,
                minimum_clear_agreement,
                name,
            )
        vocabulary, card = companion_paths(file, tokenizer, class_names)
        result = {
            "file": file,
            "quantization": quantization,
            "is_quantization_aware": is_aware,
            "sequence_length": lengths if len(lengths) > 1 else lengths[0],
            "batch_size": batch_size,
            "max_length": max_length,
            "parameters": model.count_params(),
            **{k: v for k, v in inspect_file(temporary).items() if k != "file"},
            "gzip_bytes": gzip_size(temporary),
            "delegate_partitions": count_partitions(temporary),
            "sha256": sha256(temporary),
            "verification": verifications.get(main),
            "verifications": verifications,
            "vocabulary": vocabulary,
            "card": card,
        }
        values = output_values(model) if max_length is None else {}
        write_companions(stage, result, tokenizer, class_names, values)
    return result


def _functions(model, lengths, batch_size, in_loops):
    """`({signature: concrete function}, {signature: {input name: shape}})`."""
    functions, shapes = {}, {}
    for length in lengths:
        check_sequence_length(model, length)
        # The converter sorts them: the first is what runs without a signature's name.
        name = f"shorter_{length}" if functions else "serving_default"
        specs = input_specs(model, batch_size, length)
        shapes[name] = {key: tuple(spec.shape) for key, spec in specs.items()}
        check_fixed(shapes[name])
        functions[name] = serving_function(model, specs, True, in_loops)
    return functions, shapes


def _text_function(tokenizer, tokenizer_inside, shapes):
    """`{"tokenize": concrete function}`, or nothing where it is not asked for."""
    if not tokenizer_inside:
        return {}
    if tokenizer is None:
        raise ValueError("tokenizer_inside=True needs a tokenizer. Give tokenizer=...")
    return {SIGNATURE: tokenize_function(tokenizer, shapes)}


def _examples(representative_data, shapes, model):
    """`{signature: up to 200 rows, one array an input in its dtype}`, or None."""
    if representative_data is None:
        return None
    longest = next(iter(shapes.values()))
    free = {name: (None, *shape[1:]) for name, shape in longest.items()}
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
    specs = input_specs(model)
    rows = {
        name: np.concatenate([part[name] for part in parts]).astype(
            specs[name].dtype.as_numpy_dtype
        )
        for name in longest
    }
    return {
        signature: {name: _cut_to(name, rows[name], own[name]) for name in own}
        for signature, own in shapes.items()
    }


def _feed(examples, functions):
    """What measures ranges: a function that yields calls of every signature."""
    if examples is None:
        return None
    if STEP in functions:
        few = {
            name: array[:DECODING_EXAMPLES] for name, array in examples[STEP].items()
        }
        return calibration_steps(functions, _with_padding(few))
    examples = {name: _with_padding(arrays) for name, arrays in examples.items()}
    return calibration_feed(examples, functions)


def _cut_to(name, array, shape):
    """The beginning of longer examples, for a signature of a shorter length."""
    array = array[(slice(None), *map(slice, shape[1:]))]
    if "positions" in name:  # indices of tokens, which must be there
        array = np.minimum(array, shape[1] - 1)
    return array


def _with_padding(arrays):
    """The examples, and one with padding where they have none at all.

    A mask that never changes has no range: int16x8 files do not load then, and int8
    files know no step between a kept position and a masked one.
    """
    full = [name for name in arrays if "padding_mask" in name and arrays[name].all()]
    if not full:
        return arrays
    padded = {name: array[-1:].copy() for name, array in arrays.items()}
    for name in full:
        padded[name][:, padded[name].shape[1] // 2 :] = 0
    return {name: np.concatenate([arrays[name], padded[name]]) for name in arrays}


def _verify(file, model, data, quantization, tolerance, minimum_share, signature):
    tolerance = TOLERANCES[quantization] if tolerance is None else tolerance
    absolute = quantization in (None, "float16")
    rows = DECODING_EXAMPLES if signature == STEP else VERIFICATION_EXAMPLES
    try:
        return verify_artefact(
            file,
            model,
            data,
            tolerance=tolerance if absolute else None,
            relative_tolerance=None if absolute else tolerance,
            minimum_clear_agreement=minimum_share,
            max_examples=rows,
            signature=signature,
        )
    except ValueError as error:
        raise ValueError(
            f"No file was written (quantization={quantization!r}). {error} "
            f"{ADVICE[quantization]}"
        ) from error
