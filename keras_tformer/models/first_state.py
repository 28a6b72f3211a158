"""What a head reads that looks at the first token only.

A classifier of texts reads one vector of the last block's T. The block then need not
make the others: queries, attention and feed-forward network run for the first token,
keys and values for all. The numbers are the same; a model of four blocks saves a fifth
of its arithmetic, one of twelve a fifteenth, in training, at inference and on a phone
(not where a file has a shared block's calls in a loop: that makes all positions).
"""

from keras_tformer.layers import Pooler, TransformerEncoder
from keras_tformer.models.pretraining_heads import encoder_block


def first_state(encoder):
    """Calls an encoder's last block once more, for the first token alone.

    Args:
        encoder: `keras.Model` of `bert_encoder` or `albert_encoder`.

    Returns:
        A symbolic tensor `(B, 1, D)`: the first position of `"sequence_output"`, in
        the encoder's graph. Where no block is last (a model of other layers under the
        same output names), `"sequence_output"` itself.

    Raises:
        ValueError: if `encoder` is not one of this package's encoders.

    Example:
        >>> from keras_tformer.models import BERT_SIZES, bert_encoder
        >>> encoder = bert_encoder(vocabulary_size=31, **BERT_SIZES["tiny"])
        >>> first_state(encoder).shape
        (None, 1, 128)
    """
    encoder_block(encoder)
    sequence_output = encoder.output["sequence_output"]
    block, arguments = _maker(sequence_output)
    if not isinstance(block, TransformerEncoder):
        return sequence_output
    given = {**arguments.kwargs, "return_attention_scores": False}
    return block(*arguments.args, **given, num_queries=1)  # (B, 1, D)


def pooled_alone(encoder):
    """Computes an encoder's pooled output without the rest of its last block.

    Args:
        encoder: `keras.Model` of `bert_encoder` or `albert_encoder`.

    Returns:
        A symbolic tensor `(B, D)`, equal to `"pooled_output"`, in the encoder's graph.

    Raises:
        ValueError: if `encoder` is not one of this package's encoders.

    Example:
        >>> from keras_tformer.models import BERT_SIZES, bert_encoder
        >>> encoder = bert_encoder(vocabulary_size=31, **BERT_SIZES["tiny"])
        >>> pooled_alone(encoder).shape
        (None, 128)
    """
    encoder_block(encoder)
    pooled_output = encoder.output["pooled_output"]
    pooler, arguments = _maker(pooled_output)
    if not isinstance(pooler, Pooler):
        return pooled_output
    (sequence_output,) = arguments.args
    if sequence_output is not encoder.output["sequence_output"]:
        return pooled_output
    return pooler(first_state(encoder))


def _maker(tensor):
    """The layer that made a symbolic tensor, and the arguments of that call."""
    operation, node_index, _ = tensor._keras_history
    return operation, operation._inbound_nodes[node_index].arguments
