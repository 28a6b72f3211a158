"""LAMB as its paper has it."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_tformer")
class Lamb(keras.optimizers.Lamb):
    """Updates each variable by a step as long as the variable, times the rate.

    You et al. 2020, algorithm 2, with phi the identity: with Adam's corrected moments
    and `r = m / (sqrt(v) + epsilon)`, a variable `x` loses
    `rate * |x| / |r + weight_decay * x| * (r + weight_decay * x)`. Where one of the
    norms is 0 the quotient is 1. `keras.optimizers.Lamb` takes the decay off outside of
    the quotient, where a large batch's rate makes it many times as strong.

    A variable that is left out of the decay (`exclude_from_weight_decay`) has a
    quotient of 1 as well, as in the authors' code: biases and normalizations are then
    updated as Adam does.

    Args:
        learning_rate: float, or a `LearningRateSchedule`.
        weight_decay: float >= 0, or None for none.
        **kwargs: the others of `keras.optimizers.Lamb`.

    Example:
        >>> optimizer = Lamb(0.1, weight_decay=0.0)
        >>> variable = keras.Variable([3.0, 4.0])
        >>> optimizer.apply([keras.ops.array([1.0, 1.0])], [variable])
        >>> [round(float(v), 3) for v in keras.ops.convert_to_numpy(variable)]
        [2.646, 3.646]
    """

    def _apply_weight_decay(self, variables):
        """Does nothing: the decay is part of each variable's update."""

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        moments = self._momentums[index], self._velocities[index]
        gradient = ops.cast(gradient, variable.dtype)
        step = ops.cast(self.iterations + 1, variable.dtype)
        corrected = []
        for moment, value, beta in (
            (moments[0], gradient, self.beta_1),
            (moments[1], ops.square(gradient), self.beta_2),
        ):
            # Rounded once for both uses, or the correction is off by 5e-5 (Keras').
            beta = ops.cast(beta, variable.dtype)
            self.assign_add(moment, (value - moment) * (1 - beta))
            corrected.append(ops.convert_to_tensor(moment) / (1 - beta**step))
        update = corrected[0] / (ops.sqrt(corrected[1]) + self.epsilon)
        quotient = 1.0
        if self._use_weight_decay(variable):
            value = ops.convert_to_tensor(variable)
            update += (self.weight_decay or 0.0) * value
            length, update_length = (
                ops.sqrt(ops.sum(ops.square(tensor))) for tensor in (value, update)
            )
            # A norm of 0 must not reach the division, or NaN would be selected from.
            is_long = ops.logical_and(length > 0, update_length > 0)
            quotient = ops.where(
                is_long, length / ops.where(is_long, update_length, 1.0), 1.0
            )
        rate = ops.cast(learning_rate, variable.dtype)
        self.assign_sub(variable, rate * quotient * update)
