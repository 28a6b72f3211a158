"""[CLS] first [SEP] second [SEP]: ids of fixed length with segments and mask."""

import numpy as np


def pack(
    first,
    second=None,
    *,
    sequence_length,
    start_id,
    end_id,
    padding_id=0,
):
    """Packs one or two texts' ids into rows of `sequence_length`.

    A row is `[CLS] first [SEP]`, or `[CLS] first [SEP] second [SEP]`, filled with
    padding. A single text that is too long loses its end; of a pair, the longer
    text loses ids until both fit, the second one where they are equally long.
    Devlin et al. 2018 (arXiv 1810.04805), section 3 and appendix A.

    Ragged tensors give tensors made of graph operations (dense ones only, which
    TensorFlow Lite has too); lists give NumPy arrays without TensorFlow.

    Args:
        first: `(B, None)` int `tf.RaggedTensor`, or list of lists of ids.
        second: the same for the second text of each pair, or None.
        sequence_length: int. Length `T` of a row.
        start_id: int. Id of `[CLS]`.
        end_id: int. Id of `[SEP]`.
        padding_id: int. Id of `[PAD]`.

    Returns:
        Dict of int32 `(B, T)`: `"token_ids"`; `"segment_ids"`, 1 in the second
        text and its `[SEP]`, else 0; `"padding_mask"`, 1 where a token stands.

    Raises:
        ValueError: if `sequence_length` has no room for the special tokens, or if
            `first` and `second` differ in number or kind.

    Example:
        >>> row = pack([[7, 8, 9]], [[5]], sequence_length=6, start_id=2, end_id=3)
        >>> row["token_ids"].tolist()
        [[2, 7, 8, 3, 5, 3]]
        >>> row["segment_ids"].tolist()
        [[0, 0, 0, 0, 1, 1]]
    """
    num_special = 2 if second is None else 3
    if sequence_length < num_special + 1:
        raise ValueError(
            f"sequence_length is {sequence_length}; expected at least "
            f"{num_special + 1}, room for {num_special} special tokens and one id."
        )
    # A ragged tensor is told by what it can do: asking for its class would import
    # TensorFlow where only NumPy is wanted.
    ragged = hasattr(first, "row_lengths")
    if second is not None and ragged != hasattr(second, "row_lengths"):
        raise ValueError(
            f"first is a {type(first).__name__} and second a "
            f"{type(second).__name__}; expected both to be ragged tensors or both "
            "to be lists of lists of ids."
        )
    numbers = (sequence_length, start_id, end_id, padding_id)
    if ragged:
        return _pack_tensors(first, second, *numbers)
    return _pack_lists(first, second, *numbers)


def _pack_tensors(first, second, sequence_length, start_id, end_id, padding_id):
    import tensorflow as tf

    first_length = tf.cast(first.row_lengths(), tf.int32)[:, None]  # (B, 1)
    if second is None:
        first_length = tf.minimum(first_length, sequence_length - 2)
    else:
        second_length = tf.cast(second.row_lengths(), tf.int32)[:, None]  # (B, 1)
        room = sequence_length - 3
        first_share, second_share = room - room // 2, room // 2
        first_kept = tf.maximum(first_share, room - second_length)
        second_kept = tf.maximum(second_share, room - first_length)
        first_length = tf.minimum(first_length, first_kept)
        second_length = tf.minimum(second_length, second_kept)
    position = tf.range(sequence_length)[None, :]  # (1, T)
    first_end = first_length + 1  # where the first [SEP] stands
    token_ids = tf.where(
        position < first_end,
        _shifted(tf, first, position - 1, sequence_length),
        end_id,
    )
    token_ids = tf.where(position == 0, start_id, token_ids)
    last = first_end
    if second is not None:
        last = first_end + 1 + second_length
        within = position - first_end - 1  # (B, T), index into the second text
        token_ids = tf.where(
            (position > first_end) & (position < last),
            _shifted(tf, second, within, sequence_length),
            token_ids,
        )
    kept = position <= last  # (B, T)
    segment_ids = tf.cast(kept & (position > first_end), tf.int32)
    outputs = {
        "token_ids": tf.where(kept, token_ids, padding_id),
        "segment_ids": segment_ids,
        "padding_mask": tf.cast(kept, tf.int32),
    }
    return {
        name: tf.ensure_shape(value, (None, sequence_length))
        for name, value in outputs.items()
    }


def _shifted(tf, ragged, index, sequence_length):
    """Reads `ragged[b, index[b, t]]`; positions outside of a row are arbitrary."""
    dense = tf.cast(ragged.to_tensor(0, shape=(None, sequence_length)), tf.int32)
    index = tf.clip_by_value(index, 0, sequence_length - 1)
    if index.shape[0] == 1:
        return tf.gather(dense, index[0], axis=1)  # (B, T)
    return tf.gather(dense, index, batch_dims=1)  # (B, T)


def _pack_lists(first, second, sequence_length, start_id, end_id, padding_id):
    if second is not None and len(first) != len(second):
        raise ValueError(
            f"first has {len(first)} texts and second {len(second)}; expected one "
            "second text for every first."
        )
    shape = (len(first), sequence_length)
    token_ids = np.full(shape, padding_id, "int32")
    segment_ids = np.zeros(shape, "int32")
    padding_mask = np.zeros(shape, "int32")
    room = sequence_length - (2 if second is None else 3)
    for row, left in enumerate(first):
        right = [] if second is None else second[row]
        left_kept = right_kept = room
        if second is not None:
            left_kept = max(room - room // 2, room - len(right))
            right_kept = max(room // 2, room - len(left))
        left, right = list(left[:left_kept]), list(right[:right_kept])
        ids = [start_id, *left, end_id]
        if second is not None:
            segment_ids[row, len(ids) : len(ids) + len(right) + 1] = 1
            ids += [*right, end_id]
        token_ids[row, : len(ids)] = ids
        padding_mask[row, : len(ids)] = 1
    return {
        "token_ids": token_ids,
        "segment_ids": segment_ids,
        "padding_mask": padding_mask,
    }
