"""A model that writes text, one token a call: the signatures of a `.tflite` file."""

import numpy as np

from keras_tformer.export.tracing import check_sequence_length, converter_operations
from keras_tformer.models.cached_block import heads_first
from keras_tformer.models.cached_decoder import CachedDecoder

ENCODE = "encode"
STEP = "decode_step"
MASK = "encoder_padding_mask"


def decoding_functions(model, batch_size, source_length, max_length):
    """Functions that read a source once and then write a token a call.

    `encode` (of an encoder-decoder) takes `encoder_token_ids` and
    `encoder_padding_mask`, `(B, S)` int32, and returns what every step reads: for each
    block `i` `cross_keys_i` `(B, H, K, S)` and `cross_values_i` `(B, H, S, K)`.

    `decode_step` takes `token_ids` `(B, 1)` and `position` `(1,)`, int32, the place of
    these tokens, from 0 on; `self_keys_i` `(B, H, K, T)` and `self_values_i`
    `(B, H, T, K)`, zeros at first and afterwards what the step before returned; and
    with an encoder `encoder_padding_mask` and what `encode` returned. It returns
    `logits` `(B, V)` of the next token and the new caches under their names.

    Args:
        model: a `keras.Model` from `transformer` or `causal_lm`.
        batch_size: int, rows B.
        source_length: int, length S of sources; not read where there is no encoder.
        max_length: int, the most tokens T that a text has, its first one included.

    Returns:
        `{signature: concrete function}`.

    Raises:
        ValueError: another model, or lengths that it has no positions for.
    """
    import tensorflow as tf

    decoder = CachedDecoder(model)
    for length in (max_length, source_length if decoder.has_encoder else None):
        check_sequence_length(model, length)

    @tf.function(autograph=False)
    def encode(**inputs):
        encoded = decoder.encode(inputs["encoder_token_ids"], inputs[MASK])
        caches = [
            heads_first(block.cross_attention.project(encoded))
            for block in decoder.blocks
        ]
        return _named("cross", caches)

    @tf.function(autograph=False)
    def decode_step(**inputs):
        memory = {
            "prompt_mask": tf.zeros((batch_size, 0)),
            "positions": decoder.position_vectors(0, tf.zeros(1, "int32"), max_length),
            "output_kernel": decoder.output_kernel(),
        }
        if decoder.has_encoder:
            memory["source_mask"] = inputs[MASK]
            memory["cross_caches"] = _pairs("cross", inputs)
        position = tf.reshape(inputs["position"], ())
        caches = _pairs("self", inputs)
        caches, x = decoder.step(memory, caches, inputs["token_ids"], position)
        logits = tf.squeeze(decoder.logits(memory, x), 1)  # (B, V)
        return {"logits": tf.identity(logits, "logits"), **_named("self", caches)}

    def spec(shape, name, dtype="int32"):
        return tf.TensorSpec((batch_size, *shape), dtype, name=name)

    def cache_specs(kind, attentions, length):
        specs = {}
        for index, attention in enumerate(attentions):
            heads = attention.num_heads
            width = attention.query_dense.kernel.shape[-1] // heads
            keys, values = f"{kind}_keys_{index}", f"{kind}_values_{index}"
            specs[keys] = spec((heads, width, length), keys, "float32")
            specs[values] = spec((heads, length, width), values, "float32")
        return specs

    own = cache_specs("self", [x.self_attention for x in decoder.blocks], max_length)
    functions = {}
    with converter_operations():
        if decoder.has_encoder:
            inputs = ("encoder_token_ids", MASK)
            source = {name: spec((source_length,), name) for name in inputs}
            functions[ENCODE] = encode.get_concrete_function(**source)
            blocks = [x.cross_attention for x in decoder.blocks]
            own |= cache_specs("cross", blocks, source_length) | {MASK: source[MASK]}
        functions[STEP] = decode_step.get_concrete_function(
            token_ids=spec((1,), "token_ids"),
            position=tf.TensorSpec((1,), "int32", name="position"),
            **own,
        )
    return functions


def decoding_shapes(functions):
    """Shapes of the model's own inputs, of which the signatures are the parts."""
    specs = functions[STEP].structured_input_signature[1]
    return whole_shapes({name: tuple(spec.shape) for name, spec in specs.items()})


def whole_shapes(step_shapes):
    """From the shapes of a step's inputs to those of the model that it belongs to."""
    rows, length = step_shapes["self_values_0"][0], step_shapes["self_values_0"][2]
    if MASK not in step_shapes:
        return dict.fromkeys(("token_ids", "padding_mask"), (rows, length))
    return {
        "encoder_token_ids": step_shapes[MASK],
        MASK: step_shapes[MASK],
        "decoder_token_ids": (rows, length),
        "decoder_padding_mask": (rows, length),
    }


def run_step_by_step(encode, step, step_shapes, batch, watch=None):
    """Feeds whole texts token by token; what a model says at once comes out.

    Args:
        encode, step: functions that take and return `{name: array}` as the two
            signatures do; `encode` is None where there is no encoder.
        step_shapes: `{name: shape}` of the inputs of `step`.
        batch: `{name: array}`, inputs of the whole model.
        watch: function that gets each `(signature, inputs)` before the call.

    Returns:
        Logits `(B, T, V)`, zeros where all rows are padding.
    """
    side = "" if encode is None else "decoder_"
    ids, mask = batch[f"{side}token_ids"], batch[f"{side}padding_mask"]
    # One more call than nothing at all: V is known from an answer only.
    last = max(1, int(np.max(np.sum(mask, axis=1))))
    constants = {}
    if encode is not None:
        source = {name: batch[name] for name in ("encoder_token_ids", MASK)}
        if watch is not None:
            watch((ENCODE, source))
        constants = {**encode(source), MASK: batch[MASK]}
    caches = {
        name: np.zeros(shape, "float32")
        for name, shape in step_shapes.items()
        if name.startswith("self_")
    }
    logits = None
    for position in range(last):
        inputs = {
            "token_ids": ids[:, position : position + 1],
            "position": np.array([position], "int32"),
            **constants,
            **caches,
        }
        if watch is not None:
            watch((STEP, inputs))
        caches = step(inputs)
        found = np.asarray(caches.pop("logits"))
        if logits is None:
            logits = np.zeros((*ids.shape, found.shape[-1]), "float32")
        logits[:, position] = found
    return logits


def calibration_steps(functions, examples):
    """A function that yields `(signature, inputs)` of real steps, for the converter.

    Args:
        functions: what `decoding_functions` returned.
        examples: `{name: array}`, inputs of the whole model, targets included.
    """
    shapes = {
        name: tuple(spec.shape)
        for name, spec in functions[STEP].structured_input_signature[1].items()
    }
    rows = shapes["token_ids"][0]

    def numbers(function):
        return lambda inputs: {k: v.numpy() for k, v in function(**inputs).items()}

    encode = numbers(functions[ENCODE]) if ENCODE in functions else None
    step = numbers(functions[STEP])

    def feed():
        total = len(next(iter(examples.values())))
        for start in range(0, total, rows):
            take = np.arange(start, start + rows) % total
            batch = {name: array[take] for name, array in examples.items()}
            calls = []
            run_step_by_step(encode, step, shapes, batch, watch=calls.append)
            yield from calls

    return feed


def _named(kind, caches):
    """`[(keys, values)]` as `{"<kind>_keys_0": keys, "<kind>_values_0": values}`."""
    named = {}
    for index, (keys, values) in enumerate(caches):
        named[f"{kind}_keys_{index}"] = keys
        named[f"{kind}_values_{index}"] = values
    return named


def _pairs(kind, named):
    count = sum(name.startswith(f"{kind}_keys_") for name in named)
    return [
        (named[f"{kind}_keys_{index}"], named[f"{kind}_values_{index}"])
        for index in range(count)
    ]
