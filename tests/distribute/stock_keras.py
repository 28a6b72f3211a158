"""What Keras does without our repairs, one word a fault: `broken` or `mended`.

In a process of its own, in which nothing is repaired: `python stock_keras.py mirrored`;
`collectives`, with TensorFlow's default way of adding up; or `workers` in each of two
processes with TF_CONFIG. Prints a JSON line.
"""

import json
import sys

import keras
import numpy as np
import tensorflow as tf

ROWS, LENGTH, VOCABULARY = 8, 3, 5
random = np.random.default_rng(0)
x = random.integers(0, VOCABULARY, (ROWS, LENGTH)).astype("int32")
y = random.normal(size=(ROWS, LENGTH, 2)).astype("float32")
weights = np.where(np.arange(ROWS)[:, None] % 4 < 2, [[1, 1, 1]], [[1, 0, 0]])


def make_strategy():
    if sys.argv[1] == "workers":
        return tf.distribute.MultiWorkerMirroredStrategy()
    cpu = tf.config.list_physical_devices("CPU")[0]
    devices = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, devices)
    mirrored = sys.argv[1] == "mirrored"
    sums = tf.distribute.ReductionToOneDevice() if mirrored else None
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], cross_device_ops=sums)


strategy = make_strategy()
nothing = tf.distribute.get_strategy()


def trained(strategy, optimizer, loss="mse", weights=None, one_hot=True, **arguments):
    with strategy.scope():
        inputs = keras.Input((LENGTH,), dtype="int32")
        if one_hot:
            hidden = keras.ops.one_hot(inputs, VOCABULARY)
            hidden = keras.layers.Dense(2, use_bias=False)(hidden)
        else:
            hidden = keras.layers.Embedding(VOCABULARY, 2)(inputs)
        model = keras.Model(inputs, hidden)
        model.set_weights([np.ones((VOCABULARY, 2))])
        model.compile(optimizer(), loss, **arguments)
    model.fit(x, y, sample_weight=weights, batch_size=4, verbose=0)
    return model.get_weights()[0]


def differ(*arguments, **named):
    one, two = (trained(each, *arguments, **named) for each in (nothing, strategy))
    return np.abs(one - two).max() > 1e-4


def fails(*arguments, **named):
    try:
        trained(strategy, *arguments, **named)
    except Exception:
        return True
    return False


def sgd(**arguments):
    return lambda: keras.optimizers.SGD(0.5, **arguments)


def rows_are_squared_one_by_one():
    table, product = (
        trained(nothing, lambda: keras.optimizers.Adam(0.1, epsilon=1e-2), one_hot=each)
        for each in (False, True)
    )
    return np.abs(table - product).max() > 1e-4


def masks_are_equal():
    with strategy.scope():
        generator = keras.random.SeedGenerator(7)
    draw = tf.function(
        lambda: strategy.run(lambda: keras.random.uniform((9,), seed=generator))
    )
    first, second = strategy.experimental_local_results(draw())
    return bool(np.all(first == second))


def scalar(y_true, y_pred):
    return keras.ops.mean(keras.ops.square(y_true - y_pred))


mean = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
FAULTS = {
    "clipping": lambda: differ(sgd(global_clipnorm=0.1)),
    "rows": rows_are_squared_one_by_one,
    "accumulation": lambda: fails(sgd(gradient_accumulation_steps=2)),
    "averages": lambda: fails(sgd(use_ema=True, ema_overwrite_frequency=2)),
    "jit_compile": lambda: fails(sgd(), jit_compile=True),
    "weighted_mean": lambda: differ(sgd(), mean, weights),
    "scalar": lambda: differ(sgd(), scalar),
    "dropout": masks_are_equal,
}
if sys.argv[1] == "collectives":
    # The process is no good after it.
    FAULTS = {"steps_per_execution": lambda: fails(sgd(), steps_per_execution=2)}
if sys.argv[1] == "workers":
    FAULTS = {"workers": lambda: fails(sgd())}
found = {name: "broken" if fault() else "mended" for name, fault in FAULTS.items()}
print("FOUND " + json.dumps(found), flush=True)
