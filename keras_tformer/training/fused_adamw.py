"""AdamW as one operation a variable."""

import keras
from keras import ops

ENABLE_LIFTING = "experimental_enable_variable_lifting"  # TensorFlow's word


@keras.saving.register_keras_serializable(package="keras_tformer")
class FusedAdamW(keras.optimizers.AdamW):
    """Updates a variable in one pass over it instead of twelve.

    Loshchilov and Hutter 2019, algorithm 2. The same arguments, state and values as
    `keras.optimizers.AdamW`, to float32 rounding. On the TensorFlow backend the moments
    and the variable are updated by TensorFlow's own Adam kernel, and what does not
    depend on the variable (rate, powers of the betas, share that decays) is computed
    once a step: Keras writes some 25 operations for each variable, about half of a
    training step's graph. On other backends, with `amsgrad` and for gradients of rows
    (`IndexedSlices`) it is Keras' own code that runs.

    Args:
        learning_rate: float, or a `LearningRateSchedule`.
        rate_factors: dict from a variable's path to the float that multiplies its
            learning rate, and with it its decay; 1 for variables that it lacks.
        **kwargs: those of `keras.optimizers.AdamW`.

    Raises:
        ValueError: if `rate_factors` holds a negative number, names a variable that
            is not trained (when the optimizer is built), or Keras runs on PyTorch,
            where it updates all variables at once.

    Example:
        >>> optimizer = FusedAdamW(1e-3, weight_decay=0.01)
        >>> variable = keras.Variable([1.0, -1.0])
        >>> optimizer.apply([keras.ops.array([0.5, 0.0])], [variable])
        >>> [round(float(v), 5) for v in keras.ops.convert_to_numpy(variable)]
        [0.99899, -0.99999]
    """

    def __init__(self, learning_rate=0.001, rate_factors=None, **kwargs):
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.rate_factors = dict(rate_factors or {})
        if any(factor < 0 for factor in self.rate_factors.values()):
            raise ValueError(
                f"Received rate_factors={self.rate_factors}. Expected numbers >= 0. "
                "Give the float that each variable's learning rate is multiplied by."
            )
        if self.rate_factors and keras.backend.backend() == "torch":
            raise ValueError(
                "Received rate_factors on the PyTorch backend, where Keras updates all "
                "variables at one rate. Expected TensorFlow or JAX. Leave it out."
            )

    def get_config(self):
        return {**super().get_config(), "rate_factors": self.rate_factors}

    def build(self, var_list):
        unknown = set(self.rate_factors) - {variable.path for variable in var_list}
        if unknown:
            raise ValueError(
                f"rate_factors names {sorted(unknown)[:3]}, which are not trained. "
                f"Expected paths such as {var_list[0].path!r}. Leave them out."
            )
        self._factors = [self.rate_factors.get(v.path, 1.0) for v in var_list]
        if keras.backend.backend() != "tensorflow":
            super().build(var_list)
            return
        import tensorflow as tf

        def eagerly(next_creator, **kwargs):
            return next_creator(**{**kwargs, ENABLE_LIFTING: False})

        # `fit` builds the optimizer inside the first trace of the training step, and a
        # function that made variables while it was traced is traced a second time.
        with tf.init_scope(), tf.variable_creator_scope(eagerly):
            super().build(var_list)

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        if keras.backend.backend() == "tensorflow" and not self.amsgrad:
            learning_rate = self._scalars(learning_rate)
        super()._backend_update_step(grads, trainable_variables, learning_rate)

    def _all_reduce_sum_gradients(self, grads_and_vars):
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        if context is not None and context.num_replicas_in_sync == 1:
            return grads_and_vars  # Keras copies each: an operation a variable
        return super()._all_reduce_sum_gradients(grads_and_vars)

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        factor = self._factors[index]
        if not isinstance(learning_rate, tuple):
            if factor != 1:
                learning_rate = learning_rate * factor
            super().update_step(gradient, variable, learning_rate)
            return
        import tensorflow as tf

        if factor != 1:
            learning_rate = (learning_rate[0] * factor, *learning_rate[1:])
        if isinstance(gradient, tf.IndexedSlices):
            super().update_step(gradient, variable, learning_rate[0])
            return
        names = ("lr", "beta1_power", "beta2_power", "beta1", "beta2", "epsilon")
        scalars = (tf.cast(number, variable.dtype) for number in learning_rate)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            grad=tf.cast(gradient, variable.dtype),
            **dict(zip(names, scalars, strict=True)),
        )

    def _apply_weight_decay(self, variables):
        if self.weight_decay is None:
            return
        if keras.backend.backend() != "tensorflow":
            share = self.learning_rate * self.weight_decay
            for variable in filter(self._use_weight_decay, variables):
                factor = self._factors[self._get_variable_index(variable)]
                shrunk = variable * ops.cast(share * factor, variable.dtype)
                variable.assign(variable - shrunk)
            return
        import tensorflow as tf

        share = tf.cast(self.learning_rate, "float32") * self.weight_decay
        variables = [getattr(v, "value", v) for v in variables]
        decayed = [v for v in variables if self._use_weight_decay(v)]
        factors = [self._factors[self._get_variable_index(v)] for v in decayed]

        def shrink(variable, share):
            variable.assign_sub(variable * tf.cast(share, variable.dtype))

        def shrink_all(strategy, share):
            for variable, factor in zip(decayed, factors, strict=True):
                share_here = share if factor == 1 else share * factor
                strategy.extended.update(
                    variable, shrink, args=(share_here,), group=False
                )

        # As Keras does it: under a strategy, updates happen outside of the replicas.
        tf.__internal__.distribute.interim.maybe_merge_call(
            shrink_all, self._distribution_strategy, share
        )

    def _scalars(self, learning_rate):
        import tensorflow as tf

        step = tf.cast(tf.convert_to_tensor(self.iterations), "float32") + 1.0
        beta_1, beta_2, epsilon = (
            tf.constant(number, "float32")
            for number in (self.beta_1, self.beta_2, self.epsilon)
        )
        rate = tf.cast(learning_rate, "float32")
        return rate, beta_1**step, beta_2**step, beta_1, beta_2, epsilon
