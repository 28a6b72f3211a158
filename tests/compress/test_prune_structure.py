"""Structured pruning against masked models, and importance against differences."""

import keras
import numpy as np
import pytest

import keras_tformer as kt
from keras_tformer.compress import (
    drop_layers,
    prune_low_magnitude,
    prune_structure,
    quantize_model,
    structure_importance,
)

HEADS, KEY_DIM, WIDTH, INNER, LENGTH, VOCABULARY = 5, 2, 10, 11, 7, 31
SIZES = {
    "vocabulary_size": VOCABULARY,
    "num_layers": 2,
    "num_heads": HEADS,
    "hidden_dim": WIDTH,
    "intermediate_dim": INNER,
    "max_sequence_length": LENGTH,
}
ALBERT = {"embedding_dim": 2, **SIZES}


def encoder(family, **changes):
    sizes = (SIZES if family == "bert" else ALBERT) | {"initializer_range": 0.3}
    return spread(getattr(kt.models, f"{family}_encoder")(**(sizes | changes)))


def spread(model):
    """No weight at its initial 0 or 1, so that none is without effect."""
    draw = np.random.default_rng(7)
    for weight in model.weights:
        weight.assign(weight + 0.1 * draw.normal(size=weight.shape))
    return model


def inputs_of(model, rows=5, seed=3):
    draw = np.random.default_rng(seed)
    inputs = {}
    for tensor in model.inputs:
        highest = VOCABULARY if "token" in tensor.name else 2
        highest = 4 if "positions" in tensor.name else highest
        shape = (rows, 2 if "positions" in tensor.name else LENGTH)
        inputs[tensor.name] = draw.integers(0, highest, shape)
        if "padding" in tensor.name:
            inputs[tensor.name] = (
                np.arange(LENGTH) < draw.integers(3, 8, (rows, 1))
            ) * 1
    return inputs


MODELS = {
    "bert encoder": lambda: encoder("bert"),
    "albert encoder": lambda: encoder("albert"),
    "albert groups": lambda: encoder(
        "albert", num_groups=2, num_inner_repetitions=2, return_attention_scores=True
    ),
    "sequences": lambda: kt.models.sequence_classifier(encoder("bert"), num_classes=3),
    "tokens": lambda: kt.models.token_classifier(encoder("albert"), num_classes=3),
    "spans": lambda: kt.models.span_classifier(encoder("bert")),
    "embedder": lambda: kt.models.text_embedder(encoder("albert")),
    "masked lm": lambda: kt.models.masked_lm(encoder("bert")),
    "bert pretrainer": lambda: kt.models.bert_pretrainer(encoder("bert")),
    "albert pretrainer": lambda: kt.models.albert_pretrainer(encoder("albert")),
    "transformer": lambda: spread(kt.models.transformer(**SIZES)),
    "causal lm": lambda: spread(kt.models.causal_lm(**SIZES, mask_value=-30.0)),
}


def random_importance(model):
    draw, importance = np.random.default_rng(5), {}
    for block in model.layers:
        for name in ("self_attention", "cross_attention", "feed_forward"):
            if getattr(block, name, None) is not None:
                size = INNER if name == "feed_forward" else HEADS
                importance[f"{block.name}.{name}"] = draw.permutation(size)
    return importance


def mask(model, importance, num_heads, intermediate_dim):
    """Zeroes, in place, the rows by which the least important parts reach others."""
    for path, values in importance.items():
        block, name = path.split(".")
        layer = getattr(model.get_layer(block), name)
        number = intermediate_dim if name == "feed_forward" else num_heads
        kernel = layer.output_dense.kernel.numpy()
        rows = kernel.reshape(len(values), -1, kernel.shape[-1])  # (H, K, D)
        rows[np.asarray(values) < len(values) - number] = 0
        layer.output_dense.kernel.assign(rows.reshape(kernel.shape))


@pytest.mark.parametrize("name", MODELS)
def test_equals_the_masked_model(name):
    model = MODELS[name]()
    importance = random_importance(model)
    before = [weight.numpy() for weight in model.weights]
    smaller = prune_structure(model, importance, 2, 4)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)
    assert smaller.count_params() < model.count_params()
    blocks = [x for x in smaller.layers if hasattr(x, "intermediate_dim")]
    assert {(x.num_heads, x.key_dim, x.intermediate_dim) for x in blocks} == {
        (2, KEY_DIM, 4)
    }
    mask(model, importance, 2, 4)
    inputs = inputs_of(model)
    ours, masked = smaller(inputs), model(inputs)
    if isinstance(ours, dict):
        for scores in (ours, masked):
            scores.pop("attention_scores", None)  # those of all heads
    for one, other in zip(
        keras.tree.flatten(ours), keras.tree.flatten(masked), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_builder_makes_it_too(tmp_path):
    for family in ("bert", "albert"):
        model = encoder(family)
        smaller = prune_structure(model, random_importance(model), 2, 4)
        numbers = {"num_heads": 2, "key_dim": KEY_DIM, "intermediate_dim": 4}
        built = encoder(family, **numbers)
        built.set_weights(smaller.get_weights())
        inputs = inputs_of(model)
        expected = np.asarray(smaller(inputs)["sequence_output"])
        np.testing.assert_array_equal(built(inputs)["sequence_output"], expected)
        smaller.save(tmp_path / "smaller.keras")
        loaded = keras.models.load_model(tmp_path / "smaller.keras", safe_mode=True)
        np.testing.assert_array_equal(loaded(inputs)["sequence_output"], expected)


def test_one_of_the_two_numbers():
    model = encoder("bert")
    importance = random_importance(model)
    heads = prune_structure(model, importance, num_heads=3)
    units = prune_structure(model, importance, intermediate_dim=3)
    assert heads.get_layer("encoder_layer_1").intermediate_dim == INNER
    assert units.get_layer("encoder_layer_1").num_heads == HEADS
    # Three kernels and biases of every head, and its rows of the last kernel.
    head = KEY_DIM * (3 * (WIDTH + 1) + WIDTH)
    assert model.count_params() - heads.count_params() == 2 * 2 * head
    assert model.count_params() - units.count_params() == 2 * 8 * (2 * WIDTH + 1)


def test_importance_is_what_the_loss_changes_by():
    """Each head's output times 1 + e and 1 - e, for one example after the other."""
    model = kt.models.sequence_classifier(encoder("bert"), num_classes=3)
    model.compile(**kt.training.compile_arguments("sequence_classifier"))
    inputs, labels = inputs_of(model), np.array([0, 2, 1, 1, 0])
    batches = [
        ({name: x[i : i + 1] for name, x in inputs.items()}, labels[i : i + 1])
        for i in range(5)
    ]
    importance = structure_importance(model, batches)

    def losses():
        logits = model.predict_on_batch(inputs).astype("float64")
        return np.log(np.exp(logits).sum(-1)) - logits[np.arange(5), labels]

    for path in ("encoder_layer_0.self_attention", "encoder_layer_1.feed_forward"):
        block, name = path.split(".")
        kernel = getattr(model.get_layer(block), name).output_dense.kernel
        value, groups = kernel.numpy(), len(importance[path])
        for group in range(groups):
            change = np.zeros(5)
            for sign in (1, -1):
                scaled = value.reshape(groups, -1, WIDTH).copy()
                scaled[group] *= 1 + sign * 1e-2
                kernel.assign(scaled.reshape(value.shape))
                change += sign * losses()
            kernel.assign(value)
            expected = np.abs(change / 2e-2).sum()
            assert importance[path][group] == pytest.approx(
                expected, rel=0.02, abs=2e-4
            )
    # One batch of all has a mean loss: a fifth, and the same order.
    together = structure_importance(model, [(inputs, labels)])
    for path, values in together.items():
        np.testing.assert_allclose(5 * values, importance[path], rtol=1e-3, atol=1e-6)


def test_every_call_of_a_shared_block_counts():
    albert = encoder("albert")
    bert = encoder("bert", embedding_dim=2, activation="gelu_tanh")
    weights = {w.path: w.numpy() for w in albert.weights}
    for weight in bert.weights:
        path = weight.path
        if path.startswith("encoder_layer_"):
            path = "encoder_group_0_layer_0" + path[len("encoder_layer_0") :]
        weight.assign(weights[path])
    found = []
    for family in (albert, bert):
        model = kt.models.token_classifier(family, num_classes=3)
        layer = model.get_layer("classifier")
        layer.kernel.assign(np.random.default_rng(2).normal(size=layer.kernel.shape))
        model.compile(**kt.training.compile_arguments("token_classifier"))
        inputs = inputs_of(model)
        labels = np.random.default_rng(4).integers(0, 3, (5, LENGTH))
        found.append(structure_importance(model, [(inputs, labels)], steps=1))
    shared, apart = found
    for name in ("self_attention", "feed_forward"):
        calls = sum(apart[f"encoder_layer_{n}.{name}"] for n in range(2))
        np.testing.assert_allclose(
            shared[f"encoder_group_0_layer_0.{name}"], calls, rtol=1e-4, atol=1e-6
        )


def test_batches_of_several_lengths_and_sample_weights():
    model = kt.models.masked_lm(encoder("bert"))
    model.compile(**kt.training.compile_arguments("masked_lm"))
    inputs = inputs_of(model)
    targets = {"masked_lm": np.random.default_rng(6).integers(0, VOCABULARY, (5, 2))}
    weights = {"masked_lm": np.ones((5, 2), "float32")}
    short = {k: x if x.shape[1] == 2 else x[:, :5] for k, x in inputs.items()}
    one = structure_importance(model, [(inputs, targets, weights)])
    other = structure_importance(model, [(short, targets, weights)])
    both = structure_importance(
        model, [(inputs, targets, weights), (short, targets, weights)]
    )
    for path, values in both.items():
        np.testing.assert_allclose(values, one[path] + other[path], rtol=1e-5)
    nothing = {"masked_lm": np.zeros((5, 2), "float32")}
    silent = structure_importance(model, [(inputs, targets, nothing)])
    assert not any(values.any() for values in silent.values())


@pytest.mark.slow
def test_half_of_everything_computes_less(tmp_path):
    """Counted multiply-accumulates of the file, and the same in a quantized one."""
    sizes = {"num_heads": 4, "hidden_dim": 20, "intermediate_dim": 26}
    model = encoder("bert", **sizes, sequence_length=LENGTH)
    model = kt.models.token_classifier(model, num_classes=3)  # reads all positions
    importance = {}
    for index in range(2):
        importance[f"encoder_layer_{index}.self_attention"] = [3, 1, 0, 2]
        importance[f"encoder_layer_{index}.feed_forward"] = range(26)
    smaller = prune_structure(model, importance, 2, 13)
    macs = []
    for number, exported in enumerate((model, smaller)):
        result = kt.export.to_tflite(
            exported, tmp_path / f"{number}.tflite", sequence_length=LENGTH
        )
        macs.append(result["macs"])
    rest = LENGTH * 20 * 3  # the classifier
    attention = LENGTH * 4 * 20 * 20 + 2 * LENGTH * LENGTH * 20
    block = attention + 2 * LENGTH * 20 * 26
    assert macs == [2 * block + rest, block + rest]
    aware = quantize_model(smaller, sequence_length=LENGTH)
    inputs = inputs_of(aware)
    kt.compress.calibrate(aware, [inputs])
    result = kt.export.to_tflite(
        aware,
        tmp_path / "int8.tflite",
        sequence_length=LENGTH,
        quantization="int8",
        representative_data=[inputs],
    )
    assert result["int8_macs_share"] == 1
    assert result["macs"] == macs[1]


@pytest.mark.slow
def test_a_smaller_language_model_generates():
    model = MODELS["causal lm"]()
    importance = random_importance(model)
    smaller = prune_structure(model, importance, 2, 4)
    mask(model, importance, 2, 4)
    prompts = [[5, 7], [11]]
    np.testing.assert_array_equal(
        *(kt.models.generate(m, prompts, max_length=LENGTH) for m in (smaller, model))
    )


def test_dropped_layers():
    model = kt.models.masked_lm(encoder("bert", num_layers=4))
    for layers, kept in (([1], [0, 2, 3]), ([-1, 0], [1, 2])):
        shallower = drop_layers(model, layers)
        built = kt.models.masked_lm(encoder("bert", num_layers=len(kept)))
        weights = {w.path: w.numpy() for w in model.weights}
        for weight in built.weights:
            path = weight.path
            if path.startswith("encoder_layer_"):
                number, rest = path[len("encoder_layer_") :].split("/", 1)
                path = f"encoder_layer_{kept[int(number)]}/{rest}"
            weight.assign(weights[path])
        inputs = inputs_of(model)
        assert [w.path for w in shallower.weights] == [w.path for w in built.weights]
        np.testing.assert_array_equal(
            shallower(inputs)["masked_lm"], built(inputs)["masked_lm"]
        )
    language_model = MODELS["causal lm"]()
    names = [layer.name for layer in drop_layers(language_model, [0]).layers]
    assert "decoder_layer_0" in names and "decoder_layer_1" not in names


def test_refusals(tmp_path):
    model = encoder("bert")
    importance = random_importance(model)
    with pytest.raises(ValueError, match="num_heads, intermediate_dim or both"):
        prune_structure(model, importance)
    with pytest.raises(ValueError, match="from 1 to the 5 of"):
        prune_structure(model, importance, num_heads=6)
    with pytest.raises(ValueError, match="with 5 numbers; received 4"):
        prune_structure(
            model, importance | {"encoder_layer_1.self_attention": range(4)}, 2
        )
    with pytest.raises(ValueError, match="with 11 numbers; received none"):
        prune_structure(model, {}, intermediate_dim=2)
    fewer_heads = prune_structure(model, importance, num_heads=2)
    for save in (kt.checkpoints.save_huggingface, kt.checkpoints.save_tf_checkpoint):
        with pytest.raises(ValueError, match=f"key_dim={KEY_DIM}"):
            save(fewer_heads, tmp_path / "folder")
    with pytest.raises(ValueError, match="none among its layers"):
        prune_structure(quantize_model(model, sequence_length=LENGTH), importance, 2)
    with pytest.raises(ValueError, match="Compile it as for its training"):
        structure_importance(model, [])
    model.compile(loss="mse")
    with pytest.raises(ValueError, match="no batch"):
        structure_importance(model, [])
    for layers in ([], [2], [0, 1], [-3]):
        with pytest.raises(ValueError, match="some but not all of 0 to 1"):
            drop_layers(model, layers)
    with pytest.raises(ValueError, match="blocks of 'albert_encoder' are shared"):
        drop_layers(encoder("albert"), [1])
    with pytest.raises(ValueError, match="several kinds"):
        drop_layers(MODELS["transformer"](), [1])
    with pytest.raises(ValueError, match="returns hidden_states, one for each"):
        drop_layers(encoder("bert", return_hidden_states=True), [1])
    with pytest.raises(ValueError, match="still being pruned"):
        prune_structure(
            prune_low_magnitude(model, lambda step: (True, 0.5)), importance, 2
        )
