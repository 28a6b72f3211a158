"""Every public layer and model against every promise that applies to it."""

import checks
import keras
import pytest
from catalogue import CASES, MODELS, NO_CASES

import keras_tformer as kt

IS_TENSORFLOW = keras.backend.backend() == "tensorflow"
needs_tensorflow = pytest.mark.skipif(
    not IS_TENSORFLOW, reason="a promise of the TensorFlow backend"
)


# Half the time of the fast tests, for what a layer's case shows first.
SLOW_FOR_MODELS = {
    "compiled_equals_eager",
    "dropout_only_in_training",
    "dtype_policies",
}


def everything(case):
    return True


def models_only(case):
    return "model" in case.traits


def apply(check, applies=everything, *marks):
    """Parametrizes a test over the cases that a check applies to."""
    parameters = []
    for case in CASES:
        if not applies(case):
            continue
        reason = case.known_failures.get(check.__name__)
        its_marks = []
        if reason:
            its_marks.append(pytest.mark.xfail(reason=reason, strict=True))
        if check.__name__ in SLOW_FOR_MODELS and models_only(case):
            its_marks.append(pytest.mark.slow)
        parameters.append(pytest.param(case, id=case.name, marks=its_marks))

    def decorate(test):
        for mark in marks:
            test = mark(test)
        return pytest.mark.parametrize("case", parameters)(test)

    return decorate


def make_test(check, applies=everything, *marks):
    @apply(check, applies, *marks)
    def test(case, tmp_path):
        check(case, tmp_path)

    test.__doc__ = check.__doc__
    return test


slow = pytest.mark.slow

test_config_round_trip = make_test(checks.config_round_trip)
test_declared_shape = make_test(checks.declared_shape)
test_initial_weights_differ = make_test(
    checks.initial_weights_differ, lambda case: "weights" in case.traits
)
test_padding_invariance = make_test(checks.padding_invariance, lambda case: case.masks)
test_empty_rows_give_no_nan = make_test(
    checks.empty_rows_give_no_nan, lambda case: case.masks
)
test_batch_invariance = make_test(checks.batch_invariance)
test_causality = make_test(checks.causality, lambda case: case.causal)
test_dropout_only_in_training = make_test(
    checks.dropout_only_in_training, lambda case: "dropout" in case.traits
)
test_gradient_flow = make_test(
    checks.gradient_flow, lambda case: "weights" in case.traits
)
test_learns = make_test(checks.learns, models_only, slow)
test_dtype_policies = make_test(checks.dtype_policies)
test_compiled_equals_eager = make_test(checks.compiled_equals_eager)
test_xla_equals_eager = make_test(
    checks.xla_equals_eager, everything, needs_tensorflow, slow
)
test_flattened_equals_model = make_test(
    checks.flattened_equals_model, models_only, needs_tensorflow
)
test_prunes_to_sparsity = make_test(
    checks.prunes_to_sparsity, models_only, needs_tensorflow, slow
)
test_clusters_to_few_values = make_test(
    checks.clusters_to_few_values, models_only, needs_tensorflow, slow
)
test_quantizes = make_test(checks.quantizes, models_only, needs_tensorflow, slow)
test_saved_model_equals_model = make_test(
    checks.saved_model_equals_model, models_only, needs_tensorflow, slow
)
test_tflite_equals_model = make_test(
    checks.tflite_equals_model, models_only, needs_tensorflow, slow
)
test_float16_tflite_is_near_model = make_test(
    checks.float16_tflite_is_near_model, models_only, needs_tensorflow, slow
)
test_dynamic_range_tflite_is_near_model = make_test(
    checks.dynamic_range_tflite_is_near_model, models_only, needs_tensorflow, slow
)
test_int8_tflite_is_near_model = make_test(
    checks.int8_tflite_is_near_model, models_only, needs_tensorflow, slow
)


@apply(
    checks.strategy_equals_single,
    lambda case: "weights" in case.traits and "batchless" not in case.traits,
    needs_tensorflow,
    slow,
)
def test_strategy_equals_single(case, tmp_path, mirrored_strategy):
    checks.strategy_equals_single(case, tmp_path, mirrored_strategy)


def test_every_public_name_has_a_case():
    public = set(kt.layers.__all__) | set(kt.models.__all__)
    covered = {case.name.split(".")[0] for case in CASES}
    assert covered | NO_CASES == public
    assert not covered & NO_CASES


def test_names_are_unique():
    assert len({case.name for case in CASES}) == len(CASES)


def test_tables_of_exceptions_name_checks():
    assert all(hasattr(checks, name) for name in SLOW_FOR_MODELS)
    for case in CASES:
        assert all(hasattr(checks, name) for name in case.known_failures)


def test_every_model_can_be_compressed_and_exported():
    assert all("model" in case.traits for case in MODELS)
