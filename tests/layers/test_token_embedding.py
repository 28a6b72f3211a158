"""The token and segment tables: lookups, refusals, and gradients that Adam bears."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_tformer.layers import SegmentEmbedding, TokenEmbedding

VOCABULARY, WIDTH = 11, 5


class OneHotProduct(keras.layers.Layer):
    """The same mathematics as a lookup, with a gradient that is dense for sure."""

    def build(self, shape):
        self.embeddings = self.add_weight(shape=(VOCABULARY, WIDTH), name="embeddings")

    def call(self, ids):
        return ops.matmul(ops.one_hot(ids, VOCABULARY), self.embeddings)


def table_after_training(layer, optimizer, start):
    """Trains a table for 20 steps on batches in which tokens occur several times."""
    random = np.random.default_rng(7)
    ids = keras.Input((7,), dtype="int32")
    model = keras.Model(ids, layer(ids))
    layer.set_weights([start])
    model.compile(optimizer, "mse", run_eagerly=True)
    for _ in range(20):
        batch = random.integers(0, VOCABULARY, (3, 7)).astype("int32")
        batch[:, 1] = batch[:, 0]  # twice in a row
        model.train_on_batch(batch, random.normal(size=(3, 7, WIDTH)))
    return layer.get_weights()[0]


@pytest.fixture(scope="module")
def start():
    return np.random.default_rng(5).normal(size=(VOCABULARY, WIDTH)).astype("float32")


OPTIMIZERS = {
    "Adam": lambda: keras.optimizers.Adam(0.01),
    "AdamW": lambda: keras.optimizers.AdamW(0.01),
    "RMSprop": lambda: keras.optimizers.RMSprop(0.01),
    "clipped": lambda: keras.optimizers.SGD(0.1, global_clipnorm=0.1),
}


@pytest.mark.parametrize(
    ("kind", "optimizer"),
    [*((TokenEmbedding, name) for name in OPTIMIZERS), (SegmentEmbedding, "Adam")],
)
def test_trains_like_a_one_hot_product(kind, optimizer, start):
    make = OPTIMIZERS[optimizer]
    actual = table_after_training(kind(VOCABULARY, WIDTH), make(), start)
    expected = table_after_training(OneHotProduct(), make(), start)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="others have dense gradients"
)
def test_stock_embedding_still_needs_the_repair(start):
    """When this fails, Keras sums the rows of a token itself: drop the reshape."""
    make = OPTIMIZERS["Adam"]
    stock = keras.layers.Embedding(VOCABULARY, WIDTH)
    actual = table_after_training(stock, make(), start)
    expected = table_after_training(OneHotProduct(), make(), start)
    assert np.abs(actual - expected).max() > 1e-2


def test_looks_up_and_projects_with_one_table(start):
    layer = TokenEmbedding(VOCABULARY, WIDTH)
    layer.build()
    layer.set_weights([start])
    ids = np.array([[3, 0, 10], [3, 3, 1]], "int32")
    rows = ops.convert_to_numpy(layer(ids))
    np.testing.assert_array_equal(rows, start[ids])
    logits = ops.convert_to_numpy(layer(rows, reverse=True))
    np.testing.assert_allclose(logits, start[ids] @ start.T, rtol=1e-6, atol=1e-5)
    assert len(layer.weights) == 1


@pytest.mark.parametrize(("wrong", "told"), [(11, "11"), (-1, "-1")])
def test_refuses_ids_outside_the_table(wrong, told):
    layer = TokenEmbedding(VOCABULARY, WIDTH)
    with pytest.raises(ValueError, match=rf"\[0, 11\). Received: {told}"):
        layer(np.array([[1, wrong]], "int32"))


@pytest.mark.parametrize("name", ["vocabulary_size", "embedding_dim"])
@pytest.mark.parametrize("value", [0, -3, 2.5, True, None])
def test_refuses_sizes_that_are_none(name, value):
    sizes = {"vocabulary_size": 11, "embedding_dim": 5} | {name: value}
    with pytest.raises(ValueError, match=f"positive integer. Received: {name}="):
        TokenEmbedding(**sizes)
    if name == "embedding_dim":
        with pytest.raises(ValueError, match="SegmentEmbedding"):
            SegmentEmbedding(2, value)
