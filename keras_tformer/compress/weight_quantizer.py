"""A layer whose weights are fake-quantized whenever it is called."""

import math

import keras
from keras import ops

from keras_tformer.compress.quantization_rules import quantizable_weights
from keras_tformer.compress.round_channels import round_channels
from keras_tformer.compress.weight_clustering import (
    WeightClustering,
    clustering_variable,
)

# By name: layers/ is another room.
EMBEDDINGS = ("TokenEmbedding", "Embedding", "ReversibleEmbedding")


@keras.saving.register_keras_serializable(package="keras_tformer")
class WeightQuantizer(keras.layers.Layer):
    """Runs a layer with its kernel or table rounded to what int8 can represent.

    Symmetric, narrow range (-127..127), so that zero stays exactly zero. Kernels have
    one scale for each output channel, embedding tables one for all (LiteRT looks
    tables up with a single scale). The range is that of the weight as it is: TF-MOT's
    `LastValueQuantize`. The gradient passes unchanged to the float weight (straight-
    through estimator), which the optimizer keeps training. All calls of the layer,
    also a table used in reverse, see one quantized weight.

    Args:
        layer: the layer, with weights named `kernel` or `embeddings`.
        num_bits: int from 2 to 8.
        per_channel: bool, whether kernels have a scale for each output channel.
        preserve_sparsity: bool, whether weights that are zero get no gradient and so
            stay zero: pruning-preserving training (PQAT).
        centroid_shapes: for each of the layer's weights the shape of its centroids, or
            None where it is not clustered: cluster-preserving training (CQAT, with
            `preserve_sparsity` PCQAT). A `WeightClustering` constraint keeps as many
            values while the model trains; its state is saved with the model.
        start_step: int, training batches that see the float weights.
        num_calls: int, how often the model calls the layer in one batch.

    Call arguments:
        inputs: what the layer takes.
        training: bool.
        **kwargs: further arguments of the layer.

    Returns:
        What the layer returns.

    Example:

    >>> import keras
    >>> layer = WeightQuantizer(keras.layers.Dense(1, use_bias=False))
    >>> layer.build((None, 2))
    >>> _ = layer.layer.kernel.assign(keras.ops.array([[1.27], [0.003]]))
    >>> outputs = layer(keras.ops.array([[1.0, 0.0], [0.0, 1.0]]))
    >>> [round(float(row[0]), 3) for row in outputs]
    [1.27, 0.0]
    """

    def __init__(
        self,
        layer,
        num_bits=8,
        per_channel=True,
        preserve_sparsity=False,
        centroid_shapes=None,
        start_step=0,
        num_calls=1,
        **kwargs,
    ):
        kwargs.setdefault("name", layer.name)
        kwargs.setdefault("dtype", layer.dtype_policy)
        super().__init__(**kwargs)
        self.layer = layer
        self.num_bits = num_bits
        self.per_channel = per_channel
        self.preserve_sparsity = preserve_sparsity
        self.centroid_shapes = centroid_shapes
        self.start_step = start_step
        self.num_calls = num_calls
        self.supports_masking = layer.supports_masking

    def build(self, inputs_shape):
        if not self.layer.built:
            self.layer.build(inputs_shape)
        if self.start_step:
            self.step = self.add_weight(
                name="step",
                shape=(),
                dtype="float32",
                initializer="zeros",
                trainable=False,
                autocast=False,
                aggregation="only_first_replica",
            )
        weights = quantizable_weights(self.layer)
        for weight, shape in zip(weights, self.centroid_shapes or (), strict=False):
            if shape is not None:
                weight.constraint = WeightClustering(
                    clustering_variable(self, f"{weight.name}_original", weight.shape),
                    clustering_variable(self, f"{weight.name}_centroids", shape),
                    preserve_sparsity=self.preserve_sparsity,
                    inner=weight.constraint,
                )
        self.built = True

    def call(self, inputs, training=False, **kwargs):
        if training and any(self.centroid_shapes or ()):
            self._refuse_averages()
        if training and self._only_picks_rows(kwargs):
            # Rounding them is as good as rounding all of a large table, and cheap. A
            # converter wants the table itself rounded, so at inference it is.
            rows = self.layer.call(inputs, **kwargs)
            outputs = self.quantized(self.layer.embeddings, training, rows)
        else:
            # In the scope the layer reads the rounded values in place of its weights.
            mapping = [
                (weight, self.quantized(weight, training))
                for weight in quantizable_weights(self.layer)
            ]
            with keras.StatelessScope(state_mapping=mapping):
                outputs = self.layer.call(inputs, **kwargs)
        if training and self.start_step:
            self.step.assign(self.step + 1)
        return outputs

    def compute_output_spec(self, inputs, training=False, **kwargs):
        return self.layer.compute_output_spec(inputs, **kwargs)

    def compute_mask(self, inputs, previous_mask=None):
        return self.layer.compute_mask(inputs, previous_mask)

    def quantized(self, weight, training=False, part=None):
        """Returns the fake-quantized value of one of the layer's weights.

        With `part`, values of a weight that has one scale, these are rounded instead.
        """
        whole = ops.convert_to_tensor(weight.value)
        value = whole if part is None else part
        if self.preserve_sparsity and training:
            value = value * ops.stop_gradient(
                ops.cast(ops.not_equal(value, 0), value.dtype)
            )
        columns = self._num_channels(weight)
        if columns is None:
            largest = ops.maximum(ops.max(whole), -ops.min(whole))
            largest = ops.stop_gradient(ops.maximum(largest, 1e-7))
            if training:
                rounded = keras.quantizers.fake_quant_with_min_max_vars(
                    value, -largest, largest, self.num_bits, narrow_range=True
                )
            else:
                rounded = _round_for_converters(value, largest, self.num_bits)
        else:
            channels = ops.reshape(value, (-1, columns))
            largest = ops.max(ops.abs(channels), axis=0)
            # A channel that is pruned away altogether still needs a scale.
            largest = ops.maximum(largest, 1e-4 * ops.max(largest))
            largest = ops.stop_gradient(ops.maximum(largest, 1e-7))
            if training:
                rounded = round_channels(channels, largest, self.num_bits)
            else:
                rounded = _round_for_converters(channels, largest, self.num_bits, 1)
            rounded = ops.reshape(rounded, whole.shape)
        if training and self.start_step:
            # `step` counts calls; all those of a batch see the weights alike.
            float_calls = self.start_step * self.num_calls
            has_started = ops.greater_equal(self.step, float_calls)
            return ops.where(has_started, rounded, value)
        return rounded

    def get_config(self):
        return {
            **super().get_config(),
            "layer": keras.saving.serialize_keras_object(self.layer),
            "num_bits": self.num_bits,
            "per_channel": self.per_channel,
            "preserve_sparsity": self.preserve_sparsity,
            "centroid_shapes": self.centroid_shapes,
            "start_step": self.start_step,
            "num_calls": self.num_calls,
        }

    @classmethod
    def from_config(cls, config):
        layer = keras.saving.deserialize_keras_object(config["layer"])
        return cls(**{**config, "layer": layer})

    def _refuse_averages(self):
        model = self._get_call_context().entry_layer  # what is being trained
        if getattr(getattr(model, "optimizer", None), "use_ema", False):
            raise ValueError(
                f"Layer '{self.name}' keeps the clusters of its weights, and the "
                "optimizer has use_ema=True: at the end of fit it would replace them "
                "by averages, which are not clustered. Compile without use_ema, or "
                "quantize_model(preserve_clusters=False)."
            )

    def _only_picks_rows(self, kwargs):
        kind = type(self.layer).__name__
        return (
            kind in EMBEDDINGS
            and self.compute_dtype == "float32"  # else rows are cast before
            and not kwargs.get("reverse")
        )

    def _num_channels(self, weight):
        """Number of output channels, if they are the last axes of the weight."""
        if not self.per_channel or "kernel" not in weight.name:
            return None
        if isinstance(self.layer, keras.layers.EinsumDense):
            operands, _ = self.layer.equation.split("->")
            inputs, kernel = operands.split(",")
            summed = [letter in inputs for letter in kernel]
            if summed != sorted(summed, reverse=True):
                return None  # summed axes do not come first
            return math.prod(weight.shape[sum(summed) :])
        if "Depthwise" in type(self.layer).__name__:
            return None
        # The converter leaves the product of a list of one scale in float.
        return weight.shape[-1] if weight.shape[-1] > 1 else None


def _round_for_converters(value, largest, num_bits, axis=None):
    """The same by the operation that converters to int8 know.

    They store 2 and 4 bits as int4 and 8 bits as int8. Rounded to other widths, values
    would be rounded once more, to another step; so they are rounded before and marked
    as the whole multiples that they are of a smaller step, 4 or 8 bits wide.
    """
    if num_bits not in (2, 4, 8):
        step = largest / (2 ** (num_bits - 1) - 1)
        value = ops.floor(ops.clip(value, -largest, largest) / step + 0.5) * step
        num_stored = 4 if num_bits < 4 else 8
        steps = (2 ** (num_stored - 1) - 1) / 2 ** (num_stored - num_bits)
        largest, num_bits = steps * step, num_stored
    return keras.quantizers.fake_quant_with_min_max_vars(
        value, -largest, largest, num_bits, narrow_range=True, axis=axis
    )
