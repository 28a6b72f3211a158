"""Batches of sequences as one long list of tokens, and back.

A product of a rank-3 tensor with a rank-2 kernel becomes some fifteen shape operators
around one MatMul on TensorFlow; on `(B * T, D)` it is the MatMul alone. That makes
graphs several times smaller, faster to trace and plain FULLY_CONNECTED on a phone.
"""

import keras
from keras import ops


def sequence_length(x):
    """Returns the length T of `x` `(B, T, ...)`: a number where it is known.

    Raises:
        ValueError: if the layer is being laid flat on an input of unknown length.
    """
    if x.shape[1] is not None:
        return x.shape[1]
    if isinstance(x, keras.KerasTensor):
        raise ValueError(
            "This model cannot be laid flat while its sequence length is open. "
            f"Received: a symbolic tensor of shape {x.shape}. Build the model with "
            "`sequence_length=...`, or pass `sequence_length` to the function that "
            "lays it flat."
        )
    return ops.shape(x)[1]


def to_rows(x):
    """Lays the tokens of a batch below each other: `(B, T, D)` to `(B * T, D)`."""
    return ops.reshape(x, (-1, x.shape[-1]))  # (B * T, D)


def from_rows(rows, length):
    """Undoes `to_rows`: `(B * T, D)` to `(B, T, D)`."""
    return ops.reshape(rows, (-1, length, rows.shape[-1]))  # (B, T, D)
