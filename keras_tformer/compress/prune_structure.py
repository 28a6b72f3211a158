"""Structured pruning: models with fewer attention heads and feed-forward units."""

import numpy as np

from keras_tformer.compress.movement_pruning import PRUNING
from keras_tformer.compress.rebuild import rebuild
from keras_tformer.compress.structure_importance import blocks, structures
from keras_tformer.compress.weight_clustering import WeightClustering


def prune_structure(model, importance, num_heads=None, intermediate_dim=None):
    """Returns a smaller model, of the most important heads and units of a model.

    Michel et al. 2019, section 4, for heads; units of feed-forward networks as in
    McCarley et al. 2019, "Structured pruning of a BERT-based question answering model".
    Every attention keeps its `num_heads` most important heads and every feed-forward
    network its `intermediate_dim` most important units, in their order. What is left
    are plain, smaller matrices: faster on every runtime, in every format. A head keeps
    its width, so that the width of the model stays. Train it on afterwards.

    All blocks get the same numbers, which are in the model's configuration: the
    builder of `model` called with these `num_heads` and `intermediate_dim`, and with
    the `key_dim` that the heads have, makes such a model.

    Args:
        model: a built `keras.Model` of `kt.models`, with or without head.
        importance: what `structure_importance` returned, or any {path: (H,) or (F,)
            array} with numbers of your own.
        num_heads: int, heads H that every attention keeps; None keeps all.
        intermediate_dim: int, units F that every feed-forward network keeps; None keeps
            all.

    Returns:
        A new `keras.Model` of the same kind with weights of its own, not compiled. It
        saves and loads as `.keras` and is pruned, clustered, quantized and exported
        like any other.

    Raises:
        ValueError: if `model` has no Transformer blocks or is still being pruned or
            clustered, a number is out of range, or `importance` is of another model.

    Example:

    >>> import keras_tformer as kt
    >>> model = kt.models.bert_encoder(
    ...     vocabulary_size=31, num_layers=1, num_heads=2, hidden_dim=14,
    ...     intermediate_dim=11,
    ... )
    >>> importance = {
    ...     "encoder_layer_0.self_attention": [0.2, 0.7],
    ...     "encoder_layer_0.feed_forward": range(11),
    ... }
    >>> smaller = prune_structure(model, importance, 1, intermediate_dim=5)
    >>> smaller.get_layer("encoder_layer_0").num_heads
    1
    >>> model.count_params() - smaller.count_params()
    587
    """
    parts = structures(model)
    _check(model, parts, importance, num_heads, intermediate_dim)
    changes = {}
    for block in blocks(model):
        changes[block.name] = {
            "num_heads": num_heads or block.num_heads,
            "key_dim": block.self_attention.query_dense.units // block.num_heads,
            "intermediate_dim": intermediate_dim or block.intermediate_dim,
        }
    smaller, copies = rebuild(model, changes)
    for layer, copy in copies:
        if layer.name not in changes:
            _assign(copy, [weight.numpy() for weight in layer.weights])
            continue
        values = {id(weight): weight.numpy() for weight in layer.weights}
        for inner in layer._flatten_layers(include_self=False, recursive=False):
            path = f"{layer.name}.{inner.name}"
            if path not in parts:
                continue
            number = num_heads if hasattr(inner, "num_heads") else intermediate_dim
            if number is not None:
                kept = _most_important(importance[path], number)
                _cut(inner, kept, values)
        _assign(copy, [values[id(weight)] for weight in layer.weights])
    return smaller


def _cut(layer, kept, values):
    """Leaves the kept heads or units in the values of a layer's weights."""
    if hasattr(layer, "num_heads"):
        key_dim = layer.query_dense.units // layer.num_heads
        kept = (kept[:, None] * key_dim + np.arange(key_dim)).reshape(-1)
        before = [layer.query_dense, layer.key_dense, layer.value_dense]
    else:
        before = [layer.intermediate_dense]
    for dense in before:
        for weight in dense.weights:  # kernel (D, H K) and bias (H K)
            values[id(weight)] = values[id(weight)][..., kept]
    kernel = layer.output_dense.kernel  # (H K, D)
    values[id(kernel)] = values[id(kernel)][kept]


def _most_important(importance, number):
    order = np.argsort(-np.asarray(list(importance), "float64"), kind="stable")
    return np.sort(order[:number])


def _assign(layer, values):
    for weight, value in zip(layer.weights, values, strict=True):
        weight.assign(value)


def _check(model, parts, importance, num_heads, intermediate_dim):
    for weight in model.weights:
        if isinstance(weight.constraint, (*PRUNING, WeightClustering)):
            raise ValueError(
                f"Weight '{weight.path}' is still being pruned or clustered. Call "
                "strip_pruning(model) or strip_clustering(model) first."
            )
    wanted = {"num_heads": num_heads, "intermediate_dim": intermediate_dim}
    if num_heads is None and intermediate_dim is None:
        raise ValueError("Give num_heads, intermediate_dim or both: what is to stay.")
    for path, (layer, size) in parts.items():
        name = "num_heads" if hasattr(layer, "num_heads") else "intermediate_dim"
        number = wanted[name]
        if number is None:
            continue
        if not isinstance(number, int) or not 1 <= number <= size:
            raise ValueError(
                f"{name} is a whole number from 1 to the {size} of '{path}'; received "
                f"{number!r}."
            )
        given = importance.get(path)
        if given is None or len(given) != size:
            raise ValueError(
                f"Expected importance[{path!r}] with {size} numbers; received "
                f"{'none' if given is None else len(given)}. Measure it with "
                "structure_importance on this very model."
            )
