"""What KerasHub's models and ours cannot say to each other is refused in plain words.

Outputs and weights are compared in `reference/test_reference_checkpoints_keras_hub.py`.
"""

import sys

import keras
import pytest

from keras_tformer import models
from keras_tformer.checkpoints.keras_hub import from_keras_hub, to_keras_hub

keras_hub = pytest.importorskip("keras_hub", reason="the other side")

SIZES = {
    "vocabulary_size": 31,
    "num_layers": 2,
    "num_heads": 3,
    "hidden_dim": 21,
    "intermediate_dim": 11,
    "max_sequence_length": 13,
}


def test_without_keras_hub_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(ImportError, match=r"pip install \"keras_tformer\[hub\]\""):
        from_keras_hub(None)
    with pytest.raises(ImportError, match=r"pip install \"keras_tformer\[hub\]\""):
        to_keras_hub(None)


def test_other_objects_are_refused():
    other = keras_hub.models.GPT2Backbone(31, 2, 3, 21, 11)
    for wrong in (other, models.bert_encoder(**SIZES), None, "bert_base_en"):
        with pytest.raises(ValueError, match="Expected a BertBackbone, AlbertBackbone"):
            from_keras_hub(wrong)


def test_a_classifier_of_probabilities_is_refused():
    backbone = keras_hub.models.BertBackbone(**SIZES)
    theirs = keras_hub.models.BertTextClassifier(backbone, 5, activation="softmax")
    with pytest.raises(ValueError, match="returns softmax of its logits"):
        from_keras_hub(theirs)


def test_weights_that_no_row_names_are_refused():
    backbone = keras_hub.models.BertBackbone(**SIZES)
    backbone.pooled_dense.enable_lora(2)
    with pytest.raises(ValueError, match="such as pooled_dense/lora_kernel_a"):
        from_keras_hub(backbone)


def test_a_projection_between_equal_widths_is_refused():
    theirs = keras_hub.models.AlbertBackbone(**SIZES, embedding_dim=21)
    with pytest.raises(ValueError, match="width 21 to the same width"):
        from_keras_hub(theirs)


def test_the_head_keeps_its_own_numbers_in_a_saved_model(tmp_path):
    backbone = keras_hub.models.BertBackbone(**SIZES)
    model = from_keras_hub(keras_hub.models.BertMaskedLM(backbone))
    model.save(tmp_path / "model.keras")
    head = keras.saving.load_model(tmp_path / "model.keras").get_layer("masked_lm_head")
    assert head.get_config()["activation"] == "gelu"
    assert head.layer_norm_epsilon == head.layer_norm.epsilon == 1e-5


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: models.bert_encoder(**SIZES), "activation='gelu'"),
        (
            lambda: models.bert_encoder(
                **SIZES, activation="gelu_tanh", layer_norm_epsilon=1e-5
            ),
            "layer_norm_epsilon=1e-05",
        ),
        (
            lambda: models.bert_encoder(
                **SIZES, activation="gelu_tanh", attention_dropout=0.0
            ),
            r"attention_dropout=0\.0 beside dropout=0\.1",
        ),
        (
            lambda: models.masked_lm(
                models.bert_encoder(**SIZES, activation="gelu_tanh")
            ),
            r"\('gelu_tanh', 1e-12\) \(there: \('gelu', 1e-05\)\)",
        ),
        (
            lambda: models.span_classifier(
                models.bert_encoder(**SIZES, activation="gelu_tanh")
            ),
            r"a head that KerasHub does not have \(span_classifier\)",
        ),
        (
            lambda: keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]),
            "Expected a model of `bert_encoder` or `albert_encoder`",
        ),
    ],
    ids=["gelu", "epsilon", "dropout", "head", "task", "foreign"],
)
def test_what_would_compute_something_else_there_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        to_keras_hub(build())
