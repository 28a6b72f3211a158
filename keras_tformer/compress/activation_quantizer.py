"""Fake quantization of one activation tensor."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_tformer")
class ActivationQuantizer(keras.layers.Layer):
    """Rounds a tensor to the 2^num_bits values that int8 inference can represent.

    Jacob et al. 2018, section 3: affine quantization with a range for the whole
    tensor; the gradient passes unchanged inside the range and is zero outside
    (straight-through). The range is a running mean of the batches' smallest and largest
    values, then a moving average: TF-MOT's `MovingAvgQuantize` with a start that needs
    no thousands of steps.

    Args:
        num_bits: int, 8.
        symmetric: bool, whether zero lies in the middle of the integers (LiteRT's int8
            matrix product is right for such second operands only).
        range_decay: float in [0, 1), share of the old range that survives a batch.
        fixed_range: (smallest, largest) of a range that is known, or None to learn it.
        is_masked_score: bool, whether the tensor goes into a softmax behind an
            attention mask. Its range then reaches exactly `softmax_depth` below the
            largest value: what lies deeper has no weight, and masked positions stay
            masked even if no batch of the calibration had one.
        is_score: bool, whether it goes into a softmax: nothing deeper than
            `softmax_depth` widens the range.
        softmax_depth: float, 30; exp(-30) is 1e-13.
        start_step: int, training batches that pass in float while the range is
            learned.
        freeze_step: int, training batches after which the range stays, or None.

    Call arguments:
        inputs: float tensor of any shape.
        training: bool, whether the range is updated.

    Returns:
        A tensor of the same shape and dtype.

    Example:

    >>> import keras
    >>> quantizer = ActivationQuantizer(fixed_range=(0.0, 255.0))
    >>> quantizer(keras.ops.array([-3.0, 0.4, 7.7, 300.0])).numpy().tolist()
    [0.0, 0.0, 8.0, 255.0]
    """

    def __init__(
        self,
        num_bits=8,
        symmetric=False,
        range_decay=0.99,
        fixed_range=None,
        is_masked_score=False,
        is_score=False,
        softmax_depth=30.0,
        start_step=0,
        freeze_step=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_bits = num_bits
        self.symmetric = symmetric
        self.range_decay = range_decay
        self.fixed_range = None if fixed_range is None else tuple(fixed_range)
        self.is_masked_score = is_masked_score
        self.is_score = is_score
        self.softmax_depth = softmax_depth
        self.start_step = start_step
        self.freeze_step = freeze_step
        self.supports_masking = True
        self.is_calibrating = False

    def build(self, inputs_shape):
        if self.start_step or self.freeze_step is not None:
            self.step = self._range_weight("step", 0.0, "only_first_replica")
        if self.fixed_range is None:
            self.range_min = self._range_weight("range_min", -6.0, "mean")
            self.range_max = self._range_weight("range_max", 6.0, "mean")
            self.num_batches = self._range_weight(
                "num_batches", 0.0, "only_first_replica"
            )
        self.built = True

    def call(self, inputs, training=False):
        is_learned = self.fixed_range is None
        if is_learned and (training or self.is_calibrating):
            self._update_range(ops.cast(inputs, "float32"))
        if self.is_calibrating:
            return inputs
        bounds = (self.range_min, self.range_max) if is_learned else self.fixed_range
        outputs = self._quantize(inputs, *bounds)
        if training and (self.start_step or self.freeze_step is not None):
            has_started = ops.greater_equal(self.step, self.start_step)
            outputs = ops.where(has_started, outputs, inputs)
            self.step.assign(self.step + 1)
        return outputs

    def compute_output_spec(self, inputs, training=False):
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "num_bits": self.num_bits,
            "symmetric": self.symmetric,
            "range_decay": self.range_decay,
            "fixed_range": self.fixed_range,
            "is_masked_score": self.is_masked_score,
            "is_score": self.is_score,
            "softmax_depth": self.softmax_depth,
            "start_step": self.start_step,
            "freeze_step": self.freeze_step,
        }

    def _quantize(self, inputs, smallest, largest):
        return keras.quantizers.fake_quant_with_min_max_vars(
            inputs, smallest, largest, num_bits=self.num_bits
        )

    def _update_range(self, x):
        smallest, largest = self._batch_range(x)
        rate = 1 / (self.num_batches + 1)  # a running mean of the first batches
        if not self.is_calibrating:
            rate = ops.maximum(rate, 1 - self.range_decay)
            if self.freeze_step is not None:
                rate = ops.where(ops.less(self.step, self.freeze_step), rate, 0.0)
        self.range_min.assign(self.range_min + (smallest - self.range_min) * rate)
        self.range_max.assign(self.range_max + (largest - self.range_max) * rate)
        self.num_batches.assign(self.num_batches + 1)

    def _batch_range(self, x):
        """Smallest and largest value that must be representable; zero always is."""
        smallest, largest = ops.min(x), ops.max(x)
        if self.is_masked_score:
            smallest = largest - self.softmax_depth
        elif self.is_score:
            smallest = ops.maximum(smallest, largest - self.softmax_depth)
        smallest, largest = ops.minimum(smallest, 0.0), ops.maximum(largest, 0.0)
        if self.symmetric:  # -128 .. 127 steps around zero
            ratio = (2**self.num_bits - 2) / 2**self.num_bits
            smallest = ops.minimum(smallest, -largest / ratio)
            largest = ops.maximum(largest, -smallest * ratio)
        return smallest, largest

    def _range_weight(self, name, value, aggregation):
        return self.add_weight(
            name=name,
            shape=(),
            initializer=keras.initializers.Constant(value),
            trainable=False,
            dtype="float32",
            autocast=False,
            aggregation=aggregation,
        )
