"""Google's checkpoints: which head is taken, what is refused, what is told."""

import json
import os
import re

import keras
import numpy as np
import pytest

from keras_tformer import models
from keras_tformer.checkpoints.load_tf_checkpoint import load_tf_checkpoint
from keras_tformer.checkpoints.save_tf_checkpoint import save_tf_checkpoint

tf = pytest.importorskip("tensorflow", reason="it reads and writes the checkpoints")

V, D, H, F, P = 31, 21, 3, 11, 13
SIZES = {
    "vocabulary_size": V,
    "num_layers": 2,
    "num_heads": H,
    "hidden_dim": D,
    "intermediate_dim": F,
    "max_sequence_length": P,
    "num_segments": 2,
    "activation": "gelu_tanh",
}
CONFIG = {
    "attention_probs_dropout_prob": 0.1,
    "directionality": "bidi",
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": D,
    "initializer_range": 0.02,
    "intermediate_size": F,
    "max_position_embeddings": P,
    "num_attention_heads": H,
    "num_hidden_layers": 2,
    "pooler_fc_size": 768,
    "pooler_type": "first_token_transform",
    "type_vocab_size": 2,
    "vocab_size": V,
}


def write(prefix, arrays, config=CONFIG):
    """Lets TensorFlow write tensors of any names, and a configuration beside them."""
    os.makedirs(os.path.dirname(prefix), exist_ok=True)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(arrays),
        shape_and_slices=[""] * len(arrays),
        tensors=list(arrays.values()),
    )
    path = os.path.join(os.path.dirname(prefix), "bert_config.json")
    with open(path, "w", encoding="utf-8") as file:
        file.write(config if isinstance(config, str) else json.dumps(config))
    return str(prefix), path


def read(prefix):
    reader = tf.train.load_checkpoint(str(prefix))
    return {
        name: reader.get_tensor(name) for name in reader.get_variable_to_dtype_map()
    }


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """The weights of a BERT pretrainer, under Google's names."""
    keras.utils.set_random_seed(3)
    folder = tmp_path_factory.mktemp("bert")
    model = models.bert_pretrainer(models.bert_encoder(**SIZES))
    save_tf_checkpoint(model, folder / "bert_model.ckpt")
    return read(folder / "bert_model.ckpt")


@pytest.fixture
def written(arrays, tmp_path):
    return write(tmp_path / "bert_model.ckpt", arrays)


def weights_of(model):
    return {weight.path: keras.ops.convert_to_numpy(weight) for weight in model.weights}


# === Heads and numbers ===


def test_the_head_is_the_one_in_the_file_or_the_one_that_is_asked_for(written):
    assert load_tf_checkpoint(*written).name == "bert_pretrainer"
    with pytest.warns(UserWarning, match=r"cls/seq_relationship/output_bias"):
        assert load_tf_checkpoint(*written, task="masked_lm").name == "masked_lm"
    with pytest.warns(UserWarning, match="keep their initial value.*classifier/bias"):
        model = load_tf_checkpoint(
            *written, task="sequence_classifier", num_classes=5, mask_value=-30.0
        )
    assert model.output.shape == (None, 5)
    assert model.get_layer("encoder_layer_1").mask_value == -30.0
    # Google's code drops 0.1 before a classifier.
    assert model.get_layer("classifier_dropout").rate == 0.1


def test_googles_gelu_is_the_tanh_form_and_numbers_come_along(arrays, tmp_path):
    changes = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2}
    files = write(tmp_path / "model", arrays, CONFIG | changes)
    block = load_tf_checkpoint(*files).get_layer("encoder_layer_0")
    assert block.get_config()["activation"] == "gelu_tanh"
    assert (block.dropout, block.attention_dropout) == (0.3, 0.2)
    assert block.layer_norm_epsilon == 1e-12


def test_several_heads_need_a_task(arrays, tmp_path):
    more = arrays | {"output_weights": np.ones((5, D), "float32")}
    more |= {"output_bias": np.ones(5, "float32")}
    files = write(tmp_path / "model", more)
    with pytest.raises(ValueError, match="several heads: cls/pred.*output_weights"):
        load_tf_checkpoint(*files)
    with pytest.warns(UserWarning, match="not used: cls/predictions"):
        model = load_tf_checkpoint(*files, task="sequence_classifier")
    assert model.output.shape == (None, 5)
    with pytest.raises(ValueError, match="a classifier of 5 classes.*num_classes=3"):
        load_tf_checkpoint(*files, task="sequence_classifier", num_classes=3)


def test_what_the_optimizer_left_is_skipped_and_told_in_one_line(arrays, tmp_path):
    kernel = "bert/encoder/layer_0/attention/self/query/kernel"
    slots = {
        f"{kernel}/{slot}": arrays[kernel] + 1
        for slot in ("adam_m", "adam_v", "lamb_m", "LAMBOptimizer_1")
    }
    slots |= {"global_step": np.int64(7), "beta1_power": np.float32(0.9)}
    files = write(tmp_path / "model", arrays | slots)
    with pytest.warns(UserWarning) as told:
        model = load_tf_checkpoint(*files)
    assert [str(x.message) for x in told if "model" in str(x.message)] == [
        f"The checkpoint {files[0]!r}: 5 tensors of the optimizer are skipped, such as "
        f"{min(set(slots) - {'global_step'})}."
    ]
    found = weights_of(model)["encoder_layer_0/self_attention/query/kernel"]
    np.testing.assert_array_equal(found, arrays[kernel])


def test_missing_weights_are_an_error_or_told(arrays, tmp_path):
    name = "bert/encoder/layer_1/output/dense/kernel"
    files = write(tmp_path / "model", {k: v for k, v in arrays.items() if k != name})
    with pytest.raises(ValueError, match=f"lacks 1 of the .* weights .*{name}"):
        load_tf_checkpoint(*files)
    path = "encoder_layer_1/feed_forward/output/kernel"
    with pytest.warns(UserWarning, match=f"keep their initial value.*{path}"):
        load_tf_checkpoint(*files, strict=False)


# === Bad input: one clear error each ===


def remove(pattern):
    def change(prefix, config_file):
        folder = os.path.dirname(prefix)
        for name in os.listdir(folder):
            if re.search(pattern, name):
                os.remove(os.path.join(folder, name))

    return change


def truncate(prefix, config_file):
    path = prefix + ".data-00000-of-00001"
    os.truncate(path, os.path.getsize(path) // 2)


def flip_a_bit(prefix, config_file):
    with open(prefix + ".data-00000-of-00001", "r+b") as file:
        file.seek(-5, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 4]))


def overwrite(ending, data):
    def change(prefix, config_file):
        with open(prefix + ending if ending else config_file, "wb") as file:
            file.write(data)

    return change


def configure(**changes):
    def change(prefix, config_file):
        with open(config_file, "w", encoding="utf-8") as file:
            fields = {k: v for k, v in (CONFIG | changes).items() if v != "left out"}
            json.dump(fields, file)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove(r"\.index$"), "has no file .*bert_model.ckpt.index"),
        (remove(r"\.data-"), "lacks .*data-00000-of-00001, which holds weights"),
        (truncate, "is damaged: .* cannot be read"),
        (flip_a_bit, "is damaged: .* cannot be read .*hecksum"),
        (overwrite(".index", b"PK\x03\x04 not an index"), "cannot be read"),
        (remove("bert_config"), "Cannot read the configuration .*No such file"),
        (overwrite("", b'{"vocab_size": 31,'), "is not JSON"),
        (overwrite("", b"\xff\xfe\x00"), "is not JSON"),
        (overwrite("", b"[1, 2]"), "holds a list"),
        (configure(vocab_size=37), r"word_embeddings is \(31, 21\), expected \(37"),
        (configure(intermediate_size=7), "4 tensors|6 tensors of the wrong shape"),
        (configure(num_hidden_layers=3), "lacks 16 of the .*layer_2"),
        (configure(num_hidden_layers=1), "has 16 weights .* no place.*layer_1"),
        (configure(num_attention_heads=4), "num_heads"),
        (configure(hidden_size="left out"), "hidden_size=None.*whole number"),
        (configure(hidden_size=21.0), r"hidden_size=21\.0.*whole number"),
        (configure(hidden_size=True), "hidden_size=True.*whole number"),
        (configure(hidden_act="swish"), "hidden_act='swish'.*one of gelu"),
        (configure(hidden_act=["gelu"]), "hidden_act=.'gelu'"),
        (configure(hidden_dropout_prob=1.5), "hidden_dropout_prob=1.5"),
        (configure(directionality="left"), "directionality='left'.*bidi"),
        (configure(num_hidden_groups=1), "num_hidden_groups=1.*those of a BERT"),
        (configure(model_type="bert"), "model_type='bert'.*load_huggingface"),
    ],
)
def test_bad_files_are_refused_in_plain_words(change, message, written):
    change(*written)
    with pytest.raises(ValueError, match=message) as caught:
        load_tf_checkpoint(*written)
    assert "\n" not in str(caught.value).strip()


def test_a_prefix_that_is_something_else_is_named(written, tmp_path):
    for wrong in (tmp_path, written[0] + ".index", tmp_path / "other"):
        with pytest.raises(ValueError, match="Pass one of these: .*bert_model.ckpt"):
            load_tf_checkpoint(wrong, written[1])
    with pytest.raises(ValueError, match="Received task='translation'"):
        load_tf_checkpoint(*written, task="translation")


def test_a_missing_shard_is_named(arrays, tmp_path):
    prefix, config_file = write(tmp_path / "model", arrays)
    os.rename(prefix + ".data-00000-of-00001", prefix + ".data-00001-of-00002")
    with pytest.raises(ValueError, match="lacks .*data-00000-of-00002"):
        load_tf_checkpoint(prefix, config_file)


def test_checkpoints_of_other_models_are_refused(tmp_path):
    files = write(tmp_path / "resnet", {"conv1/kernel": np.ones((3, 3), "float32")})
    with pytest.raises(ValueError, match="not one of a BERT or ALBERT.*conv1/kernel"):
        load_tf_checkpoint(*files)
    prefix = str(tmp_path / "objects")
    tf.train.Checkpoint(layer=tf.Variable(1.0)).write(prefix)
    with pytest.raises(
        ValueError, match="object-based.*not of the Model Garden.*layer/"
    ):
        load_tf_checkpoint(prefix, files[1])


# === Model Garden ===


def object_checkpoint(prefix, arrays, root, is_old):
    """Writes a tree of objects as the Model Garden's code does, with our arrays."""

    def tracked(tree):
        return tf.train.Checkpoint(
            **{
                name: tracked(value) if isinstance(value, dict) else tf.Variable(value)
                for name, value in tree.items()
            }
        )

    def norm(name):
        return {x: arrays[f"{name}/{x}"] for x in ("gamma", "beta")}

    def dense(name, kernel=None, bias=None):
        kernel_array, bias_array = arrays[f"{name}/kernel"], arrays[f"{name}/bias"]
        return {
            "kernel": kernel_array.reshape(kernel or kernel_array.shape),
            "bias": bias_array.reshape(bias or bias_array.shape),
        }

    words = ("word", "position", "token_type")
    layers = [{"embeddings": arrays[f"bert/embeddings/{x}_embeddings"]} for x in words]
    layers.append(norm("bert/embeddings/LayerNorm"))
    for layer in range(2):
        name = f"bert/encoder/layer_{layer}"
        heads = {"kernel": (D, H, D // H), "bias": (H, D // H)}
        attention = {
            f"_{x}_dense": dense(f"{name}/attention/self/{x}", **heads)
            for x in ("query", "key", "value")
        }
        output = dense(f"{name}/attention/output/dense", kernel=(H, D // H, D))
        block = {
            "_attention_layer": attention,
            "_attention_layer_norm": norm(f"{name}/attention/output/LayerNorm"),
            "_intermediate_dense": dense(f"{name}/intermediate/dense"),
            "_output_dense": dense(f"{name}/output/dense"),
            "_output_layer_norm": norm(f"{name}/output/LayerNorm"),
        }
        if is_old:
            block["_attention_output_dense"] = output
        else:
            attention["_output_dense"] = output
        layers.append(block)
    layers.append(dense("bert/pooler/dense"))
    tree = {f"layer_with_weights-{i}": layer for i, layer in enumerate(layers)}
    tracked({root: tree}).save(prefix)


@pytest.mark.parametrize(("root", "is_old"), [("encoder", False), ("model", True)])
def test_encoders_of_the_model_garden(root, is_old, written, arrays, tmp_path):
    expected = weights_of(load_tf_checkpoint(*written, task="bert_pretrainer"))
    prefix = str(tmp_path / "garden")
    object_checkpoint(prefix, arrays, root, is_old)
    model = load_tf_checkpoint(prefix + "-1", written[1])
    assert model.name == "bert_encoder"
    for path, array in weights_of(model).items():
        np.testing.assert_array_equal(array, expected[path], err_msg=path)


# === Saving ===


def test_saved_files_are_whole_or_not_there(tmp_path, monkeypatch):
    model = models.bert_encoder(**SIZES)
    prefix = tmp_path / "new" / "bert_model.ckpt"
    save_tf_checkpoint(model, prefix, tmp_path / "elsewhere" / "config.json")
    names = ["bert_model.ckpt.data-00000-of-00001", "bert_model.ckpt.index"]
    assert sorted(os.listdir(prefix.parent)) == names
    assert os.listdir(tmp_path / "elsewhere") == ["config.json"]

    def fail(**arguments):
        raise OSError("disk full")

    monkeypatch.setattr(tf.raw_ops, "SaveV2", fail)
    before = [(prefix.parent / name).read_bytes() for name in names]
    with pytest.raises(OSError, match="disk full"):
        save_tf_checkpoint(model, prefix)
    assert sorted(os.listdir(prefix.parent)) == names
    assert [(prefix.parent / name).read_bytes() for name in names] == before


def test_exact_gelu_and_other_epsilons_are_kept_and_told(tmp_path):
    sizes = SIZES | {"activation": "gelu", "layer_norm_epsilon": 1e-5}
    model = models.bert_encoder(**sizes)
    with pytest.warns(UserWarning, match="tanh form.*layer_norm_eps=1e-05"):
        save_tf_checkpoint(model, tmp_path / "model")
    back = load_tf_checkpoint(tmp_path / "model", tmp_path / "bert_config.json")
    block = back.get_layer("encoder_layer_0")
    assert block.get_config()["activation"] == "gelu"
    assert block.layer_norm_epsilon == 1e-5


def test_albert_keeps_calls_groups_and_widths(tmp_path):
    sizes = SIZES | {"num_layers": 6, "num_groups": 3, "num_inner_repetitions": 2}
    model = models.albert_encoder(**sizes, embedding_dim=D, dropout=0.3)
    save_tf_checkpoint(models.span_classifier(model), tmp_path / "model")
    names = read(tmp_path / "model")
    assert not any("embedding_hidden_mapping_in" in name for name in names)
    back = load_tf_checkpoint(tmp_path / "model", tmp_path / "albert_config.json")
    assert back.name == "span_classifier"
    calls = [
        len(layer["inbound_nodes"])
        for layer in back.get_config()["layers"]
        if layer["name"].startswith("encoder_group_")
    ]
    assert calls == [2] * 6
    assert back.get_layer("encoder_group_2_layer_1").dropout == 0.3


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: models.bert_encoder(**SIZES | {"activation": "silu"}),
            "no activation 'silu'",
        ),
        (lambda: models.bert_encoder(**SIZES | {"num_segments": None}), "segment ids"),
        (
            lambda: models.bert_encoder(**SIZES, position_offset=2, embedding_dim=5),
            "knows BERT.*a position_offset and embedding_dim=5",
        ),
        (
            lambda: models.bert_encoder(**SIZES, pooler_activation="relu"),
            "another activation in its pooler",
        ),
        (
            lambda: keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]),
            "Expected a model of `bert_encoder` or `albert_encoder`",
        ),
    ],
    ids=["activation", "segments", "roberta", "pooler", "foreign"],
)
def test_what_google_has_no_name_for_is_refused(build, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_tf_checkpoint(build(), tmp_path / "folder" / "model")
    assert not os.listdir(tmp_path)


def test_a_folder_is_no_prefix(tmp_path):
    with pytest.raises(ValueError, match="a folder. Expected the path"):
        save_tf_checkpoint(models.bert_encoder(**SIZES), tmp_path)
