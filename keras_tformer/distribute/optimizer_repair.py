"""Repair of Keras' optimizers, which take a replica's gradient for the whole one."""

from keras import ops

from keras_tformer.distribute.replace import one_of_several_replicas, replace


def repair_optimizers():
    """Adds gradients up over the replicas before an optimizer does anything with them.

    Keras 3.13 to 3.15 adds them up last. So `clipnorm`, `global_clipnorm` and
    `clipvalue` bound a replica's share; rows of an embedding's gradient that occur
    twice are squared one by one by Adam and its like (no upstream issue found for
    these); a `LossScaleOptimizer` looks for infinities in one replica's gradient;
    `gradient_accumulation_steps` (keras #20582) and `ema_overwrite_frequency` end in an
    error, because a branch may not add up.

    Example:
        >>> repair_optimizers()
    """
    import keras
    from keras.src.backend.tensorflow.optimizer import TFOptimizer

    replace(TFOptimizer, "_backend_apply_gradients", _apply_gradients)
    replace(TFOptimizer, "_all_reduce_sum_gradients", _leave_whole_gradients)
    replace(
        TFOptimizer,
        "_overwrite_model_variables_with_average_value",
        _overwrite_with_averages,
    )
    replace(keras.optimizers.LossScaleOptimizer, "check_finite", _check_finite)


def _apply_gradients(original):
    def apply_gradients(self, grads, trainable_variables):
        import tensorflow as tf

        context = one_of_several_replicas()
        if context is None:
            original(self, grads, trainable_variables)
            return

        def update(*grads):
            grads = self._clip_gradients(list(grads))
            self._apply_weight_decay(trainable_variables)
            self._backend_update_step(grads, trainable_variables, self.learning_rate)

        grads = [tf.convert_to_tensor(gradient) for gradient in grads]  # no rows
        grads = context.all_reduce(tf.distribute.ReduceOp.SUM, grads)
        steps = self.gradient_accumulation_steps
        if steps:
            kept = [
                self._accumulated_gradients[self._get_variable_index(variable)]
                for variable in trainable_variables
            ]
            is_last = (self._iterations + 1) % steps == 0
            sums = [new + old for new, old in zip(grads, kept, strict=True)]
            _on_every_replica_if(is_last, update, *[total / steps for total in sums])
            for variable, total in zip(kept, sums, strict=True):
                variable.assign(ops.where(is_last, ops.zeros_like(total), total))
        else:
            update(*grads)

        if self.use_ema:
            self._update_model_variables_moving_average(self._trainable_variables)
            if self.ema_overwrite_frequency:
                _on_every_replica_if(
                    (self.iterations + 1) % self.ema_overwrite_frequency == 0,
                    lambda: self._overwrite_model_variables_with_average_value(
                        self._trainable_variables
                    ),
                )

    return apply_gradients


def _leave_whole_gradients(original):
    def all_reduce_sum_gradients(self, grads_and_vars):
        if one_of_several_replicas() is None:
            return original(self, grads_and_vars)
        return grads_and_vars

    return all_reduce_sum_gradients


def _overwrite_with_averages(original):
    def overwrite(self, trainable_variables):
        import tensorflow as tf

        if one_of_several_replicas() is None:
            original(self, trainable_variables)
            return
        # As Keras' other updates: leave the replicas, then assign on every device.
        tf.distribute.get_replica_context().merge_call(
            lambda strategy: original(self, trainable_variables)
        )

    return overwrite


def _check_finite(original):
    def check_finite(self, grads):
        import tensorflow as tf

        finite = original(self, grads)
        context = one_of_several_replicas()
        if context is None:
            return finite
        infinite = tf.cast(tf.logical_not(finite), tf.float32)
        return context.all_reduce(tf.distribute.ReduceOp.SUM, infinite) == 0

    return check_finite


def _on_every_replica_if(condition, function, *tensors):
    """Runs `function(*tensors)` on all replicas or on none.

    A replica may not add up inside a branch. The branch is therefore taken outside of
    the replicas, which are entered again in it, as `LossScaleOptimizer` does.
    """
    import tensorflow as tf

    def branch(strategy, condition, *tensors):
        def run():
            strategy.extended.call_for_each_replica(function, args=tensors)
            return True

        condition = strategy.experimental_local_results(condition)[0]
        tf.cond(condition, run, lambda: False)

    context = tf.distribute.get_replica_context()
    context.merge_call(branch, args=(condition, *tensors))
