import contextlib

import keras
import numpy as np
import pytest

import keras_tformer as kt
from keras_tformer.training import (
    AttentionDistillation,
    Distiller,
    HiddenStateDistillation,
    RelationDistillation,
    ResumeFromCheckpoint,
    SoftTargetDistillation,
    compile_arguments,
)

B, T, V = 6, 7, 31


def encoder(kind, hidden_dim, num_layers, dropout=0.0, **arguments):
    sizes = {
        "vocabulary_size": V,
        "embedding_dim": 3,
        "num_layers": num_layers,
        "num_heads": 2,
        "hidden_dim": hidden_dim,
        "intermediate_dim": 11,
        "initializer_range": 0.3,
        "dropout": dropout,
        "attention_dropout": dropout,
    }
    return getattr(kt.models, f"{kind}_encoder")(**(sizes | arguments))


def classifiers(dropout=0.0, head=kt.models.sequence_classifier, **arguments):
    """A BERT teacher of three layers, an ALBERT student of two calls."""
    teacher = encoder("bert", 10, 3, dropout, **arguments)
    student = encoder("albert", 6, 2, **arguments)
    return (
        head(teacher, num_classes=3, dropout=dropout),
        head(student, num_classes=3, dropout=0.0),
    )


def batch(padding=0):
    """Sentences of 2 to 7 tokens, with `padding` more positions at the end."""
    random = np.random.default_rng(4)
    mask = (np.arange(T) < np.array([[7], [2], [3], [5], [2], [3]])).astype("int32")
    inputs = {
        "token_ids": random.integers(1, V, size=(B, T)) * mask,
        "segment_ids": np.zeros((B, T), "int32"),
        "padding_mask": mask,
    }
    inputs = {
        name: np.pad(array.astype("int32"), ((0, 0), (0, padding)))
        for name, array in inputs.items()
    }
    return inputs, random.integers(0, 3, size=B).astype("int32")


def all_losses():
    return [
        SoftTargetDistillation(2.0),
        HiddenStateDistillation([(0, 0), (1, 1), (2, 3)]),
        AttentionDistillation(),
        AttentionDistillation(before_softmax=False, name="attention_weights"),
        RelationDistillation(num_relation_heads=1),
    ]


def total(distiller, x, y, sample_weight=None):
    y_pred = distiller(x, training=True)
    return distiller.compute_loss(x, y, y_pred, sample_weight, training=True)


@pytest.fixture(scope="module")
def taught():
    """A distiller with every loss, compiled; the teacher has dropout."""
    keras.utils.set_random_seed(7)
    teacher, student = classifiers(dropout=0.5)
    distiller = Distiller(teacher, student, all_losses(), student_loss_weight=0.3)
    arguments = compile_arguments("sequence_classifier")
    distiller.compile("sgd", **arguments, jit_compile=False)  # XLA has its own test
    return distiller, teacher


def test_the_loss_is_the_weighted_sum(taught):
    distiller, teacher = taught
    x, y = batch()
    value = float(total(distiller, x, y))
    teacher_logits = np.array(teacher(x), "float64") / 2
    student_logits = np.array(distiller.student(x), "float64")

    def log_softmax(z):
        return z - np.log(np.exp(z).sum(-1, keepdims=True))

    p, q = log_softmax(teacher_logits), log_softmax(student_logits / 2)
    soft = 4 * np.mean(np.sum(np.exp(p) * (p - q), -1))
    hard = -np.mean(log_softmax(student_logits)[np.arange(B), y])
    results = {metric.name: float(metric.result()) for metric in distiller.metrics[2:]}
    np.testing.assert_allclose(results["soft_targets"], soft, rtol=1e-4)
    np.testing.assert_allclose(results["student_loss"], hard, rtol=1e-4)
    names = [loss.name for loss in distiller.distillation_losses]
    assert all(results[name] > 0 for name in names)
    expected = 0.3 * hard + 0.7 * sum(results[name] for name in names)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    distiller.reset_metrics()


def test_the_teacher_is_in_inference_mode_and_gets_no_gradient(taught):
    tf = pytest.importorskip("tensorflow")
    distiller, teacher = taught
    x, y = batch()
    assert float(total(distiller, x, y)) == float(total(distiller, x, y))
    with tf.GradientTape() as tape:
        loss = total(distiller, x, y)
    variables = [v.value for v in teacher.trainable_variables]
    students = [v.value for v in distiller.trainable_variables]
    gradients = tape.gradient(loss, students + variables)
    assert all(g is not None for g in gradients[: len(students)])
    assert all(g is None for g in gradients[len(students) :])
    assert teacher.trainable and len(teacher.trainable_variables) > 40
    projections = [v for v in distiller.trainable_variables if "project_" in v.path]
    assert [tuple(v.shape) for v in projections] == [(6, 10)] * 3
    distiller.reset_metrics()


def test_padding_changes_nothing(taught):
    distiller, _ = taught
    y = batch()[1]
    short, padded = (float(total(distiller, batch(n)[0], y)) for n in (0, 4))
    np.testing.assert_allclose(short, padded, rtol=1e-5)
    distiller.reset_metrics()


def test_a_sample_without_weight_does_not_count(taught):
    distiller, _ = taught
    x, y = batch()
    weights = np.array([1, 1, 1, 1, 0, 0], "float32")
    first = {name: array[:4] for name, array in x.items()}
    np.testing.assert_allclose(
        float(total(distiller, x, y, weights)),
        float(total(distiller, first, y[:4])),
        rtol=1e-5,
    )
    distiller.reset_metrics()


@pytest.mark.slow
def test_fit_trains_the_student_only(taught):
    distiller, teacher = taught
    x, y = batch()
    before = [np.array(weight) for weight in teacher.weights]
    student = [np.array(weight) for weight in distiller.student.weights]
    history = distiller.fit(x, y, validation_data=(x, y), epochs=2, verbose=0).history
    for weight, value in zip(teacher.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)
    assert any(
        np.any(np.array(weight) != value)
        for weight, value in zip(distiller.student.weights, student, strict=True)
    )
    assert {"val_loss", "val_accuracy"} == {n for n in history if n.startswith("val")}
    assert history["soft_targets"][1] < history["soft_targets"][0]
    # evaluation is the student's
    probe = keras.Model(distiller.student.input, distiller.student.output)
    probe.compile(**compile_arguments("sequence_classifier"))
    np.testing.assert_allclose(
        distiller.evaluate(x, y, verbose=0), probe.evaluate(x, y, verbose=0), rtol=1e-5
    )
    np.testing.assert_allclose(
        distiller.predict(x, verbose=0), distiller.student(x), rtol=1e-4, atol=1e-6
    )


def test_checkpoints_hold_the_student_and_the_projections(taught, tmp_path):
    h5py = pytest.importorskip("h5py")
    distiller, teacher = taught
    distiller.save_weights(tmp_path / "state.weights.h5")
    sizes = []
    with h5py.File(tmp_path / "state.weights.h5") as file:
        file.visititems(lambda name, x: sizes.append(getattr(x, "size", 0)))
    known = {id(v): v for v in distiller.variables} | {
        id(v): v for v in distiller.optimizer.variables
    }
    assert sum(sizes) <= sum(int(np.prod(v.shape)) for v in known.values())
    teacher_ids = {id(v) for v in teacher.variables}
    assert not any(id(v) in teacher_ids for v in distiller.variables)
    with pytest.raises(ValueError, match="distiller.student.save"):
        distiller.save(tmp_path / "distiller.keras")
    distiller.student.save(tmp_path / "student.keras")
    student = keras.models.load_model(tmp_path / "student.keras")
    x, _ = batch()
    np.testing.assert_allclose(student(x), distiller.student(x), rtol=1e-5, atol=1e-6)


def test_keras_matches_the_first_call_of_a_shared_block_and_we_the_one_asked_for():
    """Teacher and student share all weights but not the depth: 3 calls and 1."""
    teacher, student = (encoder("albert", 6, num_layers) for num_layers in (3, 1))
    student.set_weights(teacher.get_weights())
    x, _ = batch()
    block = "encoder_group_0_layer_0"
    keras_distiller = keras.distillation.Distiller(
        teacher,
        student,
        keras.distillation.FeatureDistillation("mse", block, block),
        student_loss_weight=0.0,
    )
    keras_distiller.compile("sgd", loss="mse")
    stock = float(keras_distiller.compute_loss(x, None, student(x)))
    teacher.trainable = True  # Keras' froze it
    ours = Distiller(
        teacher, student, [HiddenStateDistillation()], student_loss_weight=0.0
    )
    ours.compile("sgd")
    value = float(total(ours, x, None))

    errors = np.array(student(x)["sequence_output"] - teacher(x)["sequence_output"])
    expected = np.mean(errors**2, axis=-1)[x["padding_mask"] == 1].mean()
    assert expected > 0.01
    assert stock < 1e-10  # the first calls are the same: nothing to learn, it says
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_refusals():
    teacher, student = classifiers()
    with pytest.raises(ValueError, match="share the weights"):
        Distiller(teacher, keras.Model(teacher.input, teacher.output))
    with pytest.raises(ValueError, match="different ones"):
        Distiller(teacher, student, [SoftTargetDistillation()] * 2)
    with pytest.raises(ValueError, match="1 distillation losses and 2 weights"):
        Distiller(teacher, student, None, [1.0, 2.0])
    with pytest.raises(ValueError, match="student_loss_weight=1.5"):
        Distiller(teacher, student, student_loss_weight=1.5)
    with pytest.raises(ValueError, match="Expected calls from 0 to 2"):
        Distiller(teacher, student, [HiddenStateDistillation([(3, 3)])])


def test_any_model_can_be_taught_soft_targets():
    teacher, student = (
        keras.Sequential([keras.Input((5,)), keras.layers.Dense(units, "relu")])
        for units in (3, 3)
    )
    distiller = Distiller(teacher, student, student_loss_weight=0)
    x = np.random.default_rng(0).normal(size=(7, 5)).astype("float32")
    distiller.compile("sgd", run_eagerly=True)
    distiller.fit(x, verbose=0)
    expected = SoftTargetDistillation()(
        {"outputs": teacher(x)}, {"outputs": student(x)}
    )
    np.testing.assert_allclose(float(total(distiller, x, None)), float(expected))
    with pytest.raises(ValueError, match="another distiller"):
        Distiller(teacher, student, distiller.distillation_losses)
    with pytest.raises(ValueError, match="Received a Sequential as student"):
        Distiller(teacher, keras.Sequential([keras.layers.Dense(3)]))


# === Ways to train ===


def trained(scope, losses, compile_with=None, head=kt.models.sequence_classifier):
    """Two steps from the same start; gives the history and the trained weights."""
    keras.utils.set_random_seed(5)
    x, y = batch()
    with scope:
        teacher, student = classifiers(head=head)
        distiller = Distiller(teacher, student, losses)
        task = head.__name__
        distiller.compile(
            keras.optimizers.SGD(0.1), **compile_arguments(task), **(compile_with or {})
        )
    if head is kt.models.token_classifier:
        y = np.where(x["padding_mask"], y[:, None], -100)
    history = distiller.fit(
        x, y, batch_size=B, epochs=2, shuffle=False, verbose=0
    ).history
    return history, [np.array(v) for v in distiller.trainable_variables]


def assert_same(one, other, tolerance=1e-5):
    for name, values in one[0].items():
        np.testing.assert_allclose(other[0][name], values, rtol=tolerance, err_msg=name)
    for ours, theirs in zip(one[1], other[1], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=tolerance)


@pytest.mark.slow
def test_two_replicas_and_xla_train_as_one_device(mirrored_strategy):
    """The first replica has 12 real tokens, the second 10, in rows of other lengths."""
    head = kt.models.token_classifier
    one = trained(contextlib.nullcontext(), all_losses(), {"jit_compile": False}, head)
    two = trained(mirrored_strategy.scope(), all_losses(), None, head)
    assert_same(one, two)
    xla = trained(contextlib.nullcontext(), all_losses(), {"jit_compile": True}, head)
    assert_same(one, xla, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_is_near_float32(policy):
    arguments = {"run_eagerly": True}  # tracing would take longer
    one = trained(contextlib.nullcontext(), all_losses(), arguments)
    keras.config.set_dtype_policy(policy)
    try:
        mixed = trained(contextlib.nullcontext(), all_losses(), arguments)
    finally:
        keras.config.set_dtype_policy("float32")
    for name in ("loss", "soft_targets", "hidden_states", "relations"):
        np.testing.assert_allclose(mixed[0][name], one[0][name], rtol=0.05)


@pytest.mark.slow
def test_resumed_training_is_the_uninterrupted_one(tmp_path):
    x, y = batch()

    def train(folder, epochs):
        keras.utils.set_random_seed(5)
        teacher, student = classifiers(dropout=0.1)
        distiller = Distiller(teacher, student, [HiddenStateDistillation()])
        arguments = compile_arguments("sequence_classifier")
        distiller.compile("adam", **arguments, jit_compile=False)
        resume = ResumeFromCheckpoint(folder)
        distiller.fit(x, y, epochs=epochs, shuffle=False, verbose=0, callbacks=[resume])
        return [np.array(v) for v in distiller.variables]

    expected = train(tmp_path / "whole", 4)
    train(tmp_path / "cut", 2)
    for ours, theirs in zip(train(tmp_path / "cut", 4), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.slow
def test_the_float_model_teaches_its_quantization_aware_copy():
    pytest.importorskip("tensorflow_model_optimization", reason="needs [compress]")
    keras.utils.set_random_seed(5)
    model = classifiers(sequence_length=T)[1]
    x, y = batch()
    before = [np.array(weight) for weight in model.weights]
    distiller = Distiller(
        model, kt.compress.quantize_model(model, num_bits=2), student_loss_weight=0
    )
    student = distiller.student
    distiller.compile(kt.training.adamw(3e-3), jit_compile=False)
    ranges = [np.array(v) for v in student.non_trainable_variables]
    history = distiller.fit(x, y, epochs=12, verbose=0).history["soft_targets"]
    assert history[-1] < history[0]
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)
    assert any(
        np.any(np.array(v) != value)
        for v, value in zip(student.non_trainable_variables, ranges, strict=True)
    )
    assert not any("teacher" in name for name in student.input)
    with pytest.raises(ValueError, match="has no blocks left"):
        Distiller(model, student, [HiddenStateDistillation()])


@pytest.mark.slow
def test_heads_of_spans_and_masked_words_learn():
    x, y = batch()
    teacher, student = (
        kt.models.span_classifier(encoder(*sizes))
        for sizes in (("bert", 10, 3), ("albert", 6, 2))
    )
    distiller = Distiller(teacher, student)
    arguments = compile_arguments("span_classifier")
    distiller.compile("adam", **arguments, run_eagerly=True)
    labels = {"start": np.zeros(B, "int32"), "end": np.ones(B, "int32")}
    losses = distiller.fit(x, labels, epochs=5, verbose=0).history["soft_targets"]
    assert losses[-1] < losses[0]

    teacher, student = (
        kt.models.masked_lm(encoder(*sizes))
        for sizes in (("bert", 10, 3), ("albert", 6, 2))
    )
    losses = [SoftTargetDistillation(), RelationDistillation(num_relation_heads=2)]
    distiller = Distiller(teacher, student, losses)
    arguments = compile_arguments("masked_lm")
    distiller.compile("adam", **arguments, run_eagerly=True)
    x = x | {"mask_positions": np.tile(np.array([[0, 1, 0]], "int32"), (B, 1))}
    labels = {"masked_lm": np.tile(np.array([[3, 5, -100]], "int32"), (B, 1))}
    history = distiller.fit(x, labels, epochs=5, verbose=0).history
    for name in ("soft_targets", "relations", "loss"):
        assert history[name][-1] < history[name][0]


@pytest.mark.slow
def test_encoders_learn_from_unlabelled_text():
    tf = pytest.importorskip("tensorflow")
    teacher, student = encoder("bert", 10, 3), encoder("albert", 6, 2)
    distiller = Distiller(
        teacher, student, [HiddenStateDistillation()], student_loss_weight=0
    )
    distiller.compile("adam", run_eagerly=True)
    dataset = tf.data.Dataset.from_tensor_slices(batch()[0]).batch(3)
    losses = distiller.fit(dataset, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
