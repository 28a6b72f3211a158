import math

import keras
import numpy as np
import pytest

from keras_tformer.training import InverseSquareRoot, LinearWarmup


def test_linear_warmup_at_steps_worked_by_hand():
    schedule = LinearWarmup(peak=0.8, warmup_steps=4, total_steps=20, end=0.16)
    # climb 0.2 a step; fall 0.64 over 16 steps, 0.04 a step
    expected = {0: 0.0, 1: 0.2, 3: 0.6, 4: 0.8, 5: 0.76, 12: 0.48, 20: 0.16, 99: 0.16}
    for step, rate in expected.items():
        np.testing.assert_allclose(float(schedule(step)), rate, rtol=1e-6)


def test_polynomial_fall_equals_keras_own_decay():
    ours = LinearWarmup(peak=0.8, warmup_steps=4, total_steps=20, end=0.16, power=2.5)
    theirs = keras.optimizers.schedules.PolynomialDecay(0.8, 16, 0.16, power=2.5)
    for step in (0, 1, 7, 15, 16, 31):
        np.testing.assert_allclose(
            float(ours(step + 4)), float(theirs(step)), rtol=1e-6
        )
    np.testing.assert_allclose(float(ours(3)), 0.6, rtol=1e-6)
    again = LinearWarmup.from_config(ours.get_config())
    assert float(again(13)) == float(ours(13))


def test_keras_cosine_with_its_warmup_is_the_formula_here():
    """`LinearWarmup` sends to it. Loshchilov and Hutter 2017, equation 5."""
    peak, end, warmup, total = 0.8, 0.16, 4, 20
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, total - warmup, alpha=end / peak, warmup_target=peak, warmup_steps=warmup
    )
    for step in (0, 1, 3, 4, 5, 8, 12, 16, 19, 20, 31):
        if step < warmup:
            expected = peak * step / warmup
        else:
            share = min((step - warmup) / (total - warmup), 1.0)
            expected = end + (peak - end) * (1 + math.cos(math.pi * share)) / 2
        assert float(schedule(step)) == pytest.approx(expected, abs=1e-7)


def test_linear_warmup_without_warmup_starts_at_the_peak():
    schedule = LinearWarmup(peak=0.5, warmup_steps=0, total_steps=5)
    np.testing.assert_allclose([float(schedule(s)) for s in (0, 1)], [0.5, 0.4])


def test_linear_warmup_equals_hugging_face():
    torch = pytest.importorskip("torch", reason="needs the [reference] extra")
    transformers = pytest.importorskip("transformers", reason="needs [reference]")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
    theirs = transformers.get_linear_schedule_with_warmup(optimizer, 7, 31)
    ours = LinearWarmup(3e-4, warmup_steps=7, total_steps=31)
    for step in range(33):
        assert float(ours(step)) == pytest.approx(theirs.get_last_lr()[0], abs=1e-10)
        optimizer.step()
        theirs.step()


def test_inverse_square_root_is_equation_3():
    schedule = InverseSquareRoot(hidden_dim=64, warmup_steps=4)
    # 64 ** -0.5 = 1/8; 4 ** -1.5 = 1/8; the paper's step is one more than Keras'
    for updates, rate in {
        0: 1 / 64,
        1: 2 / 64,
        3: 1 / 16,
        8: 1 / 24,
        15: 1 / 32,
    }.items():
        np.testing.assert_allclose(float(schedule(updates)), rate, rtol=1e-6)


@pytest.mark.parametrize(
    "schedule", [LinearWarmup(0.3, 2, 7, end=0.1), InverseSquareRoot(13, 5)]
)
def test_optimizer_with_schedule_survives_its_config(schedule):
    config = keras.optimizers.serialize(keras.optimizers.AdamW(schedule))
    copy = keras.optimizers.deserialize(config)._learning_rate
    assert type(copy) is type(schedule)
    assert copy.get_config() == schedule.get_config()


@pytest.mark.parametrize(
    "make",
    [
        lambda: LinearWarmup(-1.0, 1, 2),
        lambda: LinearWarmup(1.0, 2, 2),
        lambda: InverseSquareRoot(0, 4),
    ],
)
def test_numbers_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match=r"Received .* Expected"):
        make()
