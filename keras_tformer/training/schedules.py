"""Learning rates over steps that Keras lacks; it has cosine and polynomial ones."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_tformer")
class LinearWarmup(keras.optimizers.schedules.LearningRateSchedule):
    """Climbs from 0 to a peak in a straight line, then falls to the end value.

    The schedule of BERT: "learning rate warmup over the first 10,000 steps, and linear
    decay of the learning rate" (Devlin et al. 2019, appendix A.2). The fall starts at
    the peak, so that the line is unbroken; past `total_steps` the rate stays at `end`.
    With `power` the fall is `end + (peak - end) * (1 - share of the fall) ** power`,
    the polynomial decay of LAMB's and ALBERT's code. For a cosine take
    `keras.optimizers.schedules.CosineDecay`, which has a warm-up of its own.

    Args:
        peak: float > 0. The highest learning rate, reached at step `warmup_steps`.
        warmup_steps: int >= 0. Optimizer steps of the climb.
        total_steps: int > `warmup_steps`. Optimizer steps after which the rate is
            `end`.
        end: float >= 0. The last learning rate.
        power: float > 0. 1 for a straight fall; above it falls faster at first.

    Call arguments:
        step: integer or integer tensor, the number of updates made so far.

    Returns:
        A scalar float tensor: the learning rate of the next update.

    Raises:
        ValueError: if a number is outside the ranges above.

    Example:
        >>> schedule = LinearWarmup(peak=1e-3, warmup_steps=10, total_steps=110)
        >>> [round(float(schedule(step)), 6) for step in (0, 5, 10, 60, 110, 500)]
        [0.0, 0.0005, 0.001, 0.0005, 0.0, 0.0]
    """

    def __init__(
        self,
        peak,
        warmup_steps,
        total_steps,
        end=0.0,
        power=1.0,
        name="linear_warmup",
    ):
        super().__init__()
        if not (peak > 0 and end >= 0 and power > 0):
            raise ValueError(
                f"Received peak={peak}, end={end}, power={power}. Expected peak > 0, "
                "end >= 0 and power > 0. Give learning rates, such as peak=1e-4 and "
                "end=0.0, and power=1.0 for a straight fall."
            )
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(
                f"Received warmup_steps={warmup_steps}, total_steps={total_steps}. "
                "Expected 0 <= warmup_steps < total_steps. Count both in optimizer "
                "steps: total_steps = epochs * steps per epoch, a tenth of it to warm "
                "up."
            )
        self.peak = peak
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps
        self.end = end
        self.power = power
        self.name = name

    def __call__(self, step):
        step = ops.cast(step, "float32")
        climb = step / max(self.warmup_steps, 1)
        fall = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        rest = (1.0 - ops.clip(fall, 0.0, 1.0)) ** self.power
        return ops.where(
            step < self.warmup_steps,
            self.peak * climb,
            self.end + (self.peak - self.end) * rest,
        )

    def get_config(self):
        return {
            "peak": self.peak,
            "warmup_steps": self.warmup_steps,
            "total_steps": self.total_steps,
            "end": self.end,
            "power": self.power,
            "name": self.name,
        }


@keras.saving.register_keras_serializable(package="keras_tformer")
class InverseSquareRoot(keras.optimizers.schedules.LearningRateSchedule):
    """Climbs in a straight line, then falls with the square root of the step.

    `hidden_dim ** -0.5 * min(step ** -0.5, step * warmup_steps ** -1.5)`
    (Vaswani et al. 2017, section 5.3, equation 3), where the first update is step 1.

    Args:
        hidden_dim: int > 0. Width of the model, the paper's d_model.
        warmup_steps: int > 0. Optimizer steps of the climb; 4000 in the paper.

    Call arguments:
        step: integer or integer tensor, the number of updates made so far.

    Returns:
        A scalar float tensor: the learning rate of the next update.

    Raises:
        ValueError: if a number is not positive.

    Example:
        >>> schedule = InverseSquareRoot(hidden_dim=512, warmup_steps=4000)
        >>> round(float(schedule(3999)), 6)
        0.000699
    """

    def __init__(self, hidden_dim, warmup_steps=4000, name="inverse_square_root"):
        super().__init__()
        if not (hidden_dim > 0 and warmup_steps > 0):
            raise ValueError(
                f"Received hidden_dim={hidden_dim}, warmup_steps={warmup_steps}. "
                "Expected positive integers. The paper has hidden_dim=512, "
                "warmup_steps=4000."
            )
        self.hidden_dim = hidden_dim
        self.warmup_steps = warmup_steps
        self.name = name

    def __call__(self, step):
        # Keras counts the updates made, the paper the update being made.
        step = ops.cast(step, "float32") + 1.0
        return self.hidden_dim**-0.5 * ops.minimum(
            ops.rsqrt(step), step * self.warmup_steps**-1.5
        )

    def get_config(self):
        return {
            "hidden_dim": self.hidden_dim,
            "warmup_steps": self.warmup_steps,
            "name": self.name,
        }
