"""Serve an exported SavedModel over TensorFlow Serving's REST shape.

    python examples/serve_rest.py quickstart_output/saved_model --port 8501

A stand-in of one page for machines without TensorFlow Serving: the same addresses, the
same requests and the same answers (`examples/serve.md`), TensorFlow alone, no Keras. It
neither batches requests nor reloads models.
"""

import argparse
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401, registers the tokenizer's operators


def serve(folder, name="classifier", port=8501):
    """A server that is ready to answer: call its `serve_forever`."""
    model = tf.saved_model.load(folder)
    root = f"/v1/models/{name}"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == root:
                status = {"error_code": "OK", "error_message": ""}
                version = {"version": "1", "state": "AVAILABLE", "status": status}
                self.answer(200, {"model_version_status": [version]})
            else:
                self.answer(404, {"error": f"No such address. Expected {root}."})

        def do_POST(self):
            if self.path != f"{root}:predict":
                self.answer(404, {"error": f"No such address, expected {root}:predict"})
                return
            try:
                size = int(self.headers.get("Content-Length", 0))
                self.answer(200, predict(model, parsed(self.rfile.read(size))))
            except (ValueError, TypeError, tf.errors.OpError) as error:
                self.answer(400, {"error": str(error)})

        def answer(self, status, content):
            content = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def parsed(body):
    """A request's JSON object."""
    try:
        request = json.loads(body)
    except ValueError as error:
        raise ValueError(f"The body is no JSON: {error}.") from error
    if not isinstance(request, dict) or ("instances" in request) == (
        "inputs" in request
    ):
        raise ValueError(
            "Expected an object with either 'instances' (a list, one entry a row) or "
            f"'inputs' (one list for each input); received {str(request)[:80]!r}."
        )
    return request


def predict(model, request):
    """The answer to `{"signature_name", "instances": [...]}` or `{"inputs": {...}}`."""
    name = request.get("signature_name", "serving_default")
    if not isinstance(name, str) or name not in model.signatures:
        raise ValueError(
            f"No signature {name!r}; there are {sorted(model.signatures)}."
        )
    function = model.signatures[name]
    specs = function.structured_input_signature[1]
    by_row = "instances" in request
    columns = columns_of(request["instances"], specs) if by_row else request["inputs"]
    if not isinstance(columns, dict):
        columns = {next(iter(specs)): columns}
    feed = {key: tensor(key, columns, spec) for key, spec in specs.items()}
    outputs = {key: plain(value.numpy()) for key, value in function(**feed).items()}
    if not by_row:
        (only,) = outputs.values() if len(outputs) == 1 else (outputs,)
        return {"outputs": only}
    rows = [
        dict(zip(outputs, row, strict=True))
        for row in zip(*outputs.values(), strict=True)
    ]
    if len(outputs) == 1:
        rows = [next(iter(row.values())) for row in rows]
    return {"predictions": rows}


def columns_of(rows, specs):
    """One list for each input, of a list with an entry for each row."""
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"'instances' is {str(rows)[:80]!r}; expected a list of rows.")
    first = next(iter(specs))
    rows = [row if isinstance(row, dict) else {first: row} for row in rows]
    for number, row in enumerate(rows):
        missing = sorted(specs.keys() - row.keys())
        if missing:
            raise ValueError(
                f"Row {number} lacks {missing}; this signature takes {sorted(specs)}."
            )
    return {key: [row[key] for row in rows] for key in specs}


def tensor(key, columns, spec):
    """The tensor of one input."""
    if key not in columns:
        raise ValueError(f"'inputs' lacks {key!r}.")
    try:
        value = tf.constant(columns[key], spec.dtype)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{key!r} is no {spec.dtype.name} tensor: {error}") from error
    if not spec.shape.is_compatible_with(value.shape):
        raise ValueError(
            f"{key!r} has the shape {tuple(value.shape)}; expected {tuple(spec.shape)} "
            "(None is any number)."
        )
    return value


def plain(array):
    """Lists of numbers or of text."""
    if array.dtype == object:
        array = np.char.decode(array.astype("S"), "utf-8")
    return array.tolist()


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="a SavedModel with the signature serve_text")
    parser.add_argument("--name", default="classifier")
    parser.add_argument("--port", type=int, default=8501)
    options = parser.parse_args(arguments)
    server = serve(options.folder, options.name, options.port)
    print(f"http://127.0.0.1:{server.server_port}/v1/models/{options.name}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


if __name__ == "__main__":
    main()
