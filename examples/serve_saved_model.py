"""Classify raw strings with an exported SavedModel: TensorFlow alone, no Keras.

    python examples/serve_saved_model.py quickstart_output/saved_model < texts.txt

One text a line in, one line of JSON a text out. `tensorflow_text` is imported for the
operators of the tokenizer inside the model. Standard error says how long a call takes.
"""

import argparse
import json
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401, registers the tokenizer's operators

BATCH_SIZE = 32
TIMED_CALLS = 30


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="a SavedModel with the signature serve_text")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as cores")
    options = parser.parse_args(arguments)
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    serve = tf.saved_model.load(options.folder).signatures["serve_text"]

    texts = [line.rstrip("\n") for line in sys.stdin]
    for start in range(0, len(texts), BATCH_SIZE):
        outputs = serve(texts=tf.constant(texts[start : start + BATCH_SIZE]))
        outputs = {name: value.numpy().tolist() for name, value in outputs.items()}
        for row in range(len(outputs["probabilities"])):
            answer = {
                "logits": outputs["output"][row],
                "probabilities": outputs["probabilities"][row],
            }
            if "labels" in outputs:
                answer["label"] = outputs["labels"][row].decode()
            print(json.dumps(answer))

    if texts:
        times = []
        for text in (texts * TIMED_CALLS)[:TIMED_CALLS]:
            begin = time.perf_counter()
            serve(texts=tf.constant([text]))
            times.append(time.perf_counter() - begin)
        timing = {
            "median_ms": 1000 * float(np.median(times)),
            "keras_tformer_imported": "keras_tformer" in sys.modules,
        }
        print(json.dumps(timing), file=sys.stderr)


if __name__ == "__main__":
    main()
