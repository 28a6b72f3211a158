import keras
import numpy as np
import pytest

from keras_tformer.training import EpochScores, spearman_correlation


def model_and_data(outputs=None):
    import tensorflow as tf

    random = np.random.default_rng(2)
    x, y = random.random((11, 3)).astype("float32"), random.random(11)
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model, tf.data.Dataset.from_tensor_slices((x, y)).batch(4)


def test_scores_are_those_of_the_weights_after_the_epoch():
    model, dataset = model_and_data()
    seen = []

    def measure(labels, outputs):
        assert labels.shape == (11,)
        seen.append(spearman_correlation(labels, outputs))
        return {"spearman": seen[-1]}

    history = model.fit(
        dataset, epochs=3, verbose=0, callbacks=[EpochScores(dataset, measure)]
    )
    assert history.history["val_spearman"] == seen
    labels = np.concatenate([y for _, y in dataset])
    last = spearman_correlation(labels, model.predict(dataset, verbose=0))
    assert seen[-1] == pytest.approx(last)


def test_early_stopping_reads_the_score():
    model, dataset = model_and_data()
    scores = iter([0.1, 0.7, 0.3, 0.2, 0.1])
    callbacks = [
        EpochScores(dataset, lambda *_: {"f1": next(scores)}),
        keras.callbacks.EarlyStopping("val_f1", mode="max", patience=2),
    ]
    history = model.fit(dataset, epochs=5, verbose=0, callbacks=callbacks)
    assert history.history["val_f1"] == [0.1, 0.7, 0.3, 0.2]


def test_labels_of_several_outputs_with_weights():
    import tensorflow as tf

    inputs = keras.Input((3,))
    outputs = {name: keras.layers.Dense(1)(inputs) for name in ("start", "end")}
    model = keras.Model(inputs, outputs)
    model.compile("sgd", dict.fromkeys(outputs, "mse"))
    x, y = np.ones((5, 3)), np.arange(5.0)
    labels = {"start": y, "end": y + 10}
    dataset = tf.data.Dataset.from_tensor_slices((x, labels, np.ones(5))).batch(2)

    def measure(labels, outputs):
        assert labels["end"].tolist() == (y + 10).tolist()
        return {"rows": len(outputs["start"])}

    scores = EpochScores(dataset, measure, prefix="dev_")
    history = model.fit(dataset.take(1), verbose=0, callbacks=[scores])
    assert history.history["dev_rows"] == [5.0]


def test_a_measure_that_returns_no_dict_is_told():
    model, dataset = model_and_data()
    with pytest.raises(ValueError, match="returned float"):
        model.fit(dataset, verbose=0, callbacks=[EpochScores(dataset, lambda *_: 0.5)])
