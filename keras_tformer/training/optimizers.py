"""The optimizers of BERT and ALBERT with the settings that the papers' code has."""

from keras_tformer.training.fused_adamw import FusedAdamW
from keras_tformer.training.lamb import Lamb

# Keras searches this in the name of a Keras variable (`bias`) or, on the TensorFlow
# backend, of the tf.Variable in it (`dense/bias:0`, `dense/bias/replica_1:0`).
NOT_DECAYED = r"(^|/)(bias|gamma|beta)(/replica_\d+)?(:\d+)?$"


def adamw(
    learning_rate,
    weight_decay=0.01,
    beta_1=0.9,
    beta_2=0.999,
    epsilon=1e-6,
    global_clipnorm=1.0,
    rate_factors=None,
):
    """Makes an AdamW that decays kernels and embeddings, not biases and normalizations.

    Devlin et al. 2019, appendix A.2: Adam with beta_1 0.9, beta_2 0.999 and L2 weight
    decay of 0.01; epsilon, the clipping of the gradient's norm to 1 and the variables
    left out of the decay are those of the code that the authors published. Decay is
    decoupled from the gradient (Loshchilov and Hutter 2019, algorithm 2).

    A variable is left out by its own name: `bias`, and `gamma` and `beta` of a
    `LayerNormalization`. The choice is not part of the optimizer's saved config: after
    `keras.saving.load_model`, compile again with a new `adamw` to go on training.

    Args:
        learning_rate: float, or a `LearningRateSchedule`.
        weight_decay: float >= 0. Share of a variable taken off per step, times the
            rate.
        beta_1: float in [0, 1). Memory of the mean of the gradient.
        beta_2: float in [0, 1). Memory of the mean of its square.
        epsilon: float > 0. Added to the root of the mean square.
        global_clipnorm: float > 0, or None for no clipping. Largest norm of all
            gradients together.
        rate_factors: dict from a variable's path to the float that multiplies its
            learning rate, or None. `layer_rate_factors` makes one.

    Returns:
        A `FusedAdamW`, which computes what `keras.optimizers.AdamW` does.

    Raises:
        ValueError: if `weight_decay` is negative or None.

    Example:
        >>> schedule = kt.training.LinearWarmup(1e-4, warmup_steps=10, total_steps=100)
        >>> optimizer = kt.training.adamw(schedule)
        >>> optimizer.weight_decay
        0.01
    """
    _check_weight_decay(weight_decay)
    optimizer = FusedAdamW(
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        beta_1=beta_1,
        beta_2=beta_2,
        epsilon=epsilon,
        global_clipnorm=global_clipnorm,
        rate_factors=rate_factors,
    )
    optimizer.exclude_from_weight_decay(var_names=[NOT_DECAYED])
    return optimizer


def lamb(
    learning_rate,
    weight_decay=0.01,
    beta_1=0.9,
    beta_2=0.999,
    epsilon=1e-6,
    global_clipnorm=1.0,
):
    """Makes a LAMB that neither decays nor rescales biases and normalizations.

    The optimizer that ALBERT was pretrained with (Lan et al. 2019, section 4.1), for
    batches of thousands of rows; the settings are those of the code that its authors
    published. Of the variables it leaves out and of saving, what `adamw` says holds.

    Args:
        learning_rate: float, or a `LearningRateSchedule`. 0.00176 in ALBERT's paper,
            for 4096 rows.
        weight_decay: float >= 0. Share of a variable added to its update.
        beta_1: float in [0, 1). Memory of the mean of the gradient.
        beta_2: float in [0, 1). Memory of the mean of its square.
        epsilon: float > 0. Added to the root of the mean square.
        global_clipnorm: float > 0, or None for no clipping. Largest norm of all
            gradients together.

    Returns:
        A `Lamb`.

    Raises:
        ValueError: if `weight_decay` is negative or None.

    Example:
        >>> optimizer = kt.training.lamb(1.76e-3)
        >>> optimizer.weight_decay
        0.01
    """
    _check_weight_decay(weight_decay)
    optimizer = Lamb(
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        beta_1=beta_1,
        beta_2=beta_2,
        epsilon=epsilon,
        global_clipnorm=global_clipnorm,
    )
    optimizer.exclude_from_weight_decay(var_names=[NOT_DECAYED])
    return optimizer


def _check_weight_decay(weight_decay):
    if weight_decay is None or weight_decay < 0:
        raise ValueError(
            f"Received weight_decay={weight_decay}. Expected a float >= 0. Use 0.01 as "
            "the paper does, or 0.0 for no decay."
        )
