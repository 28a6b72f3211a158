import keras
import numpy as np
import pytest
from conftest import SIZES, make_examples

from keras_tformer import export
from keras_tformer.compress import quantize_model
from keras_tformer.export.token_outputs import token_outputs
from keras_tformer.models import (
    bert_encoder,
    masked_lm,
    sequence_classifier,
    span_classifier,
    token_classifier,
)


def test_equal_artefacts_pass(tflite_file, saved_model, classifier, examples):
    for artefact in (tflite_file, saved_model):
        result = export.verify(artefact, classifier, examples, tolerance=1e-4)
        assert result["examples"] == 67
        assert result["agreement"] == 1.0
        assert result["largest_difference"] < 1e-4
        assert list(result["outputs"]) == ["output"]


def test_every_setting_is_compared(tflite_file, classifier, examples):
    result = export.verify(tflite_file, classifier, examples)
    assert [
        (part["num_threads"], part["use_default_delegate"], part["examples"])
        for part in result["settings"]
    ] == [(1, True, 67), (2, True, 16), (1, False, 16), (2, False, 16)]
    for part in result["settings"]:
        assert part["largest_difference"] < 1e-4 and part["agreement"] == 1.0
    arguments = {"num_threads": 2, "use_default_delegate": False}
    result = export.verify(tflite_file, classifier, examples, **arguments)
    assert arguments.items() <= result.items()
    assert result["examples"] == 67 and len(result["settings"]) == 1
    with pytest.raises(ValueError, match="positive whole number"):
        export.verify(tflite_file, classifier, examples, num_threads=0)


def test_one_wrong_setting_is_enough(tflite_file, classifier, examples, monkeypatch):
    """A delegate that computes something else than the kernels without it."""
    from keras_tformer.export import verification

    def open_artefact(artefact, num_threads, use_default_delegate, *others):
        runner = original(artefact, num_threads, use_default_delegate, *others)
        if use_default_delegate or num_threads == 1:
            return runner

        def wrong(batches):
            return {name: 1.1 * value for name, value in runner(batches).items()}

        wrong.runtime = runner.runtime
        return wrong

    original = verification.open_artefact
    monkeypatch.setattr(verification, "open_artefact", open_artefact)
    with pytest.raises(ValueError, match=r"2 thread\(s\), delegate off"):
        export.verify(tflite_file, classifier, examples, tolerance=1e-4)


@pytest.mark.slow
def test_separate_process(saved_model, classifier, examples):
    result = export.verify(
        saved_model, classifier, examples, in_separate_process=True, max_examples=5
    )
    assert result["examples"] == 5
    assert result["largest_difference"] < 1e-5


def test_a_separate_process_is_for_saved_models(tflite_file, classifier, examples):
    with pytest.raises(ValueError, match="Leave it out"):
        export.verify(tflite_file, classifier, examples, in_separate_process=True)


def test_another_model_is_refused_where_no_limit_is_given(
    tflite_file, classifier, examples
):
    weights = classifier.get_weights()
    try:
        classifier.set_weights([*weights[:-2], -weights[-2], weights[-1]])
        with pytest.raises(ValueError, match="does not compute"):
            export.verify(tflite_file, classifier, examples)
        result = export.verify(
            tflite_file, classifier, examples, tolerance=float("inf")
        )
        assert result["clear_agreement"] < 0.9
    finally:
        classifier.set_weights(weights)


def test_a_model_without_finite_outputs_is_told(tflite_file, classifier, examples):
    weights = classifier.get_weights()
    try:
        classifier.set_weights([*weights[:-1], np.full_like(weights[-1], np.nan)])
        with pytest.raises(ValueError, match="Keras model's own output 'output'"):
            export.verify(tflite_file, classifier, examples)
    finally:
        classifier.set_weights(weights)


def test_another_models_numbers_are_refused(tflite_file, classifier, examples):
    weights = classifier.get_weights()
    try:
        classifier.set_weights([weight * 1.5 for weight in weights])
        with pytest.raises(ValueError, match="largest difference"):
            export.verify(tflite_file, classifier, examples, tolerance=1e-4)
        with pytest.raises(ValueError, match="standard deviation"):
            export.verify(tflite_file, classifier, examples, relative_tolerance=0.05)
        classifier.set_weights([*weights[:-2], -weights[-2], weights[-1]])
        with pytest.raises(ValueError, match="predictions are equal"):
            export.verify(tflite_file, classifier, examples, minimum_agreement=0.98)
    finally:
        classifier.set_weights(weights)


def test_near_ties_are_no_wrong_predictions(monkeypatch):
    """By hand: of 4 rows one is a near tie and one is wrong; values spread by 0.9."""
    from keras_tformer.export import verification

    theirs = np.array([[2, 0, 0], [0, 2, 0], [1, 0.9, 0], [2, 0, 0]], "float32")
    ours = np.array([[2, 0, 0], [0, 2, 0], [1, 1.1, 0], [0, 0, 2]], "float32")
    x = keras.Input((3,), name="x")
    model = keras.Model({"x": x}, {"output": keras.layers.Identity()(x)})

    def open_artefact(*others):
        def run(batches):
            return {"output": ours[: sum(len(batch["x"]) for batch in batches)]}

        run.runtime, run.shapes, run.dtypes = "by hand", {"x": (None, 3)}, {}
        return run

    monkeypatch.setattr(verification, "open_artefact", open_artefact)

    def verify(**shares):
        return export.verify(
            "by hand", model, {"x": theirs}, tolerance=float("inf"), **shares
        )

    result = verify(minimum_clear_agreement=0.7)
    assert (result["agreement"], result["clear_agreement"]) == (0.5, 0.75)
    with pytest.raises(ValueError, match="75.0% .* equal, near ties aside"):
        verify(minimum_clear_agreement=0.8)
    with pytest.raises(ValueError, match="50.0% of the predictions are equal "):
        verify(minimum_agreement=0.7)


def test_scores_against_scikit_learn(tflite_file, classifier, examples):
    import tensorflow as tf

    metrics = pytest.importorskip("sklearn.metrics", reason="the reference scores")
    labels = np.random.default_rng(7).integers(0, 3, 67)
    dataset = tf.data.Dataset.from_tensor_slices((examples, labels)).batch(23)
    result = export.verify(tflite_file, classifier, dataset)
    predicted = classifier.predict(examples, verbose=0).argmax(-1)
    accuracy = metrics.accuracy_score(labels, predicted)
    macro_f1 = metrics.f1_score(labels, predicted, average="macro")
    for side in ("artefact", "model"):
        assert result["accuracy"][side] == pytest.approx(accuracy)
        assert result["macro_f1"][side] == pytest.approx(macro_f1)


def test_regression_is_scored(tmp_path):
    inputs = keras.Input((3,), name="x")
    model = keras.Model({"x": inputs}, keras.layers.Dense(1)(inputs))
    random = np.random.default_rng(7)
    model.set_weights([np.array([[1.0], [2], [3]]), np.array([0.5])])
    export.to_saved_model(model, tmp_path / "model")
    x = random.normal(size=(41, 3)).astype("float32")
    truth = random.normal(size=41)
    result = export.verify(tmp_path / "model", model, ({"x": x}, truth))
    predicted = x @ [1, 2, 3] + 0.5
    stats = pytest.importorskip("scipy.stats", reason="the reference scores")
    for side in ("artefact", "model"):
        expected = stats.pearsonr(truth, predicted).statistic
        assert result["pearson"][side] == pytest.approx(expected, abs=1e-5)
        error = np.mean((truth - predicted) ** 2)
        assert result["mean_squared_error"][side] == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize("how", ["shorter", "longer", "single", "tuple", "function"])
def test_forms_of_data(tflite_file, classifier, examples, how):
    data = {name: ids[:3] for name, ids in examples.items()}
    if how == "shorter":  # filled with padding
        data = [{name: ids[:, :7] for name, ids in data.items()}]
    elif how == "longer":  # surplus padding goes
        data = [{name: np.pad(ids, ((0, 0), (0, 6))) for name, ids in data.items()}]
    elif how == "single":
        data = [{name: ids[i] for name, ids in data.items()} for i in range(3)]
    elif how == "tuple":
        data = (data, np.array([0, 1, 2]))
    else:
        rows = data

        def data():
            yield rows

    result = export.verify(tflite_file, classifier, data, tolerance=1e-4)
    assert result["examples"] == 3
    assert ("accuracy" in result) == (how == "tuple")


def test_data_that_does_not_fit(tflite_file, classifier, examples):
    with pytest.raises(ValueError, match="The dataset is empty"):
        export.verify(tflite_file, classifier, [])
    long = {name: np.ones((2, 17), "int32") for name in examples}
    with pytest.raises(ValueError, match="at most 13 tokens"):
        export.verify(tflite_file, classifier, long)
    with pytest.raises(ValueError, match="no artefact"):
        export.verify("nowhere.tflite", classifier, examples)


def test_token_labels_follow_their_tokens(tmp_path):
    keras.utils.set_random_seed(5)
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    mask = keras.Input((None,), dtype="int32", name="padding_mask")
    scores = keras.layers.Dense(5)(keras.layers.Embedding(31, 7)(ids))
    kept = keras.ops.expand_dims(keras.ops.cast(mask, "float32"), -1)
    model = keras.Model({"token_ids": ids, "padding_mask": mask}, scores * kept)
    file = tmp_path / "tagger.tflite"
    export.to_tflite(model, file, sequence_length=11)
    data = {
        "token_ids": np.arange(14).reshape(2, 7) + 1,
        "padding_mask": np.array([[1] * 7, [1] * 3 + [0] * 4]),
    }
    labels = model.predict(data, verbose=0).argmax(-1)
    labels[0, 0] = (labels[0, 0] + 1) % 5  # one of ten tokens is wrong
    weights = data["padding_mask"].astype("float32")
    result = export.verify(file, model, [(data, labels, weights)])
    assert result["accuracy"] == {"artefact": 0.9, "model": 0.9}


@pytest.mark.slow
@pytest.mark.parametrize("quantization", [None, "int8"])
def test_equal_biases_hide_no_other_weights(quantization, examples, tmp_path):
    """All of two models' logits differ by class alone, as far as one can see."""
    models = []
    for seed in (3, 5):
        keras.utils.set_random_seed(seed)
        sizes = SIZES | {"initializer_range": 0.05}
        model = sequence_classifier(bert_encoder(num_layers=1, **sizes), num_classes=3)
        *weights, bias = model.get_weights()
        model.set_weights([*weights, np.array([3, 0, -1], "float32")])
        models.append(model)
    file = tmp_path / "model.tflite"
    calibration = {"quantization": quantization, "representative_data": examples}
    export.to_tflite(models[0], file, 13, **calibration)
    export.verify(file, models[0], examples)
    for limits in (
        {},
        {"relative_tolerance": 0.15, "minimum_clear_agreement": 0.9},
        {"minimum_agreement": 0.9},
    ):
        with pytest.raises(ValueError, match="standard deviation"):
            export.verify(file, models[1], examples, **limits)


@pytest.mark.parametrize("form", ["tflite_file", "saved_model"])
def test_weights_a_little_off_are_refused(form, classifier, examples, request):
    """A file in float32 is exact: a hundredth of every weight is another model."""
    artefact = request.getfixturevalue(form)
    weights = classifier.get_weights()
    generator = np.random.default_rng(7)
    try:
        classifier.set_weights(
            [w * (1 + 0.02 * generator.normal(size=w.shape)) for w in weights]
        )
        with pytest.raises(ValueError, match="does not compute"):
            export.verify(artefact, classifier, examples)
    finally:
        classifier.set_weights(weights)


def test_shares_alone_prove_nothing_of_outputs_of_one_value(tmp_path):
    x = keras.Input((3,), name="x")
    model = keras.Model({"x": x}, keras.layers.Dense(1)(x))
    export.to_saved_model(model, tmp_path / "model")
    rows = {"x": np.random.default_rng(7).normal(size=(11, 3)).astype("float32")}
    export.verify(tmp_path / "model", model, rows, minimum_agreement=0.9)
    model.set_weights([-weight for weight in model.get_weights()])
    with pytest.raises(ValueError, match="does not compute"):
        export.verify(tmp_path / "model", model, rows, minimum_agreement=0.9)
    with pytest.raises(ValueError, match="nothing would be proved"):
        export.verify(
            tmp_path / "model",
            model,
            rows,
            tolerance=float("inf"),
            minimum_agreement=0.9,
        )


@pytest.mark.parametrize(
    "limit",
    [
        {"tolerance": float("nan")},
        {"tolerance": -1e-4},
        {"relative_tolerance": "0.1"},
        {"minimum_agreement": 98},
        {"minimum_clear_agreement": True},
    ],
)
def test_limits_that_are_none(limit, tflite_file, classifier, examples):
    with pytest.raises(ValueError, match=f"Received {next(iter(limit))}="):
        export.verify(tflite_file, classifier, examples, **limit)


@pytest.fixture
def half_full():
    """34 tokens a row, as many as a hidden vector has numbers; half are padding."""
    rows = make_examples(7, 34)
    rows["padding_mask"][:, 17:] = 0
    return {name: ids * rows["padding_mask"] for name, ids in rows.items()}


@pytest.mark.parametrize("length", [None, 34])
@pytest.mark.parametrize("kind", ["classes", "pooled_output"])
def test_what_is_as_wide_as_a_text_is_long_is_compared(
    kind, length, half_full, tmp_path
):
    """No padding mask leaves out classes, or a part of the pooled output."""
    sizes = SIZES | {"max_sequence_length": 34, "sequence_length": length}
    model = bert_encoder(num_layers=1, **sizes)
    if kind == "classes":
        model = sequence_classifier(model, num_classes=34)
    weights = model.get_weights()
    export.to_saved_model(model, tmp_path / "model")
    export.verify(tmp_path / "model", model, half_full, tolerance=1e-5)
    weights[-1][17:] += 0.3  # the bias of the last layer, only where padding would be
    model.set_weights(weights)
    with pytest.raises(ValueError, match="largest difference"):
        export.verify(tmp_path / "model", model, half_full, tolerance=1e-5)


@pytest.mark.parametrize("length", [None, 13])
def test_padding_is_not_compared(length, examples):
    """Whose second axis follows the mask has one value or row for each token."""
    encoder = bert_encoder(num_layers=1, sequence_length=length, **SIZES)
    for model, expected in (
        (encoder, {"sequence_output"}),
        (span_classifier(encoder), {"start", "end"}),
        (token_classifier(encoder, num_classes=3), {"output"}),
        (sequence_classifier(encoder, num_classes=13), set()),
        (masked_lm(encoder), set()),
    ):
        assert token_outputs(model, "padding_mask", 13) == expected, model.name


def test_padding_is_not_compared_where_a_graph_runs_at_one_length(examples):
    """Quantization-aware models hold the lengths that they were made for."""
    sizes = SIZES | {"sequence_length": 13, "hidden_dim": 26}
    encoder = bert_encoder(num_layers=1, **sizes)
    for head, expected in (
        (span_classifier(encoder), {"start", "end"}),
        (token_classifier(encoder, num_classes=13), {"output"}),
        (sequence_classifier(encoder, num_classes=13), set()),
    ):
        lengths = dict.fromkeys(examples, 13)
        aware = quantize_model(head, sequence_length=lengths)
        assert token_outputs(aware, "padding_mask", 13) == expected, head.name
