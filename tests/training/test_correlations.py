import keras
import numpy as np
import pytest

from keras_tformer.training import (
    MaskedCrossentropy,
    MatthewsCorrelation,
    MicroF1,
    PearsonCorrelation,
    spearman_correlation,
)


def labels_and_logits(num_classes):
    random = np.random.default_rng(num_classes)
    labels = random.integers(0, num_classes, size=101)
    logits = random.normal(size=(101, num_classes)).astype("float32")
    logits[np.arange(101), labels] += 0.7  # some of them right
    return labels, logits, random.random(101).astype("float32")


def in_parts(metric, *columns):
    for part in np.array_split(np.arange(len(columns[0])), [37, 44]):
        metric.update_state(*(column[part] for column in columns))
    return float(metric.result())


@pytest.mark.parametrize("num_classes", [2, 5])
def test_matthews_equals_scikit_learn(num_classes):
    sklearn = pytest.importorskip("sklearn.metrics", reason="needs [reference]")
    labels, logits, weights = labels_and_logits(num_classes)
    expected = sklearn.matthews_corrcoef(labels, logits.argmax(-1))
    metric = MatthewsCorrelation(num_classes)
    assert in_parts(metric, labels, logits) == pytest.approx(expected, abs=1e-6)
    expected = sklearn.matthews_corrcoef(
        labels, logits.argmax(-1), sample_weight=weights
    )
    metric.reset_state()
    ours = in_parts(metric, labels, logits, weights)
    assert ours == pytest.approx(expected, abs=1e-6)


def test_matthews_of_one_class_only_is_zero():
    metric = MatthewsCorrelation()
    metric.update_state([0, 1, 1], np.eye(2)[[1, 1, 1]])
    assert float(metric.result()) == 0.0


def test_matthews_leaves_out_ignored_labels():
    metric = MatthewsCorrelation()
    metric.update_state([0, 1, -100], np.eye(2)[[0, 1, 0]])
    assert float(metric.result()) == pytest.approx(1.0)


def test_matthews_of_millions_of_labels():
    metric = MatthewsCorrelation()
    counts = np.array([7_000_001, 2_000_003, 3_000_017, 5_000_011], "float32")
    metric.update_state([0, 0, 1, 1], np.eye(2)[[0, 1, 0, 1]], counts)
    tn, fp, fn, tp = counts.astype("float64")
    expected = (tp * tn - fp * fn) / np.sqrt(
        (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    )
    assert float(metric.result()) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_pearson_equals_scipy(shape):
    scipy = pytest.importorskip("scipy.stats", reason="needs [reference]")
    random = np.random.default_rng(3)
    x = random.normal(size=101)
    y = (0.5 * x + random.normal(size=101)).astype("float32")
    ours = in_parts(PearsonCorrelation(), x, y.reshape(shape))
    assert ours == pytest.approx(scipy.pearsonr(x, y).statistic, abs=1e-6)


def test_weighted_pearson_equals_numpy():
    random = np.random.default_rng(5)
    x, y, weights = random.random((3, 101)).astype("float32")
    (xx, xy), (_, yy) = np.cov(x, y, aweights=weights)
    ours = in_parts(PearsonCorrelation(), x, y, weights)
    assert ours == pytest.approx(xy / np.sqrt(xx * yy), abs=1e-6)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="float32 on JAX")
def test_pearson_far_from_zero():
    random = np.random.default_rng(6)
    x, noise = random.integers(0, 100, (2, 101))
    ours = in_parts(PearsonCorrelation(), x + 1e5, x + noise + 1e5)
    assert ours == pytest.approx(np.corrcoef(x, x + noise)[0, 1], abs=1e-6)


def test_pearson_of_equal_predictions_is_zero():
    metric = PearsonCorrelation()
    metric.update_state([1.0, 2.0, 3.0], [0.5, 0.5, 0.5])
    assert float(metric.result()) == 0.0


def test_spearman_with_ties_equals_scipy():
    scipy = pytest.importorskip("scipy.stats", reason="needs [reference]")
    random = np.random.default_rng(7)
    x = random.integers(0, 7, 101)
    y = x + random.integers(0, 5, 101)
    expected = scipy.spearmanr(x, y).statistic
    assert spearman_correlation(x, y[:, None]) == pytest.approx(expected, abs=1e-12)
    assert spearman_correlation(x, np.ones(101)) == 0.0
    with pytest.raises(ValueError, match="101 labels and 100 predictions"):
        spearman_correlation(x, y[:100])


@pytest.mark.parametrize("classes", [None, [1], [1, 3, 4]])
def test_micro_f1_equals_scikit_learn(classes):
    sklearn = pytest.importorskip("sklearn.metrics", reason="needs [reference]")
    labels, logits, weights = labels_and_logits(5)
    expected = sklearn.f1_score(
        labels,
        logits.argmax(-1),
        labels=classes,
        average="micro",
        sample_weight=weights,
    )
    ours = in_parts(MicroF1(5, classes), labels, logits, weights)
    assert ours == pytest.approx(expected, abs=1e-6)


def test_two_replicas_with_unequal_parts_add_up(mirrored_strategy):
    """The last batch has two rows for one replica, one for the other."""
    import tensorflow as tf

    random = np.random.default_rng(8)
    x = random.normal(size=(7, 3)).astype("float32")
    y = random.integers(0, 2, 7)

    def evaluate():
        inputs = keras.Input((3,))
        model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
        model.set_weights([np.eye(3, 2), np.zeros(2)])
        metrics = [MatthewsCorrelation(), MicroF1(2, [1])]
        model.compile(loss=MaskedCrossentropy(), weighted_metrics=metrics)
        rows = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
        scores = model.evaluate(rows, verbose=0, return_dict=True)
        regressor = keras.Model(inputs, keras.layers.Dense(1)(inputs))
        regressor.set_weights([np.ones((3, 1)), np.zeros(1)])
        regressor.compile(loss="mse", weighted_metrics=[PearsonCorrelation()])
        scores |= regressor.evaluate(rows, verbose=0, return_dict=True)
        return {name: scores[name] for name in scores if name != "loss"}

    with mirrored_strategy.scope():
        two = evaluate()
    assert len(two) == 3
    assert two == pytest.approx(evaluate(), abs=1e-6)
    expected = np.corrcoef(x.sum(-1), y)[0, 1]
    assert two["pearson_correlation"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "metric", [MatthewsCorrelation(3), PearsonCorrelation(), MicroF1(5, [1, 2])]
)
def test_correlation_config_round_trip(metric):
    copy = keras.metrics.deserialize(keras.metrics.serialize(metric))
    assert copy.get_config() == metric.get_config()


def test_wrong_numbers_are_told():
    with pytest.raises(ValueError, match="num_classes=1"):
        MatthewsCorrelation(1)
    with pytest.raises(ValueError, match="from 0 to 2"):
        MicroF1(3, [3])
