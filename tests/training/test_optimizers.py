import keras
import numpy as np
import pytest

import keras_tformer as kt


def albert():
    encoder = kt.models.albert_encoder(
        vocabulary_size=23,
        num_layers=2,
        num_heads=2,
        hidden_dim=6,
        intermediate_dim=14,
        embedding_dim=5,
        max_sequence_length=11,
    )
    return kt.models.albert_pretrainer(encoder)


def after_decay_alone(model):
    """The variables before and after an update with gradients of 0."""
    optimizer = kt.training.adamw(0.5, weight_decay=0.2)
    optimizer.build(model.trainable_variables)
    before = [keras.ops.convert_to_numpy(v) + 1.0 for v in model.trainable_variables]
    for variable, value in zip(model.trainable_variables, before, strict=True):
        variable.assign(value)
    zeros = [keras.ops.zeros(v.shape) for v in model.trainable_variables]
    optimizer.apply(zeros, model.trainable_variables)
    return before


def test_every_no_decay_variable_of_our_models_is_left_out_and_no_other():
    model = albert()
    before = after_decay_alone(model)
    kept = set()
    for variable, value in zip(model.trainable_variables, before, strict=True):
        after = keras.ops.convert_to_numpy(variable)
        if np.array_equal(after, value):
            kept.add(variable.path)
        else:  # decoupled decay alone: 1 - 0.5 * 0.2
            np.testing.assert_allclose(after, value * 0.9, rtol=1e-6)
    # Biases and normalizations are the vectors of these models; all else is a matrix.
    assert kept == {v.path for v in model.trainable_variables if len(v.shape) == 1}
    assert kept


def test_replicated_variables_are_left_out_too(mirrored_strategy):
    with mirrored_strategy.scope():
        inputs = keras.Input((3,))
        outputs = keras.layers.LayerNormalization()(keras.layers.Dense(5)(inputs))
        model = keras.Model(inputs, outputs)
        model.compile(kt.training.adamw(0.5, weight_decay=0.2), "mse")
    for variable in model.trainable_variables:
        variable.assign(keras.ops.ones(variable.shape))
    # Targets equal to the outputs: no gradient, so that decay is all that happens.
    x = np.zeros((4, 3), "float32")
    model.fit(x, model.predict(x, verbose=0), epochs=1, batch_size=4, verbose=0)
    ends = [float(np.ravel(value)[0]) for value in model.get_weights()]
    np.testing.assert_allclose(ends, [0.9, 1.0, 1.0, 1.0], rtol=1e-6)
    for variable in model.trainable_variables:
        one, other = (
            v.numpy()
            for v in mirrored_strategy.experimental_local_results(variable.value)
        )
        np.testing.assert_array_equal(one, other)


def test_update_equals_torch_adamw():
    torch = pytest.importorskip("torch", reason="needs the [reference] extra")
    kernel = np.linspace(-1, 1, 15, dtype="float32").reshape(3, 5)
    gradients = np.random.default_rng(7).normal(size=(4, 3, 5)).astype("float32")
    ours = keras.Variable(kernel, name="kernel")
    theirs = torch.nn.Parameter(torch.tensor(kernel))
    # Keras adds epsilon before the bias correction, torch after it: too small to tell
    optimizer = kt.training.adamw(0.01, weight_decay=0.1, epsilon=1e-12)
    reference = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1, eps=1e-12)
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [ours])
        theirs.grad = torch.tensor(gradient)
        torch.nn.utils.clip_grad_norm_([theirs], 1.0)
        reference.step()
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(ours), theirs.detach().numpy(), atol=2e-5
    )


def test_negative_decay_is_refused():
    with pytest.raises(ValueError, match="weight_decay=-1"):
        kt.training.adamw(0.1, weight_decay=-1)
