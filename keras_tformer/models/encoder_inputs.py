"""The dicts that every encoder takes and returns."""

import keras


def encoder_inputs(sequence_length, num_segments, has_packed_documents=False):
    """Makes the symbolic inputs of an encoder.

    Args:
        sequence_length: int, or None for any length.
        num_segments: int, or None for an encoder without segment ids.
        has_packed_documents: bool, whether rows hold several documents each.

    Returns:
        A dict of integer inputs `(B, T)`: `"token_ids"`, `"segment_ids"` (unless there
        are none), `"padding_mask"` and, for packed documents, `"document_ids"`.

    Example:
        >>> sorted(encoder_inputs(7, 2))
        ['padding_mask', 'segment_ids', 'token_ids']
    """
    names = ["token_ids", "segment_ids", "padding_mask"]
    if num_segments is None:
        names.remove("segment_ids")
    if has_packed_documents:
        names.append("document_ids")
    return {
        name: keras.Input((sequence_length,), dtype="int32", name=name)
        for name in names
    }


def encoder_outputs(sequence_output, pooled_output, hidden_states, attention_scores):
    """Collects the outputs of an encoder; what is None is left out.

    Args:
        sequence_output: `(B, T, D)` tensor.
        pooled_output: `(B, D)` tensor.
        hidden_states: list of `(B, T, D)` tensors, or None.
        attention_scores: list of `(B, H, T, T)` tensors, or None.

    Returns:
        A dict under the same names.

    Example:
        >>> sorted(encoder_outputs(1, 2, None, [3]))
        ['attention_scores', 'pooled_output', 'sequence_output']
    """
    outputs = {"sequence_output": sequence_output, "pooled_output": pooled_output}
    if hidden_states is not None:
        outputs["hidden_states"] = hidden_states
    if attention_scores is not None:
        outputs["attention_scores"] = attention_scores
    return outputs
