"""Run an artefact on its own runtime: `.tflite` on LiteRT, SavedModel on TensorFlow."""

import os
import subprocess
import sys
import tempfile

import numpy as np

from keras_tformer.export.batches import numpy_batches
from keras_tformer.export.decoding import ENCODE, STEP, run_step_by_step, whole_shapes
from keras_tformer.export.text_signature import SIGNATURE, text_operators

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
outputs = {}
with np.load(source) as batches:
    for index in range(int(batches["batches"])):
        prefix = f"{index}/"
        feed = {
            key[len(prefix):]: tf.constant(batches[key])
            for key in batches.files if key.startswith(prefix)
        }
        for name, value in function(**feed).items():
            outputs.setdefault(name, []).append(value.numpy())
assert "keras_tformer" not in sys.modules
outputs = {name: np.concatenate(parts) for name, parts in outputs.items()}
outputs = {
    name: np.char.decode(value.astype("S"), "utf-8") if value.dtype == object else value
    for name, value in outputs.items()
}
np.savez(target, **outputs)
"""


def predict(
    artefact,
    dataset,
    num_threads=1,
    use_default_delegate=True,
    signature="serving_default",
    in_separate_process=False,
):
    """Score an exported artefact on the runtime that will run it.

    A `.tflite` file runs on `ai_edge_litert` (on `tf.lite` where that is missing),
    a SavedModel folder on TensorFlow. A file with a fixed batch is fed in its own
    batch size; the rows come back as if it had none.

    Args:
        artefact: a `.tflite` file or a SavedModel folder.
        dataset: a `tf.data.Dataset` or iterable of dicts by input name (labels and
            weights beside them are left alone), or one dict of whole arrays. For the
            text signatures of a SavedModel: `{"texts": [...]}`.
        num_threads: threads of the LiteRT interpreter.
        use_default_delegate: False turns XNNPACK off (`.tflite` only).
        signature: which function of the artefact to call; `"tokenize"` of a `.tflite`
            file with a tokenizer inside takes `{"texts": [...]}`, too.
        in_separate_process: run a SavedModel in a fresh Python process that imports
            TensorFlow and tensorflow_text only.

    Returns:
        `{output name: array (B, ...)}` over all rows of the dataset; text as `str`.

    Raises:
        ValueError: no such artefact or signature, or data that does not fit it.

    Example:
        >>> import keras, tempfile
        >>> from keras_tformer.export import to_tflite
        >>> x = keras.Input((5,), name="x")
        >>> model = keras.Model({"x": x}, keras.layers.Dense(3)(x))
        >>> file = tempfile.mkdtemp() + "/model.tflite"
        >>> report = to_tflite(model, file)
        >>> predict(file, {"x": np.ones((7, 5), "float32")})["output"].shape
        (7, 3)
    """
    runner = open_artefact(
        artefact, num_threads, use_default_delegate, signature, in_separate_process
    )
    batches = [inputs for inputs, _, _ in numpy_batches(dataset, runner.shapes)]
    if not batches:
        raise ValueError("The dataset is empty: there is nothing to run.")
    return runner(batches)


def open_artefact(
    artefact,
    num_threads=1,
    use_default_delegate=True,
    signature="serving_default",
    in_separate_process=False,
):
    """A callable `(list of batches) -> outputs` with `.shapes` and `.runtime`."""
    path = os.fspath(artefact)
    if os.path.isdir(path):
        return _SavedModelRunner(path, signature, in_separate_process)
    if not os.path.isfile(path):
        raise ValueError(
            f"There is no artefact at {path!r}. Expected a .tflite file or the folder "
            "of a SavedModel."
        )
    return _LiteRTRunner(path, num_threads, use_default_delegate, signature)


def make_interpreter(
    path, num_threads=1, use_default_delegate=True, with_text_operators=False
):
    """`(interpreter, name of the runtime)`; LiteRT's own where it is installed."""
    options = {}
    try:
        import ai_edge_litert
        from ai_edge_litert import interpreter as runtime

        name = f"ai_edge_litert {getattr(ai_edge_litert, '__version__', '')}".strip()
        resolver = runtime.OpResolverType
    except ImportError:
        import tensorflow as tf

        runtime = tf.lite
        name = f"tf.lite {tf.__version__}"
        resolver = tf.lite.experimental.OpResolverType
    if not use_default_delegate:
        options["experimental_op_resolver_type"] = (
            resolver.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        )
    kind = runtime.Interpreter
    if with_text_operators:
        options["custom_op_registerers"] = text_operators()
        kind = getattr(runtime, "InterpreterWithCustomOps", None)
        if kind is None:  # tf.lite does not show it
            from tensorflow.lite.python.interpreter import InterpreterWithCustomOps

            kind = InterpreterWithCustomOps
    try:
        interpreter = kind(model_path=path, num_threads=num_threads, **options)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{name} cannot load {path!r}: {error}") from error
    return interpreter, name


class _LiteRTRunner:
    def __init__(self, path, num_threads, use_default_delegate, signature):
        interpreter, self.runtime = make_interpreter(
            path, num_threads, use_default_delegate, signature == SIGNATURE
        )
        signatures = interpreter.get_signature_list()
        if signature == "serving_default" and STEP in signatures:
            signature = STEP
        if signature not in signatures:
            raise ValueError(
                f"{path!r} has no signature {signature!r}; it has {list(signatures)}."
            )
        if signature == STEP:
            self._follow_steps(interpreter, signatures)
            return
        self._run = interpreter.get_signature_runner(signature)
        details = self._run.get_input_details()
        self._dtypes = {name: detail["dtype"] for name, detail in details.items()}
        # The batch is cut to the file's own size below: any number of rows fits.
        self._rows = next(iter(details.values()))["shape"][0]
        self.shapes = {
            name: (None, *(int(size) for size in detail["shape"][1:]))
            for name, detail in details.items()
        }

    def _follow_steps(self, interpreter, signatures):
        """Makes the two signatures of a file that writes text look like one model."""
        runners = {
            name: interpreter.get_signature_runner(name)
            for name in (ENCODE, STEP)
            if name in signatures
        }
        calls = {
            # What an interpreter returns is its own memory: the next call changes it.
            name: lambda inputs, run=run: {
                key: np.array(value) for key, value in run(**inputs).items()
            }
            for name, run in runners.items()
        }
        details = runners[STEP].get_input_details()
        step_shapes = {name: tuple(part["shape"]) for name, part in details.items()}
        shapes = whole_shapes(step_shapes)
        self._rows = next(iter(shapes.values()))[0]
        self._dtypes = dict.fromkeys(shapes, np.int32)
        self.shapes = {name: (None, *shape[1:]) for name, shape in shapes.items()}
        self._run = lambda **batch: {
            "output": run_step_by_step(
                calls.get(ENCODE), calls[STEP], step_shapes, batch
            )
        }

    def __call__(self, batches):
        outputs = {}
        for batch in batches:
            total = len(next(iter(batch.values())))
            for start in range(0, total, self._rows):
                feed, rows = {}, min(self._rows, total - start)
                for name in self.shapes:
                    array = batch[name][start : start + rows]
                    if array.dtype.kind == "U":
                        array = np.char.encode(array, "utf-8")
                    elif array.dtype.kind != "S":
                        array = array.astype(self._dtypes[name])
                    if rows < self._rows:  # repeat the last row to fill the batch
                        array = np.concatenate(
                            [array, np.repeat(array[-1:], self._rows - rows, axis=0)]
                        )
                    feed[name] = array
                for name, value in self._run(**feed).items():
                    outputs.setdefault(name, []).append(np.array(value[:rows]))
        return {name: np.concatenate(parts) for name, parts in outputs.items()}


class _SavedModelRunner:
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
        specs = self._function.structured_input_signature[1]
        self._dtypes = {name: spec.dtype for name, spec in specs.items()}
        self.shapes = {name: tuple(spec.shape) for name, spec in specs.items()}

    def __call__(self, batches):
        import tensorflow as tf

        if self._in_separate_process:
            return self._call_apart(batches)
        outputs = {}
        for batch in batches:
            feed = {
                name: tf.cast(batch[name], self._dtypes[name])
                if self._dtypes[name] != tf.string
                else tf.constant(batch[name])
                for name in self.shapes
            }
            for name, value in self._function(**feed).items():
                outputs.setdefault(name, []).append(value.numpy())
        outputs = {name: np.concatenate(parts) for name, parts in outputs.items()}
        return {
            name: np.char.decode(value.astype("S"), "utf-8")
            if value.dtype == object
            else value
            for name, value in outputs.items()
        }

    def _call_apart(self, batches):
        arrays = {"batches": np.asarray(len(batches))}
        for index, batch in enumerate(batches):
            for name in self.shapes:
                dtype = self._dtypes[name].as_numpy_dtype
                dtype = "U" if dtype is object else dtype
                arrays[f"{index}/{name}"] = batch[name].astype(dtype)
        with tempfile.TemporaryDirectory() as scratch:
            source = os.path.join(scratch, "inputs.npz")
            target = os.path.join(scratch, "outputs.npz")
            np.savez(source, **arrays)
            command = [sys.executable, "-c", _CLEAN_PROCESS]
            command += [os.path.abspath(self._folder), self._signature, source, target]
            done = subprocess.run(
                command, capture_output=True, text=True, cwd=scratch, check=False
            )
            if done.returncode:
                raise RuntimeError(
                    f"The SavedModel {self._folder!r} failed in a process of its own:\n"
                    f"{done.stderr[-2000:]}"
                )
            with np.load(target) as outputs:
                return {name: outputs[name] for name in outputs.files}
