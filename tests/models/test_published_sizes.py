"""Parameter counts of the published sizes, without a byte of their weights."""

import keras
import pytest

from keras_tformer import models


def count_parameters(build):
    """Builds a model whose variables have shapes and no values."""
    try:
        with keras.StatelessScope(initialize_variables=False):
            return build().count_params()
    finally:
        # Keras would make up for the values in some later test: 20 GB of them.
        keras.utils.clear_session(free_memory=False)


BERT = {
    # Devlin et al. 2019 round to 110M and 340M, Turc et al. 2019 (table 1) to 4.4M,
    # 11.3M, 29.1M and 41.7M; these are the released checkpoints.
    "tiny": 4_385_920,
    "mini": 11_170_560,
    "small": 28_763_648,
    "medium": 41_373_184,
    "base": 109_482_240,
    "large": 335_141_888,
    "L-6_H-768": 66_955_008,
    "L-12_H-128": 6_368_640,
}
ALBERT = {
    "base": 11_683_584,
    "large": 17_683_968,
    "xlarge": 58_724_864,
    "xxlarge": 222_595_584,
}
CAUSAL_LM = {
    "small": 124_439_808,
    "medium": 354_823_168,
    "large": 774_030_080,
    "xl": 1_557_611_200,
}


def bert_formula(num_layers, hidden_dim, vocabulary_size=30522):
    """The same count by hand: tables, blocks and pooler."""
    d = hidden_dim
    tables = (vocabulary_size + 512 + 2) * d + 2 * d
    block = 4 * (d * d + d) + (d * 4 * d + 4 * d) + (4 * d * d + d) + 4 * d
    return tables + num_layers * block + d * d + d


@pytest.mark.parametrize("size", BERT)
def test_bert(size):
    sizes = models.BERT_SIZES[size]
    count = count_parameters(
        lambda: models.bert_encoder(vocabulary_size=30522, **sizes)
    )
    assert count == BERT[size]
    assert count == bert_formula(sizes["num_layers"], sizes["hidden_dim"])


def test_bert_of_other_languages():
    size = models.BERT_SIZES["base"]
    for vocabulary, count in {
        "cased": 108_310_272,
        "chinese": 102_267_648,
        "multilingual_cased": 177_853_440,
        "multilingual_uncased": 167_356_416,
    }.items():
        vocabulary_size = models.BERT_VOCABULARY_SIZES[vocabulary]
        assert count == bert_formula(12, 768, vocabulary_size)
    assert count == count_parameters(
        lambda: models.bert_encoder(vocabulary_size=105879, **size)
    )


def test_the_24_miniatures_are_all_there():
    grid = {f"L-{n}_H-{d}" for n in range(2, 13, 2) for d in (128, 256, 512, 768)}
    assert grid < set(models.BERT_SIZES)
    for name in grid:
        sizes = models.BERT_SIZES[name]
        assert name == f"L-{sizes['num_layers']}_H-{sizes['hidden_dim']}"
        assert sizes["num_heads"] * 64 == sizes["hidden_dim"]
        assert sizes["intermediate_dim"] == 4 * sizes["hidden_dim"]


@pytest.mark.parametrize("size", ALBERT)
def test_albert(size):
    for version in ("", "_v1", "_v2"):
        # One call has the weights of all calls, and is built in a twelfth of the time.
        sizes = models.ALBERT_SIZES[size + version] | {"num_layers": 1}
        assert ALBERT[size] == count_parameters(
            lambda sizes=sizes: models.albert_encoder(vocabulary_size=30000, **sizes)
        )


def test_albert_has_the_same_weights_at_every_depth():
    sizes = models.ALBERT_SIZES["base"]
    assert sizes["num_layers"] == 12
    assert ALBERT["base"] == count_parameters(
        lambda: models.albert_encoder(vocabulary_size=30000, **sizes)
    )


def test_albert_versions_differ_by_dropout_and_activation():
    for size in ("base", "large", "xlarge", "xxlarge"):
        first, second = (models.ALBERT_SIZES[f"{size}_v{v}"] for v in (1, 2))
        assert models.ALBERT_SIZES[size] == second
        assert second["dropout"] == 0 and second["activation"] == "gelu_tanh"
        assert first["dropout"] == (0 if size == "xxlarge" else 0.1)
        assert first["activation"] == "gelu"
        same = ("embedding_dim", "num_layers", "num_heads", "hidden_dim")
        assert all(first[key] == second[key] for key in same)


@pytest.mark.parametrize(
    ("size", "count"), [("base", 63_045_632), ("big", 214_171_648)]
)
def test_transformer(size, count):
    sizes = models.TRANSFORMER_SIZES[size]
    assert count == count_parameters(
        lambda: models.transformer(vocabulary_size=37000, **sizes)
    )
    # table 3 prints 65 and 213 million
    assert count == pytest.approx({"base": 65e6, "big": 213e6}[size], rel=0.035)


@pytest.mark.parametrize(
    "size",
    [
        "small",
        "medium",
        pytest.param("large", marks=pytest.mark.slow),
        pytest.param("xl", marks=pytest.mark.slow),
    ],
)
def test_causal_lm(size):
    sizes = models.CAUSAL_LM_SIZES[size]
    assert CAUSAL_LM[size] == count_parameters(
        lambda: models.causal_lm(vocabulary_size=50257, **sizes)
    )
