"""One small trained-like classifier and examples for every test of the room."""

import keras
import numpy as np
import pytest

from keras_tformer.models import albert_encoder, bert_encoder, sequence_classifier

VOCABULARY = 53
LENGTH = 13
SIZES = {
    "vocabulary_size": VOCABULARY,
    # 34 x 34: the converter leaves weights of fewer than 1,024 values in float.
    "hidden_dim": 34,
    "num_heads": 2,
    "intermediate_dim": 37,
    "max_sequence_length": 17,
    "dropout": 0.1,
    # Wide weights: logits that differ as a trained model's do.
    "initializer_range": 0.4,
}


def make_examples(rows, length=LENGTH, seed=3):
    generator = np.random.default_rng(seed)
    lengths = generator.integers(length // 2, length + 1, rows)
    mask = (np.arange(length)[None] < lengths[:, None]).astype("int32")
    ids = generator.integers(5, VOCABULARY, (rows, length)).astype("int32")
    segments = generator.integers(0, 2, (rows, length)).astype("int32")
    return {
        "token_ids": ids * mask,
        "segment_ids": segments * mask,
        "padding_mask": mask,
    }


@pytest.fixture(scope="session")
def examples():
    return make_examples(67)


@pytest.fixture(scope="session")
def classifier():
    keras.utils.set_random_seed(11)
    encoder = bert_encoder(num_layers=1, **SIZES)
    return sequence_classifier(encoder, num_classes=3)


@pytest.fixture(scope="session")
def shared_classifier():
    """Twelve calls of one block."""
    keras.utils.set_random_seed(11)
    sizes = SIZES | {"intermediate_dim": 112, "vocabulary_size": 4001}
    encoder = albert_encoder(num_layers=12, embedding_dim=19, **sizes)
    model = sequence_classifier(encoder, num_classes=3)
    generator = np.random.default_rng(7)
    for weight in model.weights:  # no scale at 1, no shift at 0: as after training
        if len(weight.shape) == 1:
            weight.assign(weight.numpy() + generator.normal(0, 0.1, weight.shape))
    return model


@pytest.fixture(scope="session")
def tflite_file(classifier, examples, tmp_path_factory):
    from keras_tformer.export import to_tflite

    file = tmp_path_factory.mktemp("tflite") / "model.tflite"
    to_tflite(classifier, file, sequence_length=LENGTH, representative_data=examples)
    return file


@pytest.fixture(scope="session")
def saved_model(classifier, tmp_path_factory):
    from keras_tformer.export import to_saved_model

    folder = tmp_path_factory.mktemp("saved") / "model"
    to_saved_model(classifier, folder)
    return folder


@pytest.fixture(scope="module")
def model():
    """The smallest one, where only its files matter."""
    ids = keras.Input((5,), dtype="int32", name="token_ids")
    hidden = keras.layers.Embedding(11, 7)(ids)
    hidden = keras.layers.GlobalAveragePooling1D()(hidden)
    return keras.Model({"token_ids": ids}, keras.layers.Dense(3)(hidden))
