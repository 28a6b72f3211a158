import keras
import numpy as np
import pytest

from keras_tformer.training import MacroF1, MaskedAccuracy, Perplexity


def tagged_tokens():
    random = np.random.default_rng(9)
    labels = random.integers(0, 5, size=(7, 11))
    labels[random.random(labels.shape) < 0.3] = -100
    return labels, random.normal(size=(7, 11, 5)).astype("float32")


def update_in_parts(metric, labels, logits, weights=None):
    for part in (slice(0, 3), slice(3, 7)):
        metric.update_state(
            labels[part], logits[part], None if weights is None else weights[part]
        )
    return float(metric.result())


def test_macro_f1_and_accuracy_equal_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics", reason="needs [reference]")
    labels, logits = tagged_tokens()
    counted = labels != -100
    true, predicted = labels[counted], logits.argmax(-1)[counted]
    expected = sklearn.f1_score(true, predicted, average="macro")
    assert update_in_parts(MacroF1(5), labels, logits) == pytest.approx(expected)
    expected = sklearn.accuracy_score(true, predicted)
    assert update_in_parts(MaskedAccuracy(), labels, logits) == pytest.approx(expected)


def test_weighted_macro_f1_equals_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics", reason="needs [reference]")
    labels, logits = tagged_tokens()
    weights = np.random.default_rng(2).random(labels.shape)
    counted = labels != -100
    expected = sklearn.f1_score(
        labels[counted],
        logits.argmax(-1)[counted],
        average="macro",
        sample_weight=weights[counted],
    )
    assert update_in_parts(MacroF1(5), labels, logits, weights) == pytest.approx(
        expected
    )


def test_macro_f1_equals_that_of_keras_on_one_hot_labels():
    labels, logits = tagged_tokens()
    labels = np.where(labels == -100, 0, labels)
    theirs = keras.metrics.F1Score(average="macro")
    theirs.update_state(np.eye(5)[labels.ravel()], logits.reshape(-1, 5))
    ours = update_in_parts(MacroF1(5), labels, logits)
    assert ours == pytest.approx(float(theirs.result()))


def test_a_class_that_never_comes_has_f1_zero():
    metric = MacroF1(4)
    metric.update_state([0, 1], np.eye(4, dtype="float32")[:2])
    assert float(metric.result()) == pytest.approx(2 / 4)


def test_perplexity_worked_by_hand():
    probabilities = np.array([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]], "float32")
    logits = np.log(probabilities)
    metric = Perplexity()
    metric.update_state(np.array([0, 2]), logits)  # mean of log 2 and log 8 is log 4
    assert float(metric.result()) == pytest.approx(4.0, rel=1e-6)
    metric.reset_state()
    metric.update_state(np.array([0, 2]), logits, np.array([1, 0]))
    assert float(metric.result()) == pytest.approx(2.0, rel=1e-6)


@pytest.mark.parametrize("metric", [MacroF1(3), MaskedAccuracy(-1), Perplexity(-1)])
def test_config_round_trip(metric):
    copy = keras.metrics.deserialize(keras.metrics.serialize(metric))
    assert copy.get_config() == metric.get_config()


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="num_classes=1"):
        MacroF1(1)
