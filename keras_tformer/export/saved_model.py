"""Keras model -> SavedModel that a server loads without Keras."""

import json
import os

from keras_tformer.export.files import folder_target, replaced_folder
from keras_tformer.export.tracing import (
    as_float32,
    call_flat,
    check_exportable,
    check_sequence_length,
    input_specs,
    leaf_layers,
    max_sequence_length,
    model_variables,
    named_inputs,
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
    `probabilities` too; with `class_names` also `labels` `(B,)`, the most probable
    name of each row, and `classes` `(B, C)`, the order of the probabilities.

    The folder is written under another name and then renamed: it is there whole or
    not at all. The vocabulary and the class names lie readable in `assets.extra/`.

    Args:
        model: a built functional or Sequential `keras.Model`; one that was made
            quantization-aware keeps its fake-quantizers.
        folder: path of the folder to write; an older SavedModel there is replaced.
        tokenizer: a tokenizer of `keras_tformer.text`.
        sequence_length: fixed length T of the ids; None leaves the length free.
        class_names: list of C strings, the names of the classes.
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
            or the folder cannot be written.

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
    check_sequence_length(model, sequence_length)
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ValueError(f"Received batch_size={batch_size!r}, expected 1 or more.")
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
            _text_functions(model, tokenizer, batch_size, sequence_length, class_names)
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
                json.dump(list(class_names), stream)
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
            f"Received signatures={list(signatures)}, expected names among "
            f"{list(functions)} (serve_text and serve_text_pair need a tokenizer)."
        )
    return {name: functions[name] for name in signatures}


def check_class_names(function, class_names):
    """Refuse names that do not fit the one output of a serving function."""
    if class_names is None:
        return
    wrong = [name for name in class_names if not isinstance(name, str)]
    if wrong:
        raise ValueError(
            f"Received class_names={list(class_names)!r}. Expected strings; "
            f"{wrong[0]!r} is none. Give [str(name) for name in ...]."
        )
    outputs = function.structured_outputs
    shape = next(iter(outputs.values())).shape
    if len(outputs) != 1 or shape.rank < 2 or shape[-1] != len(class_names):
        described = {name: tuple(value.shape) for name, value in outputs.items()}
        raise ValueError(
            f"Received {len(class_names)} class_names for a model with the outputs "
            f"{described}. Expected one output (B, ..., C) and C names, in the order "
            "of the output's last axis."
        )


def check_vocabulary(model, tokenizer):
    """Refuse a tokenizer whose ids the model's table of tokens does not have.

    TensorFlow and LiteRT would find out at the first text with a high id.
    """
    rows = [
        layer.weights[0].shape[0]
        for layer in getattr(model, "layers", ())
        if layer.name.endswith("token_embedding") and layer.weights
    ]
    if tokenizer is None:
        return
    if not (hasattr(tokenizer, "vocabulary_size") and hasattr(tokenizer, "save")):
        raise ValueError(
            f"Received tokenizer={tokenizer!r}. Expected a tokenizer of "
            "keras_tformer.text, such as WordPieceTokenizer.load(file)."
        )
    if rows and tokenizer.vocabulary_size > max(rows):
        raise ValueError(
            f"The tokenizer has {tokenizer.vocabulary_size} pieces, but '{model.name}' "
            f"has a table of {max(rows)} tokens. Give the tokenizer that the model was "
            "trained with."
        )


def _text_functions(model, tokenizer, batch_size, sequence_length, class_names):
    import tensorflow as tf

    from keras_tformer.text import pack

    names = set(named_inputs(model))
    known = {"token_ids", "segment_ids", "padding_mask"}
    if not {"token_ids"} <= names <= known:
        raise ValueError(
            f"A tokenizer can feed the inputs {sorted(known)} only; this model takes "
            f"{sorted(names)}. Export it without the tokenizer, or, if it translates, "
            "give max_length for the signature `translate`."
        )
    fixed = [tensor.shape[1] for tensor in named_inputs(model).values()]
    length = sequence_length or fixed[0] or max_sequence_length(model)
    if length is None:
        raise ValueError(
            "How long a text may become is not known: the model has no positions "
            "that would limit it. Give sequence_length."
        )
    is_classifier = class_names is not None or any(
        "classifier" in layer.name for layer in leaf_layers(model)
    )
    length_is_free = sequence_length is None and fixed[0] is None
    tokenizer.tokenize(tf.constant(["a"]))  # makes its tables outside of the graph

    def serve(texts, second_texts=None):
        second = None if second_texts is None else tokenizer.tokenize(second_texts)
        inputs = pack(
            tokenizer.tokenize(texts),
            second,
            sequence_length=length,
            start_id=tokenizer.start_id,
            end_id=tokenizer.end_id,
            padding_id=tokenizer.padding_id,
        )
        if length_is_free:  # no time is spent on columns that are padding only
            longest = tf.reduce_max(tf.reduce_sum(inputs["padding_mask"], axis=1))
            longest = tf.maximum(longest, 1)
            inputs = {name: ids[:, :longest] for name, ids in inputs.items()}
        outputs = call_flat(model, {name: inputs[name] for name in names})
        outputs = {name: as_float32(v, name) for name, v in outputs.items()}
        if not is_classifier:
            return outputs
        return {**outputs, **_class_outputs(outputs, class_names)}

    spec = tf.TensorSpec((batch_size,), tf.string)

    @tf.function(autograph=False)
    def serve_text(texts):
        return serve(texts)

    @tf.function(autograph=False)
    def serve_text_pair(texts, second_texts):
        return serve(texts, second_texts)

    functions = {"serve_text": serve_text.get_concrete_function(texts=spec)}
    if "segment_ids" in names:
        functions["serve_text_pair"] = serve_text_pair.get_concrete_function(
            texts=spec, second_texts=spec
        )
    return functions


def _class_outputs(outputs, class_names):
    import tensorflow as tf

    scores = next(iter(outputs.values()))
    if len(outputs) != 1 or scores.shape.rank < 2 or scores.shape[-1] in (None, 1):
        return {}
    extra = {"probabilities": tf.nn.softmax(scores)}
    if class_names is not None:
        classes = tf.constant(list(class_names))
        extra["labels"] = tf.gather(classes, tf.argmax(scores, axis=-1))
        # A row for every text: servers want each output to have the batch in front.
        extra["classes"] = tf.tile(classes[None], (tf.shape(scores)[0], 1))
    return extra


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
