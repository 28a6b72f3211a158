"""The token table after 20 steps: here, on JAX, and KerasHub's own on TensorFlow.

Tokens occur several times in a batch. On TensorFlow the gradient of a stock embedding
is then a list of rows in which a token stands more than once, and Adam and its like
square each row before they are added up.
"""

import importlib.util
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

VOCABULARY, WIDTH, STEPS = 11, 5, 20
RATE = 0.01
# Epsilon is large enough for a gradient of rounding errors not to become a whole step.
OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(RATE, epsilon=1e-3),
    "adamw": lambda: keras.optimizers.AdamW(RATE, epsilon=1e-3),
    "lamb": lambda: keras.optimizers.Lamb(RATE, epsilon=1e-3),
    "rmsprop": lambda: keras.optimizers.RMSprop(RATE, epsilon=1e-3),
    "clipnorm": lambda: keras.optimizers.SGD(0.1, clipnorm=0.1),
    "global_clipnorm": lambda: keras.optimizers.SGD(0.1, global_clipnorm=0.1),
}


def trained_table(make_layer, optimizer):
    random = np.random.default_rng(7)
    start = random.normal(size=(VOCABULARY, WIDTH)).astype("float32")
    layer = make_layer(VOCABULARY, WIDTH)
    ids = keras.Input((7,), dtype="int32")
    model = keras.Model(ids, layer(ids))
    layer.set_weights([start])
    model.compile(OPTIMIZERS[optimizer](), "mse")
    batches = random.integers(0, VOCABULARY, (STEPS, 3, 7)).astype("int32")
    batches[:, :, 1] = batches[:, :, 0]  # twice in a row
    targets = random.normal(size=(STEPS, 3, 7, WIDTH)).astype("float32")
    for batch, target in zip(batches, targets, strict=True):
        model.train_on_batch(batch, target)
    return layer.get_weights()[0]


def tables_of_ours():
    from keras_tformer.layers import TokenEmbedding

    return {name: trained_table(TokenEmbedding, name) for name in OPTIMIZERS}


PROGRAM = """
import sys
import numpy as np
from test_reference_embedding_gradient import tables_of_ours
np.savez(sys.argv[1], **tables_of_ours())
"""


@pytest.fixture(scope="module")
def ours():
    return tables_of_ours()


@pytest.mark.slow
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="compares TensorFlow with JAX"
)
def test_equal_to_the_jax_backend(ours, tmp_path):
    if importlib.util.find_spec("jax") is None:
        pytest.skip("needs the [reference] extra: jax")
    here = pathlib.Path(__file__).parent
    search = [str(here), str(here.parents[1]), os.environ.get("PYTHONPATH", "")]
    subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "jax.npz")],
        env={
            **os.environ,
            "KERAS_BACKEND": "jax",
            "PYTHONPATH": os.pathsep.join(filter(None, search)),
        },
        check=True,
        timeout=600,
    )
    with np.load(tmp_path / "jax.npz") as theirs:
        assert set(theirs) == set(OPTIMIZERS)
        for name, table in ours.items():
            np.testing.assert_allclose(
                table, theirs[name], rtol=0, atol=1e-6, err_msg=name
            )


@pytest.mark.slow
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="others have dense gradients"
)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_keras_hubs_embedding_ends_elsewhere(ours, optimizer):
    """When this fails, Keras adds up a token's rows itself."""
    keras_hub = pytest.importorskip("keras_hub", reason="needs the [hub] extra")
    theirs = trained_table(keras_hub.layers.ReversibleEmbedding, optimizer)
    assert np.abs(theirs - ours[optimizer]).max() > 1e-3
