"""How much each attention head and each feed-forward unit matters to the loss."""

import keras
import numpy as np

from keras_tformer.compress.flatten import flatten


def structure_importance(model, dataset, steps=None):
    """Measures what a model would lose without a head, or without a unit.

    Michel et al. 2019, "Are sixteen heads really better than one?", section 4.1,
    equation 2: the first-order change of the loss if a head's output were multiplied by
    zero, |gradient x activation|. Product and sum run over the positions and the width
    of a head, the absolute value is taken for each example, and these are summed over
    the dataset; for a unit of a feed-forward network likewise, after its activation
    function. Where a block is called several times (ALBERT), every call counts.

    Args:
        model: a `keras.Model` of `kt.models` on the TensorFlow backend, with its head,
            compiled with the loss that it was trained with.
        dataset: a `tf.data.Dataset` or any iterable of batches (inputs, targets) or
            (inputs, targets, sample weights).
        steps: int, number of batches to use; None uses all.

    Returns:
        {path of an attention: (H,), path of a feed-forward network: (F,)}, float64
        arrays, for all blocks. `prune_structure` takes it.

    Raises:
        ValueError: if the model is not compiled or has no Transformer blocks, or there
            is no batch.

    Example:

    >>> import keras_tformer as kt
    >>> encoder = kt.models.bert_encoder(
    ...     vocabulary_size=31, num_layers=1, num_heads=2, hidden_dim=14,
    ...     intermediate_dim=11,
    ... )
    >>> model = kt.models.sequence_classifier(encoder, num_classes=3)
    >>> model.compile(**kt.training.compile_arguments("sequence_classifier"))
    >>> ids = np.ones((5, 7), "int32")
    >>> x = {"token_ids": ids, "segment_ids": ids, "padding_mask": ids}
    >>> importance = structure_importance(model, [(x, np.zeros(5, "int32"))])
    >>> {path: values.shape for path, values in importance.items()}
    {'encoder_layer_0.self_attention': (2,), 'encoder_layer_0.feed_forward': (11,)}
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Importance is measured on the TensorFlow backend of Keras; this is "
            f"'{keras.backend.backend()}'. Set KERAS_BACKEND=tensorflow."
        )
    parts = structures(model)
    if not model.compiled:
        raise ValueError(
            f"Model '{model.name}' has no loss to measure importance by. Compile it as "
            "for its training: model.compile(**kt.training.compile_arguments(task))."
        )
    totals = {path: np.zeros(groups) for path, (_, groups) in parts.items()}
    probes = {}  # {shapes of a batch: function}
    num_batches = 0
    for batch in dataset:
        if num_batches == steps:
            break
        inputs, targets, weights = keras.utils.unpack_x_y_sample_weight(batch)
        lengths = {name: value.shape[1] for name, value in inputs.items()}
        key = tuple(sorted(lengths.items()))
        if key not in probes:
            probes[key] = _probe(model, parts, lengths)
        found = probes[key](inputs, targets, weights)
        for path, values in found.items():
            totals[path] += values.numpy()
        num_batches += 1
    if not num_batches:
        raise ValueError("The dataset has no batch: there is nothing to measure by.")
    return totals


def structures(model):
    """Returns {path: (layer, number of heads or units)} of a model's blocks.

    Raises:
        ValueError: if there are none.
    """
    found = {}
    for block in blocks(model):
        for layer in block._flatten_layers(include_self=False, recursive=False):
            if type(layer).__name__ == "MultiHeadAttention":
                found[f"{block.name}.{layer.name}"] = (layer, layer.num_heads)
            elif type(layer).__name__ == "FeedForward":
                found[f"{block.name}.{layer.name}"] = (layer, layer.intermediate_dim)
    return found


def blocks(model):
    """Returns the Transformer blocks of a model, or says why there are none."""
    found = [
        layer
        for layer in getattr(model, "layers", [])
        if type(layer).__name__ in ("TransformerEncoder", "TransformerDecoder")
    ]
    if not found or not isinstance(model, keras.Function):
        raise ValueError(
            "Expected a model of kt.models with its blocks. Received: "
            f"{type(model).__name__} {getattr(model, 'name', '')!r}, which has none "
            "among its layers. Change the structure first; flatten and quantize_model "
            "come after it."
        )
    return found


def _probe(model, parts, lengths):
    """A function from one batch to {path: sums of |gradient x activation|}."""
    import tensorflow as tf

    graph = flatten(model, lengths)
    activations = {}
    for path in parts:
        is_attention = path.endswith("attention")
        name = f"{path}.{'attention_output' if is_attention else 'output'}"
        # What goes into the last projection, at every call of it.
        activations[path] = [
            node.arguments.keras_tensors[0]
            for node in graph.get_layer(name)._inbound_nodes
        ]
    probe = keras.Model(graph.input, [graph.output, activations])

    @tf.function(autograph=False)
    def importance(inputs, targets, weights):
        with tf.GradientTape() as tape:
            for weight in probe.weights:  # frozen ones are not watched otherwise
                tape.watch(weight.value)
            outputs, calls = probe(inputs, training=False)
            loss = model.compute_loss(inputs, targets, outputs, weights, training=False)
        gradients = tape.gradient(
            loss, calls, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        num_rows = tf.shape(keras.tree.flatten(inputs)[0])[0]
        return {
            path: sum(
                _per_group(activation, gradient, num_rows, parts[path][1])
                for activation, gradient in zip(
                    calls[path], gradients[path], strict=True
                )
            )
            for path in calls
        }

    return importance


def _per_group(activation, gradient, num_rows, num_groups):
    import tensorflow as tf

    product = tf.cast(activation, tf.float32) * tf.cast(gradient, tf.float32)
    width = activation.shape[-1] // num_groups
    product = tf.reshape(product, (num_rows, -1, num_groups, width))  # (B, T, H, K)
    changes = tf.reduce_sum(product, axis=(1, 3))  # (B, H)
    return tf.reduce_sum(tf.abs(changes), axis=0)  # (H,)
