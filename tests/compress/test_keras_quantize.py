"""Keras' own post-training quantization on models of the zoo."""

import keras
import numpy as np
import pytest

import keras_tformer as kt

if keras.backend.backend() != "tensorflow":
    pytest.skip("measured on the TensorFlow backend", allow_module_level=True)

LENGTH, VOCABULARY = 8, 31


def classifier():
    keras.utils.set_random_seed(0)
    encoder = kt.models.bert_encoder(
        vocabulary_size=VOCABULARY,
        num_layers=1,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=24,
        max_sequence_length=LENGTH,
        initializer_range=0.3,
    )
    return kt.models.sequence_classifier(encoder, num_classes=3)


def batch():
    ids = np.random.default_rng(3).integers(0, VOCABULARY, (32, LENGTH))
    ones = np.ones_like(ids)
    return {"token_ids": ids, "segment_ids": 0 * ids, "padding_mask": ones}


def layer_by_layer(model, config):
    """The arguments of the two modes that go through the blocks one by one."""
    embeddings = model.get_layer("embeddings")
    return config(
        list(batch()["token_ids"]),
        tokenizer="not asked for token ids",
        num_samples=2,
        sequence_length=LENGTH,
        group_size=8,
        quantization_layer_structure={
            "pre_block_layers": [
                model.get_layer("token_embedding"),
                lambda x: embeddings(x, keras.ops.zeros(x.shape[:2], "int32")),
            ],
            "sequential_blocks": [model.get_layer("encoder_layer_0")],
        },
    )


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
@pytest.mark.slow
@pytest.mark.parametrize("mode", ["int8", "int4", "gptq", "awq"])
def test_modes_work_and_their_export_is_refused(mode, tmp_path):
    model = classifier()
    expected = np.asarray(model(batch()))
    if mode in ("int8", "int4"):
        model.quantize(mode)
    else:
        configs = keras.quantizers
        config = {"gptq": configs.GPTQConfig, "awq": configs.AWQConfig}[mode]
        model.quantize(mode, config=layer_by_layer(model, config))
    block = model.get_layer("encoder_layer_0")
    for layer in (block.self_attention.query_dense, block.feed_forward.output_dense):
        assert layer.quantization_mode == mode
    outputs = np.asarray(model(batch()))
    share = {"int8": 0.05}.get(mode, 0.3)
    assert 0 < np.abs(outputs - expected).mean() < share * expected.std()
    message = f"quantized by Keras itself \\(mode '{mode}'\\).*quantize_model"
    with pytest.raises(ValueError, match=message):
        kt.export.to_tflite(model, tmp_path / "a.tflite", sequence_length=LENGTH)
    if mode in ("int8", "int4"):
        model.save_weights(tmp_path / "a.weights.h5")
        again = classifier()
        again.quantize(mode)
        again.load_weights(tmp_path / "a.weights.h5")
        np.testing.assert_array_equal(again(batch()), outputs)
