"""Keras model -> SavedModel that a server loads without Keras."""

import json
import os

from keras_tformer.export.files import folder_target, replaced_folder
from keras_tformer.export.text_checks import (
    as_class_names,
    check_class_names,
    check_vocabulary,
)
from keras_tformer.export.text_functions import text_functions
from keras_tformer.export.tflite_checks import as_whole_number
from keras_tformer.export.tracing import (
    check_exportable,
    check_sequence_length,
    input_specs,
    model_variables,
    serving_function,
)
from keras_tformer.export.translate_signature import SIGNATURE as TRANSLATE
from keras_tformer.export.translate_signature import translate_function
from keras_tformer.export.vocabulary_file import vocabulary_content, vocabulary_name


def to_saved_model(
    model,
    folder,
    tokenizer=None,
    sequence_length=None,
    class_names=None,
    batch_size=None,
    signatures=None,
    max_length=None,
    num_beams=1,
    length_penalty=0.6,
    target_tokenizer=None,
):
    """Write a model as a SavedModel that plain TensorFlow loads and serves.

    The folder needs neither Keras nor this package: `tf.saved_model.load(folder)`
    and TensorFlow Serving read it (with `import tensorflow_text` where it holds a
    tokenizer). Every weight is stored once. Signatures:

    - `serving_default`: the model's inputs by name, the batch of any size; one output
      is called `output`, several keep their names.
    - `serve_text` (with a tokenizer): `texts` `(B,)`, raw UTF-8 strings.
    - `serve_text_pair` (with a tokenizer, where the model takes `segment_ids`):
      `texts` and `second_texts`, `(B,)` each.

    - `translate` (with a tokenizer and `max_length`, for a `transformer`): `texts`
      `(B,)` to `translations` and `scores`, `(B,)` each. Cutting into pieces, cached
      greedy or beam search and joining the pieces are all inside.

    The text signatures before it return the outputs of `serving_default`; those of a
    classifier (it has a layer called `classifier`, or `class_names` are given)
    `probabilities` too: the softmax of the output, which is taken for logits, or the
    output itself where the model ends in a softmax or sigmoid. With `class_names` also
    `labels`, the most probable name: `(B,)`, or `(B, T)` where the model classifies
    tokens; and `classes` `(B, C)`, the order of the probabilities.

    The folder is written under another name and then renamed: it is there whole or
    not at all. The vocabulary and the class names lie readable in `assets.extra/`.

    Args:
        model: a built functional or Sequential `keras.Model`; one that was made
            quantization-aware keeps its fake-quantizers.
        folder: path of the folder to write; an older SavedModel there is replaced
            (refused where other files lie in it).
        tokenizer: a tokenizer of `keras_tformer.text`.
        sequence_length: fixed length T of the ids; None leaves the length free.
        class_names: list of C different strings, the names of the classes.
        batch_size: fixed number B of rows; None leaves the batch free.
        signatures: names of the signatures to write, None for all that apply.
        max_length: int, the most tokens of a translation, start and end included.
        num_beams, length_penalty: of the search, see `keras_tformer.models.generate`.
        target_tokenizer: tokenizer of the translations, where it is another one.

    Returns:
        A dict: `folder`, `signatures` (`{name: {"inputs", "outputs"}}`),
        `parameters`, `size_bytes`.

    Raises:
        ValueError: the model is not built or takes strings, the length exceeds the
            model's positions, the class names do not fit, a signature does not apply,
            or the folder cannot be written or holds other files.

    Example:
        >>> import keras, tempfile
        >>> ids = keras.Input((None,), dtype="int32", name="token_ids")
        >>> hidden = keras.layers.Embedding(11, 7)(ids)
        >>> hidden = keras.layers.GlobalAveragePooling1D()(hidden)
        >>> model = keras.Model({"token_ids": ids}, keras.layers.Dense(3)(hidden))
        >>> folder = tempfile.mkdtemp() + "/model"
        >>> result = to_saved_model(model, folder)
        >>> sorted(result["signatures"])
        ['serving_default']
    """
    import tensorflow as tf

    check_exportable(model)
    if sequence_length is not None:
        sequence_length = as_whole_number("sequence_length", sequence_length)
        check_sequence_length(model, sequence_length)
    if batch_size is not None:
        batch_size = as_whole_number("batch_size", batch_size)
    if signatures is not None:
        signatures = [signatures] if isinstance(signatures, str) else list(signatures)
    class_names = as_class_names(class_names)
    if max_length is not None and tokenizer is None:
        raise ValueError(
            f"Received max_length={max_length} without a tokenizer, but `translate` "
            "takes and returns strings. Give tokenizer=..., or leave max_length out."
        )
    folder = folder_target(folder)
    specs = input_specs(model, batch_size, sequence_length)
    functions = {"serving_default": serving_function(model, specs)}
    check_class_names(functions["serving_default"], class_names)
    check_vocabulary(model, tokenizer)
    module = tf.Module()
    if tokenizer is not None and max_length is not None:
        functions[TRANSLATE] = translate_function(
            model,
            tokenizer,
            target_tokenizer or tokenizer,
            batch_size,
            sequence_length,
            max_length,
            num_beams,
            length_penalty,
        )
    elif tokenizer is not None:
        functions.update(
            text_functions(
                model, tokenizer, batch_size, sequence_length, class_names, signatures
            )
        )
    if tokenizer is not None:
        # Lookup tables and other resources must belong to the module.
        module.tokenizer = [
            value
            for value in vars(tokenizer).values()
            if isinstance(value, (tf.Module, tf.__internal__.tracking.Trackable))
        ]
    functions = _chosen(functions, signatures)
    module.model_variables = model_variables(model, functions.values())
    with replaced_folder(folder) as temporary:
        tf.saved_model.save(module, temporary, signatures=functions)
        extra = os.path.join(temporary, "assets.extra")
        if tokenizer is not None or class_names is not None:
            os.makedirs(extra)
        if tokenizer is not None:
            file = os.path.join(extra, vocabulary_name(tokenizer))
            with open(file, "wb") as stream:
                stream.write(vocabulary_content(tokenizer))
        if class_names is not None:
            with open(os.path.join(extra, "classes.json"), "w") as stream:
                json.dump(class_names, stream)
    return {
        "folder": folder,
        "signatures": {
            name: {
                "inputs": _shapes(_input_specs(function)),
                "outputs": _shapes(function.structured_outputs),
            }
            for name, function in functions.items()
        },
        "parameters": model.count_params(),
        "size_bytes": _folder_size(folder),
    }


def _chosen(functions, signatures):
    if signatures is None:
        return functions
    unknown = sorted(set(signatures) - set(functions))
    if unknown or not signatures:
        raise ValueError(
            f"Received signatures={signatures}, expected names among "
            f"{list(functions)} (serve_text and serve_text_pair need a tokenizer)."
        )
    return {name: functions[name] for name in signatures}


def _input_specs(function):
    positional, named = function.structured_input_signature
    return {**{spec.name: spec for spec in positional}, **named}


def _shapes(specs):
    return {
        name: {"shape": list(spec.shape), "dtype": spec.dtype.name}
        for name, spec in specs.items()
    }


def _folder_size(folder):
    return sum(
        os.path.getsize(os.path.join(root, file))
        for root, _, files in os.walk(folder)
        for file in files
    )
