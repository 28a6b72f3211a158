"""Clustering of any Keras 3 model: weights that share a few values."""

import keras
import numpy as np

from keras_tformer.compress.cluster_centroids import INITIALIZATIONS, initial_centroids
from keras_tformer.compress.movement_pruning import PRUNING
from keras_tformer.compress.prunable_weights import prunable_weights
from keras_tformer.compress.prune import strategy_scope
from keras_tformer.compress.weight_clustering import ClusteringState, WeightClustering
from keras_tformer.compress.weight_quantizer import WeightQuantizer


def cluster_weights(
    model,
    number_of_clusters=16,
    cluster_centroids_init="kmeans++",
    preserve_sparsity=False,
    per_channel=False,
    cluster_gradient_aggregation="avg",
    layers=None,
):
    """Makes the weights of a trained model share a few values, and trains these.

    Han et al. 2016, "Deep compression", section 3, in the words of TF-MOT
    (`tfmot.clustering.keras.cluster_weights`) and with its centroids. Every chosen
    weight is replaced at once by the nearest of its centroids; while the model trains,
    a constraint moves the centroids and chooses anew, after each update inside the
    compiled step. The file becomes small when it is compressed: gzip finds the few
    values.

    What the optimizer wants to change goes, unchanged, to a full copy of the weight
    that decides which centroid is nearest. The centroid moves by the *mean* of its
    cluster's changes: of all changes that leave the cluster one value it is the nearest
    to what the optimizer wanted. TF-MOT sums gradients, and with `"sum"` and plain SGD
    the numbers are TF-MOT's; the steps of Adam do not shrink with the gradient, and a
    sum of them would throw the centroids far away.

    The *same model object* is returned; compile it afterwards or before. Full copies
    and centroids are saved in the model's checkpoints and weight files
    (`model.clustering_state`): to resume, build the model, cluster it again in the same
    way and load the weights.

    Args:
        model: a built, trained `keras.Model` of the TensorFlow backend. Under a
            distribution strategy it was built in its scope.
        number_of_clusters: int > 1 (> 2 with `preserve_sparsity`), values that a weight
            may have.
        cluster_centroids_init: `"kmeans++"`, `"linear"`, `"density_based"` or
            `"random"`, or TF-MOT's `CentroidInitialization`.
        preserve_sparsity: bool, whether one centroid is zero and stays so, and the
            weights that are zero with it.
        per_channel: bool, whether each output channel of a kernel has centroids of its
            own. Embedding tables have one set in any case.
        cluster_gradient_aggregation: `"avg"` or `"sum"`, or TF-MOT's
            `GradientAggregation`.
        layers: which layers, as in `prune_low_magnitude`. None: all kernels and
            embedding tables, but not the last classifier.

    Returns:
        `model`.

    Raises:
        ValueError: if the model is not built, is clustered or quantization-aware
            already or still being pruned, a layer is unknown, a number or a word is not
            one of the above, or the compiled optimizer keeps an average of the weights.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4),
    ...                           keras.layers.Dense(1)])
    >>> model = cluster_weights(model, number_of_clusters=3)
    >>> model.compile("adam", "mse")
    >>> inputs, targets = keras.ops.ones((6, 8)), keras.ops.ones((6, 1))
    >>> history = model.fit(inputs, targets, batch_size=2, verbose=0)
    >>> len(np.unique(strip_clustering(model).layers[0].kernel.numpy()))
    3
    """
    _check_model(model)
    initialization = _word(cluster_centroids_init).replace("_plus_plus", "++")
    if initialization not in INITIALIZATIONS:
        raise ValueError(
            f"cluster_centroids_init is one of {', '.join(INITIALIZATIONS)}; received "
            f"{cluster_centroids_init!r}."
        )
    aggregation = _word(cluster_gradient_aggregation)
    if aggregation not in ("avg", "sum"):
        raise ValueError(
            "cluster_gradient_aggregation is 'avg' or 'sum'; received "
            f"{cluster_gradient_aggregation!r}."
        )
    fewest = 3 if preserve_sparsity else 2
    if not isinstance(number_of_clusters, int) or number_of_clusters < fewest:
        raise ValueError(
            f"number_of_clusters is a whole number from {fewest} on"
            f"{' (one value is zero)' if preserve_sparsity else ''}; received "
            f"{number_of_clusters!r}."
        )
    weights = [weight for _, weight in prunable_weights(model, layers, tables=True)]
    if not weights:
        raise ValueError(
            f"The choice layers={layers} holds no kernel and no embedding table."
        )
    starts = []
    for weight in weights:
        values, is_split = weight.numpy(), per_channel and "embed" not in weight.name
        columns = values.reshape(-1, values.shape[-1]).T if is_split else [values]
        centroids = [
            initial_centroids(x, number_of_clusters, initialization, preserve_sparsity)
            for x in columns
        ]
        starts.append(np.stack(centroids, axis=1) if is_split else centroids[0])
    with strategy_scope(model):
        state = ClusteringState(
            [(w, start.shape) for w, start in zip(weights, starts, strict=True)]
        )
        for index, (weight, start) in enumerate(zip(weights, starts, strict=True)):
            clustering = WeightClustering(
                state.originals[index],
                state.centroids[index],
                aggregation,
                preserve_sparsity,
                inner=weight.constraint,
            )
            clustering.start(weight.numpy(), start)
            weight.constraint = clustering
            weight.assign(clustering.clustered())
    # Not a tracked attribute: it is saved with the model but is not among its weights,
    # so that get_weights and summary stay those of the model.
    model.__dict__["clustering_state"] = state
    model.train_function = None  # a step that was traced before knows no constraints
    return model


def strip_clustering(model):
    """Takes the clustering constraints off a model; the few values stay.

    Args:
        model: a model that `cluster_weights` returned, trained.

    Returns:
        The same model object, plain again, with at most `number_of_clusters` distinct
        values in each clustered weight (in each channel with `per_channel`). It saves
        and loads without this package's compression. Plain training makes the values
        differ again; `quantize_model(preserve_clusters=True)` does not.

    Raises:
        ValueError: if the model is not clustered.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4),
    ...                           keras.layers.Dense(1)])
    >>> strip_clustering(cluster_weights(model, 5)) is model
    True
    """
    clustered = [w for w in model.weights if isinstance(w.constraint, WeightClustering)]
    if "clustering_state" not in model.__dict__ or not clustered:
        raise ValueError(f"Model '{model.name}' is not clustered: nothing to strip.")
    with strategy_scope(model):
        for weight in clustered:  # an optimizer's average may have replaced it
            weight.assign(weight.constraint.clustered())
            weight.constraint = weight.constraint.inner
    del model.__dict__["clustering_state"]
    model.train_function = None
    return model


def _word(value):
    """The lower-case word of a string, or of TF-MOT's enumerations."""
    return str(getattr(value, "value", value)).rsplit(".", 1)[-1].lower()


def _check_model(model):
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Clustering runs on the TensorFlow backend of Keras; this is "
            f"'{keras.backend.backend()}'. Set KERAS_BACKEND=tensorflow."
        )
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"Expected a keras.Model to cluster, received {type(model).__name__}."
        )
    if not model.built:
        raise ValueError(
            f"Model '{model.name}' has no weights yet. Call it once, or give its first "
            "layer a keras.Input, before you cluster it."
        )
    for layer in model._flatten_layers():
        if isinstance(layer, WeightQuantizer):
            raise ValueError(
                f"Model '{model.name}' is quantization-aware already. Cluster the "
                "float model first; quantize_model keeps its clusters."
            )
    for weight in model.weights:
        if isinstance(weight.constraint, WeightClustering):
            raise ValueError(
                f"Weight '{weight.path}' is clustered already: call "
                "strip_clustering(model) first."
            )
        if isinstance(weight.constraint, PRUNING):
            raise ValueError(
                f"Weight '{weight.path}' is still being pruned. Call "
                "strip_pruning(model) first: the zeros stay, and "
                "preserve_sparsity=True keeps them."
            )
    if getattr(getattr(model, "optimizer", None), "use_ema", False):
        raise ValueError(
            "The model is compiled with use_ema=True: the averages that replace the "
            "weights at the end of fit are not clustered. Compile without it, or "
            "compile after clustering and call strip_clustering before you evaluate."
        )
