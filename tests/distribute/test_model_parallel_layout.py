"""Which weights are split, for every model and head, without devices or weights."""

import math

import keras
import pytest

from keras_tformer import layers, models
from keras_tformer.distribute import get_distribution, weight_shards
from keras_tformer.distribute.model_parallel_layout import split_axes

BERT, ALBERT = models.BERT_SIZES, models.ALBERT_SIZES
TRANSFORMER, CAUSAL_LM = models.TRANSFORMER_SIZES, models.CAUSAL_LM_SIZES

# The other miniatures have no other shapes; the versions of ALBERT differ in none.
BERT_NAMES = "tiny mini small medium base large L-12_H-128 L-2_H-768".split()
ALBERT_NAMES = "base large xlarge xxlarge".split()


def bert(size):
    return models.bert_encoder(vocabulary_size=30522, **BERT[size])


def albert(size):
    return models.albert_encoder(vocabulary_size=30000, **ALBERT[size])


def transformer(size, **arguments):
    return models.transformer(vocabulary_size=37000, **TRANSFORMER[size], **arguments)


ZOO = {
    **{f"BERT {size}": lambda size=size: bert(size) for size in BERT_NAMES},
    **{f"ALBERT {size}": lambda size=size: albert(size) for size in ALBERT_NAMES},
    **{
        f"Transformer {size}": lambda size=size: transformer(size)
        for size in TRANSFORMER
    },
    **{
        f"causal {size}": lambda size=size: models.causal_lm(
            vocabulary_size=50257, **CAUSAL_LM[size]
        )
        for size in CAUSAL_LM
    },
    "ELECTRA": lambda: models.bert_encoder(
        vocabulary_size=30522, embedding_dim=128, **BERT["mini"]
    ),
    "two tables": lambda: transformer(
        "small", source_vocabulary_size=32000, share_embeddings=False
    ),
    "learned positions": lambda: transformer(
        "small", position="learned", use_output_bias=True, use_attention_bias=True
    ),
    "masked_lm": lambda: models.masked_lm(albert("base")),
    "bert_pretrainer": lambda: models.bert_pretrainer(bert("base")),
    "albert_pretrainer": lambda: models.albert_pretrainer(albert("base")),
    "classifier": lambda: models.sequence_classifier(albert("base"), num_classes=2),
    "tagger": lambda: models.token_classifier(bert("base"), num_classes=9),
    "spans": lambda: models.span_classifier(bert("base")),
    "embedder": lambda: models.text_embedder(albert("base")),
}


def without_weights(build):
    """A model whose variables have shapes and no values."""
    try:
        with keras.StatelessScope(initialize_variables=False):
            return build()
    finally:
        # Keras would make up for the values in some later test: gigabytes of them.
        keras.utils.clear_session(free_memory=False)


def whole_weights(model, model_dim):
    """Weights that are copied to every device and hold over 1 % of the numbers."""
    shards = weight_shards(model, model_dim)
    total = sum(math.prod(weight.shape) for weight in model.weights)
    return [
        weight.path
        for weight in model.weights
        if math.prod(weight.shape) > total / 100
        and math.prod(shards[weight.path]) * model_dim > math.prod(weight.shape)
    ]


@pytest.mark.parametrize("name", ZOO)
def test_every_large_weight_is_split(name):
    model = without_weights(ZOO[name])
    heads = {
        layer.num_heads
        for layer in model._flatten_layers()
        if hasattr(layer, "num_heads")
    }
    model_dim = next(n for n in (8, 5, 4, 3, 2) if all(h % n == 0 for h in heads))
    assert whole_weights(model, model_dim) == []


@pytest.mark.parametrize(
    "build, model_dim, total, copied",
    [
        # Copied are six vectors of a block (biases of both outputs, two
        # normalizations), the segments' table and the embeddings' normalization.
        (lambda: bert("large"), 8, 335_141_888, 24 * 6 * 1024 + 4 * 1024),
        (lambda: albert("xxlarge"), 8, 222_595_584, 6 * 4096 + 4 * 128),
        (lambda: albert("xxlarge"), 64, 222_595_584, 6 * 4096 + 4 * 128),
    ],
)
def test_the_largest_models_leave_an_equal_part_on_each_device(
    build, model_dim, total, copied
):
    model = without_weights(build)
    assert sum(math.prod(weight.shape) for weight in model.weights) == total
    shards = weight_shards(model, model_dim)
    held = sum(math.prod(shape) for shape in shards.values())
    assert held == (total - copied) / model_dim + copied


def test_blocks_of_any_name_and_nested_models():
    inputs = keras.Input((5, 16))
    x = layers.TransformerEncoder(4, 24, name="monkey")(inputs)
    x = layers.TransformerDecoder(4, 24, name="output")(x)
    x = layers.MultiHeadAttention(4, name="value")(x)
    x = layers.FeedForward(24, name="key")(x)
    inner = keras.Model(inputs, x, name="inner")
    tokens = keras.Input((5,))
    x = layers.TokenEmbedding(30, 16, name="words")(tokens)
    outputs = inner(x + layers.PositionEmbedding(7, name="places")(x))
    shards = weight_shards(keras.Model(tokens, outputs), model_dim=4)
    for path, shape in {
        "monkey/self_attention/query/kernel": (16, 4),
        "monkey/feed_forward/output/kernel": (6, 16),
        "output/self_attention/attention_output/kernel": (4, 16),
        "value/value/kernel": (16, 4),
        "key/intermediate/kernel": (16, 6),
        "key/output/kernel": (6, 16),
        "words/embeddings": (30, 4),
        "places/embeddings": (7, 4),
    }.items():
        assert shards[path] == shape, path


@pytest.mark.parametrize(
    "path, shape, axes",
    [
        # Ends in the letters of "key", is another word.
        ("monkey/kernel", (8, 8), (None, None)),
        ("hockey/bias", (8,), (None,)),
        # A head of the user's; three classes do not divide, sixteen rows do.
        ("output/kernel", (16, 3), ("model", None)),
        ("output/kernel", (15, 3), (None, None)),
        # Attention of Keras: kernels of rank 3.
        ("attention/query/kernel", (8, 2, 4), (None, None, None)),
        ("encoder_layer_0.self_attention.query/kernel", (8, 8), (None, "model")),
        ("segment_embedding/embeddings", (4, 8), (None, None)),
        ("seed_generator_state", (2,), (None,)),
    ],
)
def test_names_that_look_alike(path, shape, axes):
    assert split_axes(path, shape, model_dim=4) == axes


@pytest.mark.parametrize(
    "sizes, message",
    [
        ({"num_heads": 3}, "'encoder_layer_0' with num_heads=3.*whole heads"),
        (
            {"intermediate_dim": 26},
            r"intermediate/kernel' of shape \(24, 26\).*Expected intermediate_dim",
        ),
        (
            {"vocabulary_size": 31, "embedding_dim": 6},
            r"token_embedding/embeddings' of shape \(31, 6\).*vocabulary_size",
        ),
    ],
)
def test_what_does_not_divide_is_named(sizes, message):
    sizes = {"vocabulary_size": 40, "num_heads": 4, "intermediate_dim": 20, **sizes}
    encoder = models.bert_encoder(num_layers=1, hidden_dim=24, **sizes)
    with pytest.raises(ValueError, match=message):
        weight_shards(encoder, model_dim=4)


def test_get_distribution_points_to_get_strategy():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("about the TensorFlow backend")
    with pytest.raises(ValueError, match="tensorflow backend.*get_strategy"):
        get_distribution()
    with pytest.raises(ValueError, match="name='pipeline'"):
        get_distribution("pipeline")
