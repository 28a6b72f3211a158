"""A callback that shows in TensorBoard how sparse each layer is."""

import keras

from keras_tformer.compress.sparsity import sparsity


class PruningSummaries(keras.callbacks.Callback):
    """Writes the share of zeros of every kernel and table to TensorBoard.

    After each epoch come `sparsity/<weight path>` and the mean over all of these
    weights, `sparsity`, which also joins the logs that other callbacks see.

    Args:
        log_dir: str or path of the folder that TensorBoard reads.

    Example:

    >>> import tempfile
    >>> import keras
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     history = model.fit(keras.ops.ones((4, 2)), keras.ops.ones((4, 1)),
    ...                         verbose=0, callbacks=[PruningSummaries(folder)])
    >>> history.history["sparsity"]
    [0.0]
    """

    def __init__(self, log_dir):
        super().__init__()
        self.log_dir = log_dir

    def on_train_begin(self, logs=None):
        import tensorflow as tf

        self.writer = tf.summary.create_file_writer(str(self.log_dir))

    def on_epoch_end(self, epoch, logs=None):
        import tensorflow as tf

        shares = sparsity(self.model)
        sizes = [w.shape for w in self.model.trainable_weights if len(w.shape) > 1]
        sizes = [float(tf.reduce_prod(shape)) for shape in sizes]
        zeros = sum(n * share for n, share in zip(sizes, shares.values(), strict=True))
        mean = zeros / max(sum(sizes), 1.0)
        scalars = {f"sparsity/{path}": share for path, share in shares.items()}
        summary = tf.compat.v1.Summary()  # tf.summary.scalar wants TensorBoard itself
        for tag, value in (scalars | {"sparsity": mean}).items():
            summary.value.add(tag=tag, simple_value=value)
        with self.writer.as_default(step=epoch):
            tf.summary.experimental.write_raw_pb(summary.SerializeToString())
        self.writer.flush()
        if logs is not None:
            logs["sparsity"] = mean

    def on_train_end(self, logs=None):
        self.writer.close()
