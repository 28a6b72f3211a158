"""Where the centroids of a weight start."""

import numpy as np

INITIALIZATIONS = ("kmeans++", "linear", "density_based", "random")


def initial_centroids(values, number_of_clusters, initialization, preserve_sparsity):
    """Returns the centroids that clustering of some weights starts from.

    The four ways of TF-MOT, with its numbers. With `preserve_sparsity` one centroid is
    zero, and the others are shared out between the negative and the positive weights
    according to how many there are.

    Args:
        values: float32 array of any shape.
        number_of_clusters: int.
        initialization: one of `INITIALIZATIONS`.
        preserve_sparsity: bool.

    Returns:
        Float32 array (number_of_clusters,). Where there are fewer weights than
        clusters, some centroids are equal.

    Example:

    >>> values = np.array([-1.0, 0.0, 0.5, 2.0, 3.0], "float32")
    >>> initial_centroids(values, 3, "linear", False).tolist()
    [-1.0, 1.0, 3.0]
    >>> initial_centroids(values, 4, "linear", True).tolist()
    [-1.0, 0.0, 0.5, 3.0]
    """
    values = np.asarray(values, "float32").reshape(-1)
    if preserve_sparsity:
        negative, positive = values[values < 0], values[values > 0]
        share = len(negative) / max(len(negative) + len(positive), 1)
        num_negative = int(np.round((number_of_clusters - 1) * share))
        parts = [
            _spread(negative, num_negative, initialization, True),
            np.zeros(1, "float32"),
            _spread(
                positive, number_of_clusters - 1 - num_negative, initialization, True
            ),
        ]
    else:
        parts = [_spread(values, number_of_clusters, initialization, False)]
    centroids = np.concatenate(parts)
    missing = number_of_clusters - len(centroids)
    return np.concatenate([centroids, np.repeat(centroids[-1:], missing)])


def _spread(values, count, initialization, beside_zero):
    """At most `count` centroids between the smallest and the largest value."""
    import tensorflow as tf

    if not count or not len(values):
        return np.zeros(0, "float32")
    smallest, largest = values.min(), values.max()
    if initialization == "linear":
        return tf.linspace(smallest, largest, count).numpy()
    if initialization == "random":
        return tf.random.uniform((count,), smallest, largest).numpy()
    if initialization == "density_based":
        return _by_density(values, count, beside_zero)
    if len(values) <= count:
        return np.sort(values)
    centroids = tf.raw_ops.KmeansPlusPlusInitialization(
        points=values[:, None], num_to_sample=count, seed=9, num_retries_per_sample=-1
    )
    return centroids.numpy()[:, 0]


def _by_density(values, count, beside_zero):
    """Centroids at evenly spaced shares of the values, looked up on a grid of 30."""
    import tensorflow as tf

    smallest, largest = values.min(), values.max()
    gap = np.float32(0.01)  # so that the shares on the grid run from 0 to 1
    if beside_zero:
        gap = np.minimum(gap, np.minimum(abs(smallest), abs(largest)) / 2)
    grid = tf.linspace(smallest - gap, largest + gap, 30).numpy()
    at_most = np.searchsorted(np.sort(values), grid, side="right")
    shares = at_most.astype("float32") / np.float32(len(values))
    wanted = tf.linspace(0.01, 1.0, count).numpy().astype("float32")
    return grid[np.minimum(np.searchsorted(shares, wanted, side="right"), 29)]


def shared_values(values, is_table):
    """Returns the centroids of a weight that was clustered before.

    Args:
        values: float32 array.
        is_table: bool, whether it is an embedding table, clustered as a whole only.

    Returns:
        Float32 array (clusters,) of the weight's distinct values; (clusters, size of
        the last axis) if only its channels have few; None if it is not clustered: it
        has more than 256 distinct values, or on average fewer than two weights share
        one (zeros, and a weight of a single value, say nothing).

    Example:

    >>> shared_values(np.array([[1.0, 2.0], [2.0, 0.0], [2.0, 1.0]]), False).tolist()
    [0.0, 1.0, 2.0]
    >>> shared_values(np.array([[1.0, 2.0], [3.0, 4.0]]), False) is None
    True
    """
    columns = values.reshape(-1, values.shape[-1]).T
    if not is_table and _is_shared(columns[:16]) and _is_shared(columns):
        distinct = [np.unique(column) for column in columns]
        size = max(len(x) for x in distinct)
        if len(np.unique(np.concatenate(distinct))) > 2 * size:
            padded = [np.pad(x, (0, size - len(x)), mode="edge") for x in distinct]
            return np.stack(padded, axis=1)
    # Sorting a large table takes long, and a part of it shows most that are none.
    if len(np.unique(values.reshape(-1)[: 2**16])) > 256:
        return None
    return np.unique(values) if _is_shared(values.reshape(1, -1)) else None


def _is_shared(columns):
    """Whether on average two and more nonzero weights of a column have one value."""
    distinct = [np.unique(column) for column in columns]
    num_values = sum(np.count_nonzero(x) for x in distinct)
    return (
        max(len(x) for x in distinct) <= 256
        and num_values > len(columns)
        and 2 * num_values <= np.count_nonzero(columns)
    )
