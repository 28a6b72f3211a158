"""Each distillation loss against NumPy or PyTorch, on random tensors."""

import numpy as np
import pytest

from keras_tformer.training import (
    AttentionDistillation,
    HiddenStateDistillation,
    RelationDistillation,
    SoftTargetDistillation,
)

B, T, C, D, H, K = 3, 5, 7, 6, 2, 3
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def built(loss, teacher, student, num_calls=(3, 2)):
    loss.features(*num_calls)
    return loss(teacher, student, padding_mask=MASK)


# === Soft targets ===


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_targets_equal_torch(temperature):
    torch = pytest.importorskip("torch", reason="needs the [reference] extra")
    teacher, student = normal(B, C, seed=1), normal(B, C, seed=2)
    expected = temperature**2 * torch.nn.functional.kl_div(
        torch.log_softmax(torch.tensor(student) / temperature, -1),
        torch.softmax(torch.tensor(teacher) / temperature, -1),
        reduction="batchmean",
    )
    loss = SoftTargetDistillation(temperature)(
        {"outputs": teacher}, {"outputs": student}
    )
    np.testing.assert_allclose(float(loss), float(expected), rtol=1e-5)


def test_soft_targets_of_tokens_leave_out_what_does_not_count():
    torch = pytest.importorskip("torch", reason="needs the [reference] extra")
    teacher, student = normal(B, T, C, seed=1), normal(B, T, C, seed=2)
    labels = np.where(MASK == 1, 2, -100)
    labels[0, 1] = -100
    weights = np.array([1.0, 3.0, 0.5], "float32")
    rows = torch.nn.functional.kl_div(
        torch.log_softmax(torch.tensor(student) / 2, -1),
        torch.softmax(torch.tensor(teacher) / 2, -1),
        reduction="none",
    ).sum(-1)
    counts = (labels != -100) * weights[:, None]
    expected = 4 * (rows.numpy() * counts).sum() / counts.sum()
    student[labels == -100] = 1e3  # may be anything
    loss = SoftTargetDistillation(2.0)
    arguments = {"labels": labels, "sample_weight": weights}
    value = loss({"outputs": teacher}, {"outputs": student}, **arguments)
    np.testing.assert_allclose(float(value), expected, rtol=1e-5)


def test_soft_targets_of_tokens_without_labels_follow_the_padding_mask():
    teacher, student = normal(B, T, C, seed=1), normal(B, T, C, seed=2)
    loss = SoftTargetDistillation(2.0)
    outputs = {"outputs": teacher}, {"outputs": student}
    by_label = loss(*outputs, labels=np.where(MASK == 1, 0, -100))
    by_mask = loss(*outputs, padding_mask=MASK)
    np.testing.assert_allclose(float(by_mask), float(by_label), rtol=1e-6)


def test_soft_targets_of_positions_leave_padding_out_of_the_softmax():
    teacher, student = normal(B, T, seed=1), normal(B, T, seed=2)
    expected = 0.0
    for row in range(B):
        kept = MASK[row] == 1
        p, q = softmax(teacher[row, kept] / 2), softmax(student[row, kept] / 2)
        expected += 4 * np.sum(p * np.log(p / q)) / B
    teacher[MASK == 0] = 9.0  # a teacher that looks at padding
    loss = SoftTargetDistillation(2.0)
    value = loss(
        {"outputs": {"start": teacher}},
        {"outputs": {"start": student}},
        padding_mask=MASK,
    )
    np.testing.assert_allclose(float(value), expected, rtol=1e-5)


def test_soft_targets_of_numbers_are_squared_differences():
    teacher, student = normal(B, 1, seed=1), normal(B, 1, seed=2)
    value = SoftTargetDistillation(5.0)({"outputs": teacher}, {"outputs": student})
    np.testing.assert_allclose(
        float(value), np.mean((teacher - student) ** 2), rtol=1e-6
    )


def test_labels_of_whole_texts_do_not_matter():
    outputs = {"outputs": normal(B, C, seed=1)}, {"outputs": normal(B, C, seed=2)}
    loss = SoftTargetDistillation()
    unlabelled = loss(*outputs, labels=np.full(B, -100))
    assert float(unlabelled) == float(loss(*outputs)) > 0


@pytest.mark.parametrize(
    "teacher, student, message",
    [
        (normal(B, 4), normal(B, 5), "4 classes"),
        (normal(B, T, 4), normal(B, 4), "Expected .B, C. or"),
        ({"start": normal(B, T)}, normal(B, T), "one unnamed output"),
        (normal(B, T), {"start": normal(B, T)}, "not in both"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(teacher, student, message):
    with pytest.raises(ValueError, match=message):
        SoftTargetDistillation()({"outputs": teacher}, {"outputs": student})


# === Hidden states ===


def test_hidden_states_equal_numpy():
    teacher = {"hidden_states": {"1": normal(B, T, D), "3": normal(B, T, D, seed=1)}}
    student = {
        "hidden_states": {
            "1": normal(B, T, D, seed=2),
            "2": normal(B, T, D, seed=3),
        }
    }
    weights = np.array([1.0, 2.0, 0.0])
    expected = 0.0
    for ours, theirs in (("1", "1"), ("2", "3")):
        errors = student["hidden_states"][ours] - teacher["hidden_states"][theirs]
        counts = MASK * weights[:, None]
        expected += np.sum((errors**2).mean(-1) * counts) / counts.sum()
        student["hidden_states"][ours][MASK == 0] = 1e6
    loss = HiddenStateDistillation(layer_map=[(1, 1), (2, 3)])
    value = loss(teacher, student, padding_mask=MASK, sample_weight=weights)
    np.testing.assert_allclose(float(value), expected, rtol=1e-6)
    assert not loss.weights


def test_hidden_states_of_other_widths_are_projected():
    teacher = {"hidden_states": {"3": normal(B, T, D)}}
    student = {"hidden_states": {"2": normal(B, T, 4, seed=2)}}
    loss = HiddenStateDistillation(layer_map=[(2, 3)])
    value = loss(teacher, student, padding_mask=MASK)
    kernel = loss.weights[0].numpy()
    assert kernel.shape == (4, D) and len(loss.trainable_weights) == 1
    errors = student["hidden_states"]["2"] @ kernel - teacher["hidden_states"]["3"]
    expected = (errors**2).mean(-1)[MASK == 1].mean()
    np.testing.assert_allclose(float(value), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="width 6 from the teacher"):
        HiddenStateDistillation([(2, 3)], project=False)(teacher, student)


# === Attention ===


def numpy_relation(first, second):
    scores = np.einsum("bthk,bshk->bhts", first, second) / np.sqrt(first.shape[-1])
    return scores


@pytest.mark.parametrize("before_softmax", [True, False])
def test_attention_equals_numpy(before_softmax):
    heads = {
        role: {
            name: {"2": normal(B, T, H, K, seed=10 * i + j)}
            for j, name in enumerate(("queries", "keys"))
        }
        for i, role in enumerate(("teacher", "student"))
    }
    scores = [
        numpy_relation(heads[role]["queries"]["2"], heads[role]["keys"]["2"])
        for role in heads
    ]
    if not before_softmax:
        scores = [softmax(x) for x in scores]
    pairs = MASK[:, None, :, None] * MASK[:, None, None, :]  # (B, 1, T, T)
    errors = (scores[0] - scores[1]) ** 2 * pairs
    expected = errors.sum() / (H * pairs.sum())
    outputs = heads["teacher"], heads["student"]
    if not before_softmax:
        outputs = tuple({"attention_scores": {"2": x}} for x in scores)
    loss = AttentionDistillation([(2, 2)], before_softmax=before_softmax)
    value = loss(*outputs, padding_mask=MASK)
    np.testing.assert_allclose(float(value), expected, rtol=1e-5)


def test_attention_needs_as_many_heads():
    scores = [{"attention_scores": {"1": normal(B, h, T, T)}} for h in (2, 3)]
    with pytest.raises(ValueError, match="2 attention heads from the teacher and 3"):
        AttentionDistillation([(1, 1)], before_softmax=False)(*scores)


# === Relations ===


def test_minilm_equals_torch():
    torch = pytest.importorskip("torch", reason="needs the [reference] extra")
    names = ("queries", "keys", "values")
    teacher = {n: {"3": normal(B, T, H, 5, seed=i)} for i, n in enumerate(names)}
    student = {n: {"2": normal(B, T, H, K, seed=9 + i)} for i, n in enumerate(names)}
    expected, count = 0.0, MASK.sum() * H
    for first, second in (("queries", "keys"), ("values", "values")):
        for row in range(B):
            n = MASK[row].sum()  # padding is at the end
            p, q = (
                torch.tensor(
                    numpy_relation(
                        x[first][c][row : row + 1, :n], x[second][c][row : row + 1, :n]
                    )
                )
                for x, c in ((teacher, "3"), (student, "2"))
            )
            expected += torch.nn.functional.kl_div(
                torch.log_softmax(q, -1), torch.softmax(p, -1), reduction="sum"
            )
    loss = RelationDistillation(("query-key", "value-value"))
    value = built(loss, teacher, student)
    np.testing.assert_allclose(float(value), float(expected) / count, rtol=1e-5)


def test_minilm_version_2_splits_other_heads_anew():
    names = ("queries", "keys", "values")
    teacher = {n: {"3": normal(B, T, 4, 3, seed=i)} for i, n in enumerate(names)}
    student = {n: {"2": normal(B, T, 3, 2, seed=9 + i)} for i, n in enumerate(names)}
    expected = 0.0
    for name in names:
        for row in range(B):
            n = MASK[row].sum()
            p, q = (
                softmax(
                    numpy_relation(*[x[row : row + 1, :n].reshape(1, n, 6, -1)] * 2)
                )
                for x in (teacher[name]["3"], student[name]["2"])
            )
            expected += np.sum(p * np.log(p / q)) / (6 * MASK.sum())
    loss = RelationDistillation(num_relation_heads=6)
    np.testing.assert_allclose(
        float(built(loss, teacher, student)), expected, rtol=1e-5
    )
    with pytest.raises(ValueError, match="4 attention heads from the teacher and 3"):
        built(RelationDistillation(), teacher, student)
    with pytest.raises(ValueError, match="num_relation_heads=4"):
        built(RelationDistillation(num_relation_heads=4), teacher, student)


def test_unknown_relations_are_refused():
    for relation in ("query", "query-keys", "query-key-value"):
        with pytest.raises(ValueError, match="Expected two of"):
            RelationDistillation([relation])


@pytest.mark.parametrize(
    "loss",
    [
        SoftTargetDistillation(3.0, outputs=["start"]),
        HiddenStateDistillation([(1, 2)], project=True),
        AttentionDistillation(before_softmax=False),
        RelationDistillation(("query-key",), 2, 3, 1, name="minilm"),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_config_round_trip(loss):
    assert type(loss).from_config(loss.get_config()).get_config() == loss.get_config()
