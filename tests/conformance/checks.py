"""What is promised of every layer and model: one function for each promise.

Each takes a `Case` (see `catalogue.py`) and the folder that it may write to.
"""

import functools
import json
import os

import h5py
import keras
import numpy as np
from catalogue import BATCH, LENGTH, SOURCE, WIDTH
from keras import ops

SAME = {"rtol": 1e-5, "atol": 1e-5}


@functools.cache
def built(case):
    """The float32 model of a case, the same whichever check asks for it first."""
    keras.utils.set_random_seed(20)
    return case.model()


def run(model, inputs, training=False):
    """Returns the outputs as a flat dict of arrays, named by their place."""
    return arrays(model(inputs, training=training))


def arrays(outputs):
    flat = keras.tree.flatten_with_path(outputs)
    return {
        ".".join(map(str, path)): ops.convert_to_numpy(ops.cast(x, "float32"))
        for path, x in flat
    }


def assert_equal(actual, expected, rtol=1e-5, atol=1e-5):
    assert actual.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(
            actual[name], expected[name], rtol=rtol, atol=atol, err_msg=name
        )


def crop(outputs, sizes):
    """Shortens every axis after the first whose size is a key of `sizes`."""
    return {
        name: x[(slice(None), *(slice(sizes.get(n, n)) for n in x.shape[1:]))]
        for name, x in outputs.items()
    }


def shapes(outputs):
    return keras.tree.map_structure(lambda x: tuple(x.shape), outputs)


# === Descriptions: what it says of itself ===


def config_round_trip(case, folder):
    """A config is JSON; a saved model comes back exact, with sharing kept."""
    thing = case.build(0.0, "float32")
    config = json.loads(json.dumps(thing.get_config()))
    if not isinstance(thing, keras.Model):
        again = type(thing).from_config(config)
        assert json.loads(json.dumps(again.get_config())) == config
    model, file = built(case), f"{folder}/model.keras"
    model.save(file)
    loaded = keras.saving.load_model(file)
    assert [w.shape for w in loaded.weights] == [w.shape for w in model.weights]
    assert_equal(run(loaded, case.feed()), run(model, case.feed()), 0, 0)
    loaded.save(f"{folder}/again.keras")
    assert os.path.getsize(f"{folder}/again.keras") <= 1.02 * os.path.getsize(file)
    model.save_weights(f"{folder}/model.weights.h5")
    with h5py.File(f"{folder}/model.weights.h5") as stored:
        sizes = []  # every number is in the file once
        stored.visititems(lambda _, x: sizes.append(getattr(x, "size", 0)))
    assert sum(sizes) == model.count_params()


def declared_shape(case, folder):
    """Declared, symbolic and computed shapes agree for any batch and length."""
    model = built(case)
    for sizes in ((BATCH, LENGTH, SOURCE), (5, 13, 19)):
        inputs = case.feed(*sizes)
        specs = {
            name: keras.KerasTensor(x.shape, dtype=x.dtype.name)
            for name, x in inputs.items()
        }
        declared = model.compute_output_spec(specs)
        outputs = model(inputs)
        assert shapes(declared) == shapes(outputs)
        for symbol, spec, x in zip(
            keras.tree.flatten(model.output),
            keras.tree.flatten(declared),
            keras.tree.flatten(outputs),
            strict=True,
        ):
            assert keras.backend.standardize_dtype(x.dtype) == spec.dtype
            assert symbol.dtype == spec.dtype and len(symbol.shape) == len(x.shape)
            for open_size, size in zip(symbol.shape, x.shape, strict=True):
                assert open_size in (None, size)


def initial_weights_differ(case, folder):
    """No two weights start from the same random numbers."""
    values = {}
    model = case.build(0.0, "float32")
    if not isinstance(model, keras.Model):
        model = built(case).__class__.from_config(built(case).get_config())
    for weight in model.trainable_weights:
        value = ops.convert_to_numpy(weight).ravel()
        if value.std() == 0:  # zeros and ones
            continue
        for path, other in values.items():
            count = min(len(value), len(other))
            alike = np.corrcoef(value[:count], other[:count])[0, 1]
            assert abs(alike) < 0.99, f"{weight.path} starts like {path}"
        values[weight.path] = value


# === Values: what may change an output, and what may not ===


def padding_invariance(case, folder):
    """Neither content nor amount of padding moves what is kept."""
    model, longer = built(case), {LENGTH: LENGTH + 12, SOURCE: SOURCE + 11}
    short, other = case.feed(), case.feed(seed=4)
    masked = {name for content in case.masks.values() for name in content}
    grown = {longer[short[name].shape[1]] for name in case.masks}
    for name in case.masks:  # all of the short inputs is kept
        short[name] = np.ones_like(short[name])
    padded, noise = dict(short), case.feed(BATCH, LENGTH + 12, SOURCE + 11, seed=5)
    for name in masked | set(case.masks):
        size = short[name].shape[1]
        padded[name] = np.zeros_like(noise[name]) if name in case.masks else noise[name]
        padded[name][:, :size] = short[name]
    back = {new: old for old, new in longer.items() if new in grown}
    expected = run(model, short)
    assert_equal(crop(run(model, padded), back), expected)
    for name in masked:  # other content under the same mask
        size = short[name].shape[1]
        padded[name][:, size:] = other[name][:, :1]
    assert_equal(crop(run(model, padded), back), expected)


def empty_rows_give_no_nan(case, folder):
    """A row of padding only gives numbers, and leaves the other rows alone."""
    model, inputs = built(case), case.feed()
    expected = run(model, inputs)
    for name in case.masks:
        inputs[name] = inputs[name].copy()
        inputs[name][0] = 0
    outputs = run(model, inputs)
    for name, x in outputs.items():
        assert np.isfinite(x).all(), name
        np.testing.assert_allclose(x[1:], expected[name][1:], **SAME)


def batch_invariance(case, folder):
    """A row's output does not depend on the rows beside it."""
    model, inputs = built(case), case.feed()
    together = run(model, inputs)
    for row in range(BATCH):
        alone = run(model, {name: x[row : row + 1] for name, x in inputs.items()})
        for name, x in alone.items():
            whole = together[name]
            expected = whole if "batchless" in case.traits else whole[row : row + 1]
            np.testing.assert_allclose(x, expected, **SAME)


def causality(case, folder):
    """What comes later does not reach what came before."""
    model, inputs = built(case), case.feed()
    for name in case.masks:
        inputs[name] = np.ones_like(inputs[name])
    before = run(model, inputs)
    cut = 3
    changed = inputs[case.causal].copy()
    changed[:, cut:] = case.feed(seed=8)[case.causal][:, cut:]
    after = run(model, {**inputs, case.causal: changed})
    assert_equal(crop(after, {LENGTH: cut}), crop(before, {LENGTH: cut}))
    assert any(np.abs(after[name] - before[name]).max() > 1e-3 for name in after)


def dropout_only_in_training(case, folder):
    """Inference repeats itself; training drops, and repeats under a seed."""

    def fresh():
        keras.utils.set_random_seed(11)
        return case.model(dropout=0.4)

    model, inputs = fresh(), case.feed()
    assert_equal(run(model, inputs), run(model, inputs), 0, 0)
    first, second = (run(model, inputs, training=True) for _ in range(2))
    assert any(np.abs(first[name] - second[name]).max() > 1e-4 for name in first)
    assert_equal(run(fresh(), inputs, training=True), first, 1e-6, 1e-6)


# === Training ===


class Projection(keras.losses.Loss):
    """A loss whose gradient reaches every element: a product with fixed numbers."""

    def call(self, y_true, y_pred):
        return y_true * y_pred


def targets(model, inputs):
    """One fixed random array for every output, in the outputs' structure."""
    random = np.random.default_rng(9)
    return keras.tree.map_structure(
        lambda x: random.normal(size=x.shape).astype("float32"),
        model(inputs, training=False),
    )


def step(model, inputs, optimizer):
    """One training step on one output more than ten times its size."""
    flat = keras.Model(model.input, keras.tree.flatten(model.output))
    expected = keras.tree.flatten(targets(model, inputs))
    flat.compile(optimizer, [Projection(reduction="sum") for _ in expected])
    flat.run_eagerly = True  # tracing tiny graphs costs more than running them
    flat.train_on_batch(inputs, expected)
    return flat


def gradient_flow(case, folder):
    """Every weight is trained, but for those that nothing can train."""
    model, inputs = case.model(), case.feed()
    before = [ops.convert_to_numpy(w) for w in model.trainable_weights]
    step(model, inputs, keras.optimizers.SGD(1.0))
    for weight, old in zip(model.trainable_weights, before, strict=True):
        moved = np.abs(ops.convert_to_numpy(weight) - old)
        assert np.isfinite(moved).all(), weight.path
        if any(weight.path.endswith(end) for end in case.no_gradient):
            assert moved.max() < 1e-4, f"{weight.path} needs no exemption"
        else:
            assert moved.max() > 1e-3, weight.path


def learns(case, folder):
    """The loss on one tiny batch falls under `compile` and `fit`."""
    model, inputs = case.model(), case.feed()
    expected = keras.tree.map_structure(np.tanh, targets(model, inputs))
    if any(isinstance(x, list) for x in getattr(expected, "values", list)()):
        flat = keras.tree.flatten(model.output)  # states and scores train nobody
        model = keras.Model(model.input, flat[-1])
        expected = keras.tree.flatten(expected)[-1]
    model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=True)
    history = model.fit(inputs, expected, batch_size=BATCH, epochs=10, verbose=0)
    losses = history.history["loss"]
    assert np.isfinite(losses).all() and losses[-1] < 0.9 * losses[0], losses


# === Precision, compilation, devices ===


def dtype_policies(case, folder):
    """Half precision computes in half, keeps weights whole and stays near."""
    inputs, expected = case.feed(), run(built(case), case.feed())
    for policy, tolerance in (("mixed_bfloat16", 0.06), ("mixed_float16", 0.008)):
        model = case.model(dtype=policy)
        model.set_weights(built(case).get_weights())
        assert {w.dtype for w in model.trainable_weights} <= {"float32"}
        outputs = model(inputs, training=False)
        for x in keras.tree.flatten(outputs):  # numbers of places stay whole
            assert keras.backend.standardize_dtype(x.dtype) in (policy[6:], "int32")
        for name, x in arrays(outputs).items():
            scale = np.abs(expected[name]).max() + 1e-6
            assert np.isfinite(x).all(), name
            assert np.abs(x - expected[name]).max() < tolerance * scale, name


def compiled(model, jit):
    if keras.backend.backend() == "jax":
        import jax

        states = (
            [v.value for v in model.trainable_variables],
            [v.value for v in model.non_trainable_variables],
        )
        return jax.jit(lambda inputs: model.stateless_call(*states, inputs)[0])
    import tensorflow as tf

    return tf.function(
        lambda inputs: model(inputs, training=False),
        jit_compile=jit,
        autograph=False,
    )


def compiled_equals_eager(case, folder):
    """A traced graph computes what eager execution does."""
    model, inputs = built(case), case.feed()
    tensors = {name: ops.convert_to_tensor(x) for name, x in inputs.items()}
    assert_equal(arrays(compiled(model, False)(tensors)), run(model, inputs))


def xla_equals_eager(case, folder):
    """XLA computes what eager execution does."""
    model, inputs = built(case), case.feed()
    tensors = {name: ops.convert_to_tensor(x) for name, x in inputs.items()}
    assert_equal(arrays(compiled(model, True)(tensors)), run(model, inputs))


def strategy_equals_single(case, folder, strategy):
    """Two replicas that share a batch make the step that one device makes."""
    single, inputs = case.model(), case.feed(4)
    mse = "mean_squared_error"
    expected = keras.tree.flatten(targets(single, inputs))

    def train(model):
        flat = keras.Model(model.input, keras.tree.flatten(model.output))
        losses = [mse] * len(expected)
        flat.compile(keras.optimizers.SGD(0.1), losses, jit_compile=False)
        flat.fit(inputs, expected, batch_size=4, epochs=1, verbose=0, shuffle=False)
        return [ops.convert_to_numpy(w) for w in model.weights]

    with strategy.scope():
        copy = case.model()
        copy.set_weights(single.get_weights())
        replicated = train(copy)
    for a, b in zip(replicated, train(single), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6)


# === Compression and export ===


def flattened_equals_model(case, folder):
    """Laid flat: the same numbers from the same weights, and no composite left."""
    from keras_tformer import compress

    model, inputs = built(case), case.feed()
    flat = compress.flatten(model, fixed_lengths(model, inputs))
    assert_equal(run(flat, inputs), run(model, inputs), 0, 0)
    assert {id(w) for w in flat.weights} == {id(w) for w in model.weights}
    left = {type(layer).__name__ for layer in flat.layers}
    assert not left & {"TransformerEncoder", "TransformerDecoder", "MultiHeadAttention"}


def prunes_to_sparsity(case, folder):
    """Pruned by half: half of every constrained weight is zero, and none is added."""
    from keras_tformer import compress

    model, inputs = case.model(), case.feed()
    schedule = compress.ConstantSparsity(0.5, begin_step=0, frequency=1)
    pruned = compress.prune_low_magnitude(model, schedule)
    sizes = {w.path: int(np.prod(w.shape)) for w in pruned.weights if w.constraint}
    step(pruned, inputs, keras.optimizers.SGD(0.01))
    stripped = compress.strip_pruning(pruned)
    shares = compress.sparsity(stripped)
    assert sizes
    for path, size in sizes.items():
        assert shares[path] == (size - max(round(size * 0.5), 1)) / size, path
    assert stripped.count_params() == model.count_params()


def clusters_to_few_values(case, folder):
    """Clustered and trained: few values in every chosen weight, and none is added."""
    from keras_tformer import compress

    model, inputs = case.model(), case.feed()
    before = {weight.path: weight.numpy() for weight in model.weights}
    compress.cluster_weights(model, 5, "linear")
    step(model, inputs, keras.optimizers.SGD(0.01))
    chosen = [weight for weight in model.weights if weight.constraint is not None]
    assert chosen
    stripped = compress.strip_clustering(model)
    for weight in chosen:
        assert len(np.unique(weight)) <= 5, weight.path
        assert np.any(weight.numpy() != before[weight.path]), weight.path
    assert stripped.count_params() == model.count_params()


def quantizes(case, folder):
    """Quantization-aware: near the float model once a batch has set the ranges."""
    from keras_tformer import compress

    # Of few rows the spread can be next to nothing by chance.
    model, inputs = case.model(), case.feed(batch=23)
    expected = run(model, inputs)
    lengths = fixed_lengths(model, inputs)
    aware = compress.quantize_model(model, sequence_length=lengths)
    run(aware, inputs, training=True)
    for name, x in run(aware, inputs).items():
        spread = expected[name].std() + 1e-6
        assert np.abs(x - expected[name]).mean() < 0.1 * spread, name


def fixed_lengths(model, inputs):
    return {tensor.name: inputs[name].shape[1] for name, tensor in model.input.items()}


def saved_model_equals_model(case, folder):
    """The exported signature computes what the model does, under the same names."""
    import tensorflow as tf

    from keras_tformer import export

    model, inputs = built(case), case.feed()
    export.to_saved_model(model, f"{folder}/saved")
    signature = tf.saved_model.load(f"{folder}/saved").signatures["serving_default"]
    outputs = signature(**{name: tf.constant(x) for name, x in inputs.items()})
    assert_equal(arrays(outputs), named_as_exported(run(model, inputs)))


def named_as_exported(outputs):
    """The one output is called `output`, of a list `output_0` ..., within one `a_0`."""
    if not any(outputs):
        return {"output": outputs[""]}
    return {
        f"output_{name}" if name[0].isdigit() else name.replace(".", "_"): x
        for name, x in outputs.items()
    }


def tflite_equals_model(case, folder):
    """The phone's file computes what the model does, on the phone's runtime."""
    report = exported(case, folder, None, 1e-4)
    assert report["verification"]["largest_difference"] < 1e-4
    assert set(report["weight_bytes"]) <= {"float32", "int32", "int64", "bool"}


def float16_tflite_is_near_model(case, folder):
    """Weights in half precision: the largest difference, in units of the output."""
    report = exported(case, folder, "float16", 1e-2)
    stored = report["weight_bytes"]
    assert stored["float16"] > stored.get("float32", 0)


def dynamic_range_tflite_is_near_model(case, folder):
    """Weights in int8: the mean difference in shares of the spread."""
    report = exported(case, folder, "dynamic_range", 0.05)
    assert report["weight_bytes"]["int8"] > 4 * WIDTH * WIDTH
    assert report["macs_by_dtype"]["float32*int8"] > 0


def int8_tflite_is_near_model(case, folder):
    """Weights in int8, activations as well: the mean difference as above.

    Products by kernels whose results an operator in float reads are `float32*int8`;
    those of attention are float32.
    """
    report = exported(case, folder, "int8", 0.05)
    macs = report["macs_by_dtype"]
    assert macs["int8"] > 0.1 * report["macs"]
    assert macs.get("float32", 0) < 0.1 * report["macs"]


def exported(case, folder, quantization, tolerance):
    """Writes a file, which is compared with the model on its runtime."""
    from keras_tformer import export

    return export.to_tflite(
        built(case),
        f"{folder}/model.tflite",
        sequence_length=LENGTH,  # a file has one length for all inputs
        quantization=quantization,
        representative_data=case.feed(64, LENGTH, LENGTH),
        tolerance=tolerance,
    )
