"""Texts, class names and tokenizers that do not fit a model, refused."""

import keras

from keras_tformer.export.repeated_calls import graph_calls, is_functional
from keras_tformer.export.tracing import model_outputs, named_inputs


def as_class_names(class_names):
    """The names as a list, or None.

    Raises:
        ValueError: they are one string, no strings, not all different, or hold the end
            of a line (`labels.txt` has a name a line).
    """
    if class_names is None:
        return None
    names = None
    if not isinstance(class_names, (str, bytes)) and hasattr(class_names, "__iter__"):
        names = list(class_names)
    wrong = [name for name in names or () if not isinstance(name, str)]
    if names is None or wrong:
        told = f"{wrong[0]!r} is none" if wrong else "this is no list of them"
        given = class_names if names is None else names
        raise ValueError(
            f"Received class_names={given!r}. Expected strings; {told}. Give "
            "[str(name) for name in ...]."
        )
    names = [str(name) for name in names]  # NumPy's are strings of another kind
    for name in names:
        if names.count(name) > 1 or name != "".join(name.splitlines()):
            raise ValueError(
                f"Received class_names={names!r}. Expected different names of one line "
                f"each; {name!r} is not. Change it: apps find classes by their names."
            )
    return names


def check_class_names(function, class_names):
    """Refuse names that do not fit the one output of a serving function."""
    if class_names is None:
        return
    outputs = function.structured_outputs
    shape = next(iter(outputs.values())).shape
    if len(outputs) != 1 or shape.rank < 2 or shape[-1] != len(class_names):
        described = {name: tuple(value.shape) for name, value in outputs.items()}
        raise ValueError(
            f"Received {len(class_names)} class_names for a model with the outputs "
            f"{described}. Expected one output (B, ..., C) and C names, in the order "
            "of the output's last axis."
        )


def check_vocabulary(model, tokenizer):
    """Refuse a tokenizer whose ids a table that the tokens are looked up in lacks.

    TensorFlow and LiteRT would find out at the first text with a high id.
    """
    if tokenizer is None:
        return
    if not (hasattr(tokenizer, "vocabulary_size") and hasattr(tokenizer, "save")):
        raise ValueError(
            f"Received tokenizer={tokenizer!r}. Expected a tokenizer of "
            "keras_tformer.text, such as WordPieceTokenizer.load(file)."
        )
    rows = max(
        [
            layer.weights[0].shape[0]
            for layer in getattr(model, "layers", ())
            if layer.name.endswith("token_embedding") and layer.weights
        ],
        default=None,
    )
    for name, tensor in named_inputs(model).items():
        if name == "token_ids":
            own = [table.input_dim for table in _tables(model, tensor)]
            rows = min(own, default=rows)
    if rows is not None and tokenizer.vocabulary_size > rows:
        raise ValueError(
            f"The tokenizer has {tokenizer.vocabulary_size} pieces, but '{model.name}' "
            f"has a table of {rows} tokens. Give the tokenizer that the model was "
            "trained with."
        )


def _tables(model, symbol):
    """The `Embedding`s that an input of a model goes into, at any depth."""
    if isinstance(model, keras.Sequential):
        first = model.layers[0]
        return [first] if isinstance(first, keras.layers.Embedding) else []
    if not is_functional(model):
        return []
    tables = []
    for node in graph_calls(model):
        for index, tensor in enumerate(node.input_tensors):
            if tensor is symbol and isinstance(node.operation, keras.layers.Embedding):
                tables.append(node.operation)
            elif tensor is symbol and is_functional(node.operation):
                tables += _tables(node.operation, node.operation.inputs[index])
    return tables


def output_values(model):
    """What the numbers of each output are: `{name: "probabilities" or "logits"}`.

    Probabilities are what a softmax or a sigmoid gives; all else is taken for logits.
    """
    return {
        name: "probabilities" if _ends_in_probabilities(tensor) else "logits"
        for name, tensor in model_outputs(model).items()
    }


def _ends_in_probabilities(tensor):
    history = tensor._keras_history
    operation = history.operation
    if isinstance(operation, keras.Model):
        outputs = keras.tree.flatten(operation.outputs)
        return _ends_in_probabilities(outputs[history.tensor_index])
    activation = getattr(operation, "activation", None)
    names = {getattr(activation, "__name__", None), type(operation).__name__.lower()}
    if names & {"softmax", "sigmoid"}:
        return True
    # These leave the numbers as they are, or nearly so.
    same = {"identity", "reshape", "cast", "fakequantize", "activationquantizer"}
    if names & {"linear"} and isinstance(operation, keras.layers.Activation):
        same.add("activation")
    sources = operation._inbound_nodes[history.node_index].input_tensors
    return (
        bool(names & same) and len(sources) == 1 and _ends_in_probabilities(sources[0])
    )
