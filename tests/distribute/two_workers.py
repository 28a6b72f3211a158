"""What each of two workers does: `python two_workers.py FOLDER train|checks ...`.

`KILL=step:5` ends it by SIGKILL after step 5, `KILL=write:2` while it writes its second
checkpoint.
"""

import json
import os
import pathlib
import signal
import sys

import keras
import numpy as np
import tensorflow as tf
from language_model import BATCH, batches, fit, language_model

import keras_tformer as kt

# Generous: the machine that tests this may do other things at once.
strategy = kt.distribute.get_strategy("auto", timeout_seconds=240)
tf.config.experimental.enable_op_determinism()
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
folder = pathlib.Path(sys.argv[1])


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


class KillAfter(keras.callbacks.Callback):
    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 == self.step:
            kill()


def train():
    callbacks = [
        kt.training.ResumeFromCheckpoint(folder / f"of_worker_{index}", every_steps=3)
    ]
    when, number = os.environ.get("KILL", "never:0").split(":")
    if when == "step":
        callbacks.append(KillAfter(int(number)))
    elif when == "write":
        rename, calls = os.replace, []

        def kill_in_the_middle(*paths):
            calls.append(paths)
            if len(calls) == int(number):
                kill()
            rename(*paths)

        os.replace = kill_in_the_middle
    with strategy.scope():
        model = language_model()
    x, y, weights = batches(2)
    data = {"x": x, "y": y, "sample_weight": weights, "batch_size": BATCH}
    fit(model, callbacks=callbacks)
    row = {name: value[: BATCH + 3] for name, value in x.items()}
    np.savez(
        folder / f"worker_{index}.npz",
        *model.get_weights(),
        evaluated=model.evaluate(**data, verbose=0),
        predicted=model.predict(row, batch_size=BATCH, verbose=0)["masked_lm"],
    )


def rows(number):
    """This worker's own rows; `number` of them."""
    x, y, weights = batches()
    data = tf.data.Dataset.from_tensor_slices((x, y, weights)).take(number).batch(BATCH)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.OFF
    )
    return data.with_options(options)


def checks():
    said = {}

    def refused(name, action):
        try:
            action()
        except ValueError as error:
            said[name] = str(error)

    outside = language_model()
    refused("outside", lambda: fit(outside, 1))
    with strategy.scope():
        model = language_model(steps_per_execution=4)
    x, y, _ = batches(1)
    refused("small", lambda: model.fit(x, y, batch_size=1, verbose=0))
    refused("lengths", lambda: model.fit(rows(24 - 8 * index), verbose=0))
    unknown = rows(24 - 8 * index).filter(lambda *_: True)  # 24 rows, and 16
    model.fit(unknown, verbose=0)
    said["steps"] = int(model.optimizer.iterations.numpy())
    said["sum"] = float(sum(np.abs(weight).sum() for weight in model.get_weights()))
    (folder / f"worker_{index}.json").write_text(json.dumps(said))


def files():
    """Each worker reads the half of every batch that stands in a file of its own."""
    arrays = batches()
    numbers = np.arange(len(arrays[1])).reshape(-1, 2, BATCH // 2)
    names = [str(folder / f"of_{index}_{half}.txt") for half in (0, 1)]
    for half, name in enumerate(names):
        np.savetxt(name, numbers[:, half].reshape(-1), "%d")

    def row(line):
        number = tf.strings.to_number(line, tf.int32)
        return tf.nest.map_structure(lambda array: tf.gather(array, number), arrays)

    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.FILE
    )
    lines = tf.data.Dataset.from_tensor_slices(names).flat_map(tf.data.TextLineDataset)
    with strategy.scope():
        model = language_model()
    model.fit(lines.map(row).batch(BATCH).with_options(options), verbose=0)
    np.savez(folder / f"worker_{index}_files.npz", *model.get_weights())


for name in sys.argv[2:]:
    {"train": train, "checks": checks, "files": files}[name]()
