"""Run an artefact on its own runtime: `.tflite` on LiteRT, SavedModel on TensorFlow."""

import os

import numpy as np

from keras_tformer.export.arguments import true_or_false, whole_number
from keras_tformer.export.batches import numpy_batches
from keras_tformer.export.decoding import ENCODE, STEP, run_step_by_step, whole_shapes
from keras_tformer.export.fixed_rows import joined_outputs, unreadable
from keras_tformer.export.saved_model_runner import SavedModelRunner
from keras_tformer.export.text_signature import SIGNATURE, text_operators


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
            weights beside them are left alone), or whole arrays: a dict, alone or
            with labels in a tuple, or an array for one input. For the text signatures
            of a SavedModel: `{"texts": [...]}`.
        num_threads: threads of the LiteRT interpreter.
        use_default_delegate: False turns XNNPACK off (`.tflite` only).
        signature: which function of the artefact to call; `"tokenize"` of a `.tflite`
            file with a tokenizer inside takes `{"texts": [...]}`, too.
        in_separate_process: run a SavedModel in a fresh Python process that imports
            TensorFlow and tensorflow_text only.

    Returns:
        `{output name: array (B, ...)}` over all rows of the dataset; text as `str`.
        Where batches are of several lengths, the shorter ones' rows end in zeros.

    Raises:
        ValueError: no such artefact or signature, or data that does not fit it: other
            inputs, sizes or kinds of numbers, or ids that the model has no row for.

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
    batches = [
        inputs
        for inputs, _, _ in numpy_batches(
            dataset, runner.shapes, dtypes=runner.dtypes, order=()
        )
    ]
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
    """A callable `(batches) -> outputs` with `.shapes`, `.dtypes` and `.runtime`."""
    path = os.fspath(artefact)
    num_threads = whole_number("num_threads", num_threads, 1)
    use_default_delegate = true_or_false("use_default_delegate", use_default_delegate)
    if os.path.isdir(path):
        return SavedModelRunner(path, signature, in_separate_process)
    if not os.path.isfile(path):
        raise ValueError(
            f"There is no artefact at {path!r}. Expected a .tflite file or the folder "
            "of a SavedModel."
        )
    if in_separate_process:
        raise ValueError(
            f"in_separate_process=True is for SavedModels, received {path!r}. Leave it "
            "out: what runs a .tflite file sees nothing of Keras."
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
        self._path = path
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
        self.dtypes = {
            name: np.dtype(detail["dtype"]) for name, detail in details.items()
        }
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
        self.dtypes = dict.fromkeys(shapes, np.dtype("int32"))
        self.shapes = {name: (None, *shape[1:]) for name, shape in shapes.items()}
        self._run = lambda **batch: {
            "output": run_step_by_step(
                calls.get(ENCODE), calls[STEP], step_shapes, batch
            )
        }

    def __call__(self, batches):
        return joined_outputs(batches, self.shapes, self._rows, self._call)

    def _call(self, feed):
        for name, array in feed.items():
            feed[name] = array.astype(self.dtypes[name])
        try:
            return {name: np.array(x) for name, x in self._run(**feed).items()}
        except (RuntimeError, ValueError) as error:
            raise unreadable(self._path, self.runtime, error) from error
