"""How fast a `.tflite` file is on the runtime that is installed here."""

import subprocess
import sys
import time

import numpy as np

from keras_tformer.export.arguments import (
    true_or_false,
    whole_number,
    whole_numbers,
)
from keras_tformer.export.files import file_target
from keras_tformer.export.prediction import make_interpreter
from keras_tformer.export.reporting import draw_report, report, show_report

# Without TensorFlow and Keras, which would hide what the file itself takes.
_OWN_PROCESS = """
import re
import sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
def anonymous():
    with open("/proc/self/status") as status:
        return 1024 * int(re.search(r"RssAnon:\\s*(\\d+)", status.read())[1])
before = anonymous()
kinds = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES, OpResolverType.AUTO
interpreter = Interpreter(
    model_path=sys.argv[1], experimental_op_resolver_type=kinds[int(sys.argv[2])]
)
interpreter.allocate_tensors()
for detail in interpreter.get_input_details():
    interpreter.set_tensor(detail["index"], np.ones(detail["shape"], detail["dtype"]))
interpreter.invoke()
print(anonymous() - before)
"""


def benchmark(
    file,
    num_threads=(1, 2),
    repetitions=50,
    warmup=5,
    use_default_delegate=True,
    show=False,
    picture=None,
):
    """Measure a `.tflite` file: time of one call, memory, size and operators.

    Only the call itself is timed, on inputs of full length; the thread counts take
    turns, so that a busy machine slows all of them alike.

    Args:
        file: path of a `.tflite` file.
        num_threads: thread counts to measure, or one of them.
        repetitions: timed calls a thread count.
        warmup: calls before them that are not timed.
        use_default_delegate: False turns XNNPACK off.
        show: print the result as a table as well.
        picture: path of an image to draw it into, too (needs matplotlib).

    Returns:
        The dict of `report` and `latency`: `{threads: {"median_ms", "p90_ms",
        "best_ms"}}`, `runtime`, `repetitions`, `use_default_delegate`, and
        `process_bytes`: what a process of its own grows by when it loads the file and
        calls it once (arena, repacked weights; not the file itself, which is mapped),
        None where the system does not tell.

    Raises:
        ValueError: no such file, numbers that are not positive, or a picture that
            cannot be written.

    Example:
        >>> import keras, tempfile
        >>> from keras_tformer.export import to_tflite
        >>> x = keras.Input((5,), name="x")
        >>> model = keras.Model({"x": x}, keras.layers.Dense(3)(x))
        >>> file = tempfile.mkdtemp() + "/model.tflite"
        >>> _ = to_tflite(model, file)
        >>> result = benchmark(file, num_threads=1, repetitions=3)
        >>> result["latency"][1]["median_ms"] > 0
        True
    """
    counts = whole_numbers("num_threads", num_threads)
    repetitions = whole_number("repetitions", repetitions, 1)
    warmup = whole_number("warmup", warmup, 0)
    use_default_delegate = true_or_false("use_default_delegate", use_default_delegate)
    if picture is not None:
        picture = file_target(picture)
    result = report(file, show=False)
    result["process_bytes"] = process_bytes(result["file"], use_default_delegate)
    interpreters = {}
    for count in counts:
        interpreter, result["runtime"] = make_interpreter(
            result["file"], count, use_default_delegate
        )
        for detail in interpreter.get_input_details():
            # Ones are valid ids, segments and mask: every position is kept.
            ones = np.ones(detail["shape"], detail["dtype"])
            interpreter.set_tensor(detail["index"], ones)
        for _ in range(warmup):
            interpreter.invoke()
        interpreters[count] = interpreter
    times = {count: [] for count in counts}
    for _ in range(repetitions):
        for count, interpreter in interpreters.items():
            start = time.perf_counter()
            interpreter.invoke()
            times[count].append(1e3 * (time.perf_counter() - start))
    result["latency"] = {
        count: {
            "median_ms": float(np.median(values)),
            "p90_ms": float(np.percentile(values, 90)),
            "best_ms": float(np.min(values)),
        }
        for count, values in times.items()
    }
    result["repetitions"] = repetitions
    result["use_default_delegate"] = use_default_delegate
    if show:
        show_report(result)
    if picture is not None:
        draw_report(result, picture)
    return result


def process_bytes(file, use_default_delegate):
    """What a process grows by when it loads a file and calls it once, or None."""
    command = [sys.executable, "-c", _OWN_PROCESS, file, str(int(use_default_delegate))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 and done.stdout.strip() else None
