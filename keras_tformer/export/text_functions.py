"""The signatures of a SavedModel that take raw texts."""

from keras_tformer.export.text_checks import output_values
from keras_tformer.export.tracing import (
    as_float32,
    call_flat,
    leaf_layers,
    max_sequence_length,
    named_inputs,
)


def text_functions(
    model, tokenizer, batch_size, sequence_length, class_names, signatures
):
    """`serve_text` and, where the model takes segments, `serve_text_pair`.

    Args:
        model, tokenizer, batch_size, sequence_length, class_names: of `to_saved_model`.
        signatures: list of the names that are asked for, or None.

    Returns:
        `{signature: concrete function}`.

    Raises:
        ValueError: the model takes what no text gives, a text has no length or no room
            for a piece, or an output has the name of what is added.
    """
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
    has_pairs = "segment_ids" in names
    if signatures is not None:
        has_pairs = has_pairs and "serve_text_pair" in signatures
    _check_room(length, has_pairs)
    if is_classifier:
        _check_output_names(model, class_names)
    rows = batch_size or next(iter(named_inputs(model).values())).shape[0]
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
        # Cutting into pieces forgets how many texts there are.
        shape = (rows, None if length_is_free else length)
        inputs = {name: tf.ensure_shape(inputs[name], shape) for name in names}
        outputs = call_flat(model, inputs)
        outputs = {name: as_float32(v, name) for name, v in outputs.items()}
        if not is_classifier:
            return outputs
        return {**outputs, **_class_outputs(model, outputs, class_names)}

    spec = tf.TensorSpec((rows,), tf.string)

    @tf.function(autograph=False)
    def serve_text(texts):
        return serve(texts)

    @tf.function(autograph=False)
    def serve_text_pair(texts, second_texts):
        return serve(texts, second_texts)

    functions = {"serve_text": serve_text.get_concrete_function(texts=spec)}
    if has_pairs:
        functions["serve_text_pair"] = serve_text_pair.get_concrete_function(
            texts=spec, second_texts=spec
        )
    return functions


def _check_room(length, has_pairs):
    name, least = ("serve_text_pair", 4) if has_pairs else ("serve_text", 3)
    if length < least:
        raise ValueError(
            f"Received sequence_length={length}, but a row of {name} needs {least} or "
            f"more: {least - 1} special tokens and one piece. Give a greater one, or "
            "name other signatures=[...]."
        )


def _check_output_names(model, class_names):
    added = {"probabilities", *(() if class_names is None else ("labels", "classes"))}
    known = output_values(model)
    for name, values in known.items() if len(known) == 1 else ():
        if name in added and (name, values) != ("probabilities", "probabilities"):
            raise ValueError(
                f"The model's output {name!r} has the name of what the text signatures "
                "add. Name it anew: keras.Model(model.inputs, {'logits': output})."
            )


def _class_outputs(model, outputs, class_names):
    import tensorflow as tf

    scores = next(iter(outputs.values()))
    if len(outputs) != 1 or scores.shape.rank < 2 or scores.shape[-1] in (None, 1):
        return {}
    (values,) = output_values(model).values()
    probabilities = scores if values == "probabilities" else tf.nn.softmax(scores)
    extra = {"probabilities": tf.identity(probabilities)}
    if class_names is not None:
        classes = tf.constant(class_names)
        extra["labels"] = tf.gather(classes, tf.argmax(scores, axis=-1))
        # A row for every text: servers want each output to have the batch in front.
        extra["classes"] = tf.tile(classes[None], (tf.shape(scores)[0], 1))
    return extra
