"""The constraint that clusters one weight, and the state that it keeps."""

import keras
from keras import ops


class WeightClustering(keras.constraints.Constraint):
    """Replaces every value of a weight by the nearest of a few trained centroids.

    Keras optimizers call it after each update, inside the compiled step. What the
    optimizer changed is added to a full copy of the weight (straight-through), and its
    mean or sum over a cluster to the centroid; then each value of the full copy chooses
    its nearest centroid anew.

    Args:
        original: float variable of the weight's shape, the full copy.
        centroids: float variable, (clusters,) or (clusters, size of the last axis).
        aggregation: `"avg"` or `"sum"`, see `cluster_weights`.
        preserve_sparsity: bool, whether what is zero in `original` and in `centroids`
            stays zero.
        inner: the constraint that the weight had before, applied first, or None.
    """

    def __init__(
        self,
        original,
        centroids,
        aggregation="avg",
        preserve_sparsity=False,
        inner=None,
    ):
        self.original = original
        self.centroids = centroids
        self.aggregation = aggregation
        self.preserve_sparsity = preserve_sparsity
        self.inner = inner

    def __call__(self, w):
        import tensorflow as tf

        weight = ops.convert_to_tensor(w if self.inner is None else self.inner(w))
        original = tf.convert_to_tensor(self.original.value)
        centroids = tf.convert_to_tensor(self.centroids.value)
        clusters, before = nearest(original, centroids)
        change = weight - before
        moved = centroids + self._aggregate(change, clusters, centroids)
        change = original + change
        if self.preserve_sparsity:
            change = tf.where(original == 0, tf.zeros_like(change), change)
            moved = tf.where(centroids == 0, tf.zeros_like(moved), moved)
        self.original.assign(change)
        self.centroids.assign(moved)
        return nearest(change, moved)[1]

    def clustered(self):
        """Returns the weight that the state describes."""
        import tensorflow as tf

        return nearest(
            tf.convert_to_tensor(self.original.value),
            tf.convert_to_tensor(self.centroids.value),
        )[1]

    def start(self, values, centroids):
        """Sets the state to a weight's values and the centroids to begin with."""
        self.centroids.assign(centroids)
        self.original.assign(values)
        if self.preserve_sparsity:  # what is nearest to zero is zero from now on
            self.original.assign(
                ops.where(ops.equal(self.clustered(), 0), 0.0, self.original)
            )

    def _aggregate(self, change, clusters, centroids):
        """Sum or mean of `change` over each cluster, in the shape of `centroids`."""
        import tensorflow as tf

        if len(centroids.shape) == 2:  # a cluster of its own in every channel
            channels = centroids.shape[1]
            clusters = clusters * channels + tf.range(channels)
        segment = tf.math.unsorted_segment_sum
        clusters = tf.reshape(clusters, [-1])
        size = centroids.shape.num_elements()
        sums = segment(tf.reshape(change, [-1]), clusters, size)
        if self.aggregation == "avg":
            sums /= tf.maximum(
                segment(tf.ones_like(clusters, sums.dtype), clusters, size), 1
            )
        return tf.reshape(sums, centroids.shape)


class ClusteringState(keras.layers.Layer):
    """Full copies and centroids of the clustered weights, saved along with a model.

    Args:
        weights: [(weight, shape of its centroids)].
    """

    def __init__(self, weights):
        super().__init__(name="clustering_state", dtype="float32")
        self.originals, self.centroids = [], []
        for weight, shape in weights:
            name = weight.path.replace("/", "_")
            self.originals.append(
                clustering_variable(self, f"{name}_original", weight.shape)
            )
            self.centroids.append(clustering_variable(self, f"{name}_centroids", shape))
        self.built = True

    def load_own_variables(self, store):
        if not len(store.keys()):
            raise ValueError(
                "The file is of a model that was not clustered yet, and centroids come "
                "from the weights: load it first, then call cluster_weights."
            )
        super().load_own_variables(store)


def clustering_variable(layer, name, shape):
    """Adds a variable of the clustering state to a layer."""
    return layer.add_weight(
        name=name,
        shape=shape,
        dtype="float32",
        initializer="zeros",
        trainable=False,
        autocast=False,
        aggregation="only_first_replica",
    )


def nearest(values, centroids):
    """Returns number and value of the centroid nearest to each value.

    One centroid after the other: all distances at once would take as many times the
    memory of the weight as there are clusters. Of equally near ones the first is taken.

    Args:
        values: float tensor of any shape.
        centroids: float tensor (clusters,) or (clusters, size of the last axis).
    """
    import tensorflow as tf

    def compare(index, distance, cluster, value):
        centroid = centroids[index]
        other = tf.abs(values - centroid)
        is_nearer = other < distance
        return (
            index + 1,
            tf.where(is_nearer, other, distance),
            tf.where(is_nearer, index, cluster),
            tf.where(is_nearer, centroid, value),
        )

    first = tf.zeros_like(values) + centroids[0]
    start = (1, tf.abs(values - first), tf.zeros_like(values, tf.int32), first)
    _, _, cluster, value = tf.while_loop(
        lambda index, *_: index < centroids.shape[0], compare, start
    )
    return cluster, value
