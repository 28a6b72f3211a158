"""What all comparisons share: odd sizes, padded batches, and the largest difference."""

import keras
import numpy as np
import pytest

# Each of these compiles a model of its own, which takes JAX seconds.
one_backend_is_enough = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="golden values and gradients are what the other backends are held to",
)

# The largest absolute difference that any output may show in float32.
TOLERANCE = 2e-5


def outputs_of(model, batch):
    """Runs a model without training it; the same nest of outputs as NumPy arrays."""
    if keras.backend.backend() == "jax":  # One by one, its operations are slow.
        return model.predict_on_batch(batch)
    outputs = model({key: keras.ops.array(value) for key, value in batch.items()})
    return keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)


def random_encoder_sizes(seed):
    """Draws sizes that are odd or prime wherever they may be."""
    draw = np.random.default_rng(seed)
    num_heads = int(draw.choice([2, 3, 5, 7]))
    return {
        "vocabulary_size": int(draw.choice([37, 53, 71, 97])),
        "num_layers": int(draw.choice([2, 3])),
        "num_heads": num_heads,
        "hidden_dim": num_heads * int(draw.choice([3, 5, 11, 13])),
        "intermediate_dim": int(draw.choice([19, 43, 61])),
        "max_sequence_length": int(draw.choice([23, 29, 31])),
        "num_segments": int(draw.choice([1, 3, 5])),
    }


def random_batch(sizes, seed, batch_size=5, length=17):
    """Makes a batch of sequences of random lengths, padded on the right."""
    draw = np.random.default_rng(seed)
    shape = (batch_size, length)
    lengths = draw.integers(1, length + 1, batch_size)
    lengths[0] = length
    return {
        "token_ids": draw.integers(0, sizes["vocabulary_size"], shape, "int32"),
        "segment_ids": draw.integers(0, sizes["num_segments"], shape, "int32"),
        "padding_mask": (np.arange(length) < lengths[:, None]).astype("int32"),
    }


def randomize(torch_module, seed):
    """Draws all weights anew, so that no bias is 0 and no norm is the identity.

    Kernels keep the variance of what passes through; tables have a deviation of 0.2.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    tables = {
        id(module.weight)
        for module in torch_module.modules()
        if isinstance(module, torch.nn.Embedding)
    }
    with torch.no_grad():
        for name, value in torch_module.named_parameters():
            if not value.requires_grad:  # Marian's sines and cosines.
                continue
            noise = torch.randn(value.shape, generator=generator)
            if id(value) in tables:
                value.copy_(0.2 * noise)
            elif value.ndim == 2:
                # GPT-2 keeps kernels as (inputs, outputs), all others the other way.
                fan_in = value.shape[0 if ".c_" in name else 1]
                value.copy_(noise / fan_in**0.5)
            elif "norm" in name.lower() or ".ln_" in name:
                value.copy_(noise * 0.2 + name.endswith("weight"))
            else:
                value.copy_(0.2 * noise)
    return torch_module.eval()


def alternate_sines_and_cosines(marian):
    """Puts Marian's positions in the order of Vaswani et al., who alternate.

    Marian keeps all sines before all cosines: the same numbers in another order.
    """
    import torch

    for side in ("encoder", "decoder"):
        weight = getattr(marian.model, side).embed_positions.weight
        sines, cosines = weight.detach().chunk(2, dim=1)
        with torch.no_grad():
            weight.copy_(torch.stack([sines, cosines], -1).flatten(1))


def largest_difference(ours, theirs):
    """Returns the largest absolute difference in two equal nests of arrays."""
    ours, theirs = keras.tree.flatten(ours), keras.tree.flatten(theirs)
    assert len(ours) == len(theirs), (len(ours), len(theirs))
    largest = 0.0
    for our, their in zip(ours, theirs, strict=True):
        our, their = np.asarray(our), np.asarray(their)
        assert our.shape == their.shape, (our.shape, their.shape)
        assert np.isfinite(our).all()
        largest = max(largest, float(np.abs(our - their).max()))
    return largest


def assert_close(ours, theirs, record=None, tolerance=TOLERANCE):
    """Compares two dicts of outputs entry by entry.

    `record` is pytest's `record_property`: it keeps the differences for the report.
    """
    assert ours.keys() == theirs.keys()
    differences = {key: largest_difference(ours[key], theirs[key]) for key in ours}
    if record is not None:
        for key, difference in differences.items():
            record(key, difference)
    wrong = {key: value for key, value in differences.items() if not value < tolerance}
    assert not wrong, f"differences of {tolerance} or more: {wrong}"


def gradients_of(model, batch, loss_of, is_traced=False):
    """Returns `{path: gradient}` of `loss_of(outputs)` for all weights of a model.

    `is_traced` is whether TensorFlow traces them into a graph first, as `fit` does.
    """
    inputs = {key: keras.ops.array(value) for key, value in batch.items()}
    variables = model.trainable_variables
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        def gradients_with(inputs):
            with tf.GradientTape() as tape:
                loss = loss_of(model(inputs, training=True))
            return tape.gradient(loss, [variable.value for variable in variables])

        if is_traced:
            gradients_with = tf.function(gradients_with, autograph=False)
        gradients = gradients_with(inputs)
    elif backend == "jax":
        import jax

        fixed = [variable.value for variable in model.non_trainable_variables]

        def loss_with(values):
            outputs, _ = model.stateless_call(values, fixed, inputs, training=True)
            return loss_of(outputs)

        values = [variable.value for variable in variables]
        gradients = jax.jit(jax.grad(loss_with))(values)
    else:
        model.zero_grad()
        loss_of(model(inputs, training=True)).backward()
        gradients = [variable.value.grad for variable in variables]
    return {
        variable.path: keras.ops.convert_to_numpy(gradient)
        for variable, gradient in zip(variables, gradients, strict=True)
    }


def assert_gradients_close(ours, table_rows, torch_module, record, tolerance=1e-3):
    """Compares gradients weight by weight, relative to the largest entry of a weight.

    A key's bias adds the same number to all scores of a query, which the softmax takes
    out again: its gradient is zero, and rounding is all that either side shows.
    """
    theirs = {
        name: value.grad.numpy()
        for name, value in torch_module.named_parameters()
        if value.grad is not None
    }
    scale = max(np.abs(value).max() for value in theirs.values())
    relative, zeros = {}, {}
    for name, kind, path in table_rows:
        their = theirs[name].T if kind == "T" else theirs[name]
        if "key.bias" in name:
            zeros[path] = max(np.abs(ours[path]).max(), np.abs(their).max()) / scale
        else:
            relative[path] = np.abs(ours[path] - their).max() / np.abs(their).max()
    assert set(ours) == set(relative) | set(zeros)
    record("largest relative gradient error", float(max(relative.values())))
    record("largest gradient of a key bias", float(max(zeros.values())))
    wrong = {path: error for path, error in relative.items() if not error < tolerance}
    assert not wrong, f"relative errors of {tolerance} or more: {wrong}"
    assert max(zeros.values()) < 1e-6
