import keras
import numpy as np
import pytest

from keras_tformer.training import MaskedCrossentropy


def logits_and_labels(seed=3):
    random = np.random.default_rng(seed)
    logits = random.normal(size=(4, 5, 7)).astype("float32")
    labels = random.integers(0, 7, size=(4, 5))
    return logits, labels


def by_hand(logits, labels, weights, smoothing=0.0):
    total, count = 0.0, 0.0
    for index in np.ndindex(labels.shape):
        probabilities = np.exp(logits[index].astype("float64"))
        probabilities /= probabilities.sum()
        loss = -(1 - smoothing) * np.log(probabilities[labels[index]])
        loss -= smoothing * np.mean(np.log(probabilities))
        total += weights[index] * loss
        count += weights[index]
    return total / count


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mean_over_the_weights(smoothing):
    logits, labels = logits_and_labels()
    weights = np.array(
        [[1, 1, 1, 1, 0], [1, 0, 0, 0, 0], [0] * 5, [2, 1, 0, 0, 0]], float
    )
    loss = MaskedCrossentropy(label_smoothing=smoothing)(labels, logits, weights)
    expected = by_hand(logits, labels, weights, smoothing)
    np.testing.assert_allclose(float(loss), expected, rtol=1e-6)


def test_ignored_labels_equal_weight_zero():
    logits, labels = logits_and_labels()
    weights = (labels != 2).astype(float)
    ignored = np.where(labels == 2, -100, labels)
    expected = by_hand(logits, labels, weights)
    np.testing.assert_allclose(
        float(MaskedCrossentropy()(ignored, logits)), expected, rtol=1e-6
    )


def test_equals_torch_with_smoothing_and_ignored_labels():
    torch = pytest.importorskip("torch", reason="needs the [reference] extra")
    logits, labels = logits_and_labels()
    labels[:, 3:] = -100
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits).reshape(-1, 7),
        torch.tensor(labels).reshape(-1),
        ignore_index=-100,
        label_smoothing=0.1,
    )
    loss = MaskedCrossentropy(label_smoothing=0.1)(labels, logits)
    np.testing.assert_allclose(float(loss), float(expected), rtol=1e-6)


def test_weight_of_a_row_spreads_over_its_tokens():
    logits, labels = logits_and_labels()
    rows = np.array([1.0, 0.0, 3.0, 0.5])
    expected = by_hand(logits, labels, np.repeat(rows[:, None], 5, axis=1))
    for weights in (rows, rows[:, None]):
        loss = MaskedCrossentropy()(labels, logits, weights)
        np.testing.assert_allclose(float(loss), expected, rtol=1e-6)


def test_labels_with_a_last_axis_of_one():
    logits, labels = logits_and_labels()
    expected = by_hand(logits[:, 0], labels[:, 0], np.ones(4))
    for weights in (None, np.ones(4), np.ones((4, 1))):
        loss = MaskedCrossentropy()(labels[:, :1], logits[:, 0], weights)
        np.testing.assert_allclose(float(loss), expected, rtol=1e-6)


def test_nothing_counts():
    logits, labels = logits_and_labels()
    assert float(MaskedCrossentropy()(labels, logits, np.zeros((4, 5)))) == 0.0


def test_half_precision_logits_are_computed_in_float32():
    logits, labels = logits_and_labels()
    half = logits.astype("float16")
    loss = MaskedCrossentropy()(labels, half)
    expected = by_hand(half, labels, np.ones((4, 5)))
    np.testing.assert_allclose(float(loss), expected, rtol=1e-6)


def test_config_round_trip():
    loss = MaskedCrossentropy(label_smoothing=0.2, ignored_label=-1, name="words")
    copy = keras.losses.deserialize(keras.losses.serialize(loss))
    assert copy.get_config() == loss.get_config()
    assert copy.label_smoothing == 0.2


def test_smoothing_of_one_is_refused():
    with pytest.raises(ValueError, match="label_smoothing=1"):
        MaskedCrossentropy(label_smoothing=1)


def test_two_replicas_with_unequal_weights_train_as_one_device(mirrored_strategy):
    import contextlib

    logits = np.random.default_rng(5).normal(size=(6, 5, 3)).astype("float32")
    labels = np.random.default_rng(6).integers(0, 7, size=(6, 5))
    # the first replica has 15 tokens that count, the second 2
    weights = np.zeros((6, 5), "float32")
    weights[:3], weights[3, :2] = 1, 1

    def train(scope):
        keras.utils.set_random_seed(11)
        with scope:
            inputs = keras.Input((5, 3))
            model = keras.Model(inputs, keras.layers.Dense(7)(inputs))
            model.compile(keras.optimizers.SGD(1.0), MaskedCrossentropy())
        history = model.fit(
            logits, labels, sample_weight=weights, batch_size=6, epochs=3, verbose=0
        )
        return history.history["loss"], model.get_weights()

    one_loss, one = train(contextlib.nullcontext())
    two_loss, two = train(mirrored_strategy.scope())
    np.testing.assert_allclose(two_loss, one_loss, rtol=1e-5)
    for ours, theirs in zip(two, one, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
