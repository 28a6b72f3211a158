"""From strings to their translations, as one function of a SavedModel."""

import numpy as np

from keras_tformer.export.tflite_checks import as_whole_number
from keras_tformer.export.tracing import check_sequence_length
from keras_tformer.models.beam_search import BeamSearch
from keras_tformer.models.cached_decoder import CachedDecoder
from keras_tformer.models.compiled_decoding import search_to_the_end
from keras_tformer.models.sampling import Sampling

SIGNATURE = "translate"


def translate_function(
    model,
    tokenizer,
    target_tokenizer,
    batch_size,
    sequence_length,
    max_length,
    num_beams,
    length_penalty,
):
    """A concrete function from `texts` to `translations` and their `scores`.

    What `generate` does with `source [SEP]`, from `[CLS]` to `[SEP]`, with pieces cut
    and joined inside of the graph. Longer sources are cut.

    Args:
        model: a `keras.Model` from `transformer`.
        tokenizer, target_tokenizer: tokenizers of `keras_tformer.text`.
        batch_size: int, number of texts B, or None.
        sequence_length: int, the most tokens S of a source, its end included; None for
            as many as the model has positions for.
        max_length: int, the most tokens of a translation, start and end included.
        num_beams: int; 1 is greedy.
        length_penalty: float, GNMT's alpha.

    Returns:
        A concrete function `texts` `(B,)` -> `{"translations": (B,) strings, "scores":
        (B,)}`: of hypotheses in beam search, else log-probabilities.

    Raises:
        ValueError: a number is out of range, or there are no positions for it.
    """
    import tensorflow as tf

    decoder = CachedDecoder(model)
    if not decoder.has_encoder:
        raise ValueError(
            f"Received max_length={max_length} for the model {model.name!r}, which has "
            "no encoder: `translate` needs a `transformer`. Leave max_length out."
        )
    for kind, known, there in (
        ("sources", tokenizer.vocabulary_size, decoder.source_vocabulary_size),
        ("targets", target_tokenizer.vocabulary_size, decoder.vocabulary_size),
    ):
        if known != there:
            raise ValueError(
                f"The tokenizer of the {kind} has {known} tokens, the model {there}. "
                "Give the tokenizers that the model was trained with."
            )
    longest = sequence_length or decoder.max_source_length
    max_length = _at_least(2, "max_length", max_length)
    num_beams = _at_least(1, "num_beams", num_beams)
    if longest is not None:
        longest = _at_least(2, "sequence_length", longest)
    check_sequence_length(model, max(longest or 2, max_length))
    ends = (target_tokenizer.end_id, target_tokenizer.padding_id)
    num_steps = max_length - 1
    if num_beams == 1:
        search = Sampling(decoder, num_steps, "greedy", 1, *ends)
    else:
        search = BeamSearch(decoder, num_steps, num_beams, True, *ends)
    tokenizer.tokenize(tf.constant(["a"]))  # makes its tables outside of the graph

    @tf.function(autograph=False)
    def translate(texts):
        pieces = tokenizer.tokenize(texts)  # (B, None)
        pieces = pieces if longest is None else pieces[:, : longest - 1]
        end = tf.fill([tf.size(texts), 1], tokenizer.end_id)
        source = tf.concat([tf.cast(pieces, "int32"), end], axis=1)
        rows = tf.ones_like(texts, "int32")  # (B,)
        sequences, scores = search_to_the_end(
            search,
            {
                "source_ids": source.to_tensor(tokenizer.padding_id),  # (B, S)
                "source_mask": tf.ones_like(source).to_tensor(0),
                "prompt_ids": rows[:, None] * target_tokenizer.start_id,
                "prompt_lengths": rows,
                "limits": rows * num_steps,
                "rules": {},
                "length_penalty": np.float32(length_penalty),
                "length_offset": np.float32(5),
            },
        )
        return {
            "translations": target_tokenizer.detokenize(sequences[:, 0]),
            "scores": tf.identity(scores[:, 0], "scores"),
        }

    return translate.get_concrete_function(
        texts=tf.TensorSpec((batch_size,), "string", name="texts")
    )


def _at_least(least, name, value):
    number = as_whole_number(name, value)
    if number < least:
        raise ValueError(
            f"Received {name}={value!r} for a model that translates, expected {least} "
            "or more."
        )
    return number
