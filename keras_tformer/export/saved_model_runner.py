"""Run a SavedModel on TensorFlow, here or in a process of its own."""

import os
import subprocess
import sys
import tempfile

import numpy as np

from keras_tformer.export.fixed_rows import (
    add_rows,
    cut_batches,
    joined,
    joined_outputs,
    unreadable,
)
from keras_tformer.export.tracing import is_fake_quantized

# What a server does: TensorFlow, tensorflow_text for the text operators, no Keras.
_CLEAN_PROCESS = """
import sys
import numpy as np
import tensorflow as tf
folder, signature, source, target = sys.argv[1:]
try:
    import tensorflow_text
except ImportError:
    tensorflow_text = None
function = tf.saved_model.load(folder).signatures[signature]
def plain(value):
    is_text = value.dtype == object
    return np.char.decode(value.astype("S"), "utf-8") if is_text else value
outputs = {}
with np.load(source) as batches:
    for index in range(int(batches["batches"])):
        prefix = f"{index}/"
        feed = {
            key[len(prefix):]: tf.constant(batches[key])
            for key in batches.files if key.startswith(prefix)
        }
        for name, value in function(**feed).items():
            outputs[prefix + name] = plain(value.numpy())
assert "keras_tformer" not in sys.modules
np.savez(target, **outputs)
"""


class SavedModelRunner:
    def __init__(self, folder, signature, in_separate_process):
        import tensorflow as tf

        if not os.path.exists(os.path.join(folder, "saved_model.pb")):
            raise ValueError(
                f"{folder!r} holds no saved_model.pb: it is not a SavedModel."
            )
        if signature != "serving_default":
            import tensorflow_text  # noqa: F401  registers its operators

        self.runtime = f"tensorflow {tf.__version__}"
        self._folder, self._signature = folder, signature
        self._in_separate_process = in_separate_process
        self._model = tf.saved_model.load(folder)  # the functions need it alive
        if signature not in self._model.signatures:
            raise ValueError(
                f"{folder!r} has no signature {signature!r}; it has "
                f"{sorted(self._model.signatures)}."
            )
        self._function = self._model.signatures[signature]
        self.is_fake_quantized = is_fake_quantized(self._function)
        specs = self._function.structured_input_signature[1]
        self.dtypes = {name: spec.dtype.as_numpy_dtype for name, spec in specs.items()}
        self.dtypes = {name: np.dtype(dtype) for name, dtype in self.dtypes.items()}
        self.shapes = {name: tuple(spec.shape) for name, spec in specs.items()}
        rows = {shape[0] for shape in self.shapes.values() if shape}
        self._rows = rows.pop() if len(rows) == 1 else None

    def __call__(self, batches):
        if self._in_separate_process:
            return self._call_apart(batches)
        return joined_outputs(batches, self.shapes, self._rows, self._call)

    def _call(self, feed):
        import tensorflow as tf

        try:
            outputs = self._function(
                **{
                    name: tf.constant(array.astype(self.dtypes[name]))
                    for name, array in feed.items()
                }
            )
        except tf.errors.OpError as error:
            raise unreadable(self._folder, self.runtime, error.message) from error
        return {name: _readable(value.numpy()) for name, value in outputs.items()}

    def _call_apart(self, batches):
        calls = list(cut_batches(batches, self.shapes, self._rows))
        arrays = {"batches": np.asarray(len(calls))}
        for index, (feed, _) in enumerate(calls):
            for name, array in feed.items():
                dtype = self.dtypes[name]
                dtype = "S" if dtype.kind == "O" else dtype  # what needs no pickle
                arrays[f"{index}/{name}"] = array.astype(dtype)
        answers = self._run_apart(arrays)
        parts = {}
        for index, (feed, kept) in enumerate(calls):
            start = f"{index}/"
            outputs = {
                key.removeprefix(start): value
                for key, value in answers.items()
                if key.startswith(start)
            }
            add_rows(parts, outputs, feed, kept)
        return {name: joined(values) for name, values in parts.items()}

    def _run_apart(self, arrays):
        with tempfile.TemporaryDirectory() as scratch:
            source = os.path.join(scratch, "inputs.npz")
            target = os.path.join(scratch, "outputs.npz")
            np.savez(source, **arrays)
            command = [sys.executable, "-c", _CLEAN_PROCESS]
            command += [os.path.abspath(self._folder), self._signature, source, target]
            done = subprocess.run(
                command, capture_output=True, text=True, cwd=scratch, check=False
            )
            refused = "InvalidArgumentError: "
            if refused in done.stderr:
                reason = done.stderr.rsplit(refused, 1)[1]
                raise unreadable(self._folder, self.runtime, reason)
            if done.returncode:
                raise RuntimeError(
                    f"The SavedModel {self._folder!r} failed in a process of its own:\n"
                    f"{done.stderr[-2000:]}"
                )
            with np.load(target) as outputs:
                return {name: outputs[name] for name in outputs.files}


def _readable(value):
    """Texts as `str`."""
    if value.dtype != object:
        return value
    return np.char.decode(value.astype("S"), "utf-8")
