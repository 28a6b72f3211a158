"""Small models whose weights follow from their names, for values that can be kept.

`make_golden.py` gives these weights to the reference implementations and stores what
they compute; `test_golden.py` gives them to ours. Plain integer arithmetic makes the
weights, so that they are the same with every version of every library.
"""

import pathlib
import zlib

import numpy as np
from weight_tables import (
    ALBERT_MASKED_LM,
    ALBERT_POOLER,
    ALBERT_SENTENCE_ORDER,
    BERT_MASKED_LM,
    BERT_NEXT_SENTENCE,
    BERT_POOLER,
    albert_rows,
    bert_rows,
    gpt2_rows,
    marian_rows,
)

FOLDER = pathlib.Path(__file__).parent / "golden"

COMMON = {
    "vocabulary_size": 23,
    "num_layers": 2,
    "num_heads": 3,
    "hidden_dim": 18,
    "intermediate_dim": 13,
    "max_sequence_length": 11,
}
BERT = {**COMMON, "num_segments": 3, "layer_norm_epsilon": 1e-5, "activation": "gelu"}
ALBERT = {
    **COMMON,
    "num_segments": 2,
    "embedding_dim": 5,
    "num_groups": 2,
    "layer_norm_epsilon": 1e-12,
    "activation": "gelu_new",
}
GPT2 = {**COMMON, "layer_norm_epsilon": 1e-5, "activation": "gelu_new"}
MARIAN = {
    **COMMON,
    "layer_norm_epsilon": 1e-5,
    "activation": "relu",
    "use_attention_bias": True,
}

ROWS = {
    "bert": bert_rows(2, BERT_POOLER, BERT_MASKED_LM, BERT_NEXT_SENTENCE),
    "albert": albert_rows(2, 1, ALBERT_POOLER, ALBERT_MASKED_LM, ALBERT_SENTENCE_ORDER),
    "gpt2": gpt2_rows(2),
    "marian": marian_rows(2, share_embeddings=True),
}


def numbers(name, shape):
    """Returns numbers in [-1, 1) that follow from a name: a hash of their positions."""
    x = np.arange(1, np.prod(shape) + 1, dtype=np.uint64) * np.uint64(2654435761)
    x = (x + np.uint64(zlib.crc32(name.encode()))) & np.uint64(0xFFFFFFFF)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        x = ((x ^ (x >> np.uint64(shift))) * np.uint64(factor)) & np.uint64(0xFFFFFFFF)
    return (x / 2.0**31 - 1).reshape(shape)


def formula_weight(name, shape):
    """Returns the weight of that name in the reference: matrix, norm or bias."""
    if len(shape) == 2:
        values = numbers(name, shape) * (6 / sum(shape)) ** 0.5
    else:
        values = numbers(name, shape) * 0.3 + name.endswith("weight")
    return values.astype("float32")


def integers(name, shape, end):
    """Returns integers in [0, end) that follow from a name."""
    return ((numbers(name, shape) + 1) / 2 * end).astype("int32")


def golden_batch(case):
    """Returns the inputs of a case, padded on the right: `{name: array}`."""
    if case == "marian":
        batch = {}
        for side, length in (("encoder", 7), ("decoder", 5)):
            batch[f"{side}_token_ids"] = integers(side, (3, length), 23)
            lengths = np.array([length, length - 3, 1])
            batch[f"{side}_padding_mask"] = _mask(lengths, length)
        return batch
    batch = {
        "token_ids": integers("token_ids", (3, 7), 23),
        "padding_mask": _mask(np.array([7, 4, 1]), 7),
    }
    if case != "gpt2":
        batch["segment_ids"] = integers("segment_ids", (3, 7), 2)
        batch["mask_positions"] = integers("mask_positions", (3, 2), 7)
    return batch


def _mask(lengths, length):
    return (np.arange(length) < lengths[:, None]).astype("int32")
