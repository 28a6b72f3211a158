"""TensorFlow checkpoints under Google's names, filled by Hugging Face's models.

The names come from the rules by which Hugging Face published its conversions from and
to Google's files, written out here once more, not from our tables.
"""

import json
import re

import numpy as np
import pytest
from comparison import (
    assert_close,
    one_backend_is_enough,
    outputs_of,
    random_batch,
    random_encoder_sizes,
    randomize,
)
from weight_tables import arrays_of

from keras_tformer.checkpoints.load_tf_checkpoint import load_tf_checkpoint
from keras_tformer.checkpoints.save_tf_checkpoint import save_tf_checkpoint

torch = pytest.importorskip("torch", reason="the reference runs on torch")
transformers = pytest.importorskip("transformers", reason="the reference itself")
tf = pytest.importorskip("tensorflow", reason="it writes the checkpoints")

pytestmark = one_backend_is_enough

BERT_RULES = [
    (r"encoder\.layer\.", "encoder.layer_"),
    (r"(word|position|token_type)_embeddings\.weight", r"\1_embeddings"),
]
ALBERT_RULES = [
    (r"^albert\.", "bert."),
    (r"(word|position|token_type)_embeddings\.weight", r"\1_embeddings"),
    (r"\.pooler\.", ".pooler.dense."),
    (
        r"encoder\.albert_layer_groups\.(\d+)\.albert_layers\.",
        r"encoder.transformer.group_\1.inner_group_",
    ),
    (r"\.attention\.LayerNorm\.", ".LayerNorm."),
    (r"\.attention\.(query|key|value)\.", r".attention_1.self.\1."),
    (r"\.attention\.dense\.", ".attention_1.output.dense."),
    (r"\.ffn\.", ".ffn_1.intermediate.dense."),
    (r"\.ffn_output\.", ".ffn_1.intermediate.output.dense."),
    (r"\.full_layer_layer_norm\.", ".LayerNorm_1."),
    (r"^predictions\.(dense|LayerNorm)\.", r"cls.predictions.transform.\1."),
    (r"^predictions\.bias", "cls.predictions.bias"),
    (r"^sop_classifier\.classifier\.", "cls.seq_relationship."),
]
# Google's code made these by hand, as (outputs, inputs), as torch does.
HAND_MADE = [
    (r"^(cls\.seq_relationship)\.weight$", r"\1.output_weights"),
    (r"^(cls\.(seq_relationship|predictions))\.bias$", r"\1.output_bias"),
    (r"^qa_outputs\.(weight|bias)$", r"cls.squad.output_\1"),
    (r"^classifier\.(weight|bias)$", r"output_\1"),
]


def googles_arrays(torch_model, rules):
    """All weights of a model of Hugging Face's, `{Google's name: array}`."""
    found = {}
    for name, array in arrays_of(torch_model).items():
        if re.search(r"predictions\.decoder\.", name):
            continue  # Tied: the table of tokens, and the bias once more.
        if not name.startswith(("bert.", "albert.", "cls.", "predictions.")):
            prefix = "" if re.match("classifier|qa_outputs|sop_", name) else "bert."
            name = prefix + name
        for pattern, to in rules + HAND_MADE:
            name = re.sub(pattern, to, name)
        name = re.sub(r"^(.*output_weight)$", r"\1s", name)
        name = re.sub(r"(LayerNorm(_1)?)\.weight$", r"\1.gamma", name)
        name = re.sub(r"(LayerNorm(_1)?)\.bias$", r"\1.beta", name)
        if name.endswith(".weight"):
            name, array = name.removesuffix("weight") + "kernel", array.T
        found[name.replace(".", "/")] = array
    return found


def write_checkpoint(prefix, arrays):
    """Lets TensorFlow's own Saver write variables of these names."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, array in arrays.items():
            tf.compat.v1.get_variable(name, initializer=np.ascontiguousarray(array))
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver()
        saver.save(session, str(prefix), write_meta_graph=False)


def read_checkpoint(prefix):
    reader = tf.train.load_checkpoint(str(prefix))
    return {
        name: reader.get_tensor(name) for name in reader.get_variable_to_dtype_map()
    }


def write_config(path, config):
    names = [
        "vocab_size hidden_size num_hidden_layers num_attention_heads",
        "intermediate_size max_position_embeddings type_vocab_size",
        "hidden_dropout_prob attention_probs_dropout_prob initializer_range",
    ]
    if hasattr(config, "num_hidden_groups"):
        names += ["embedding_size num_hidden_groups inner_group_num"]
    fields = {name: getattr(config, name) for name in " ".join(names).split()}
    # What Google's files say of the activation that theirs calls "gelu_new".
    path.write_text(json.dumps({**fields, "hidden_act": "gelu"}), "utf-8")


def their_config(family, sizes, **more):
    config = {"bert": transformers.BertConfig, "albert": transformers.AlbertConfig}
    if family == "albert":
        more |= {
            "embedding_size": 17,
            "num_hidden_groups": sizes["num_layers"],
            "inner_group_num": 2,
            "classifier_dropout_prob": 0.0,
        }
    return config[family](
        vocab_size=sizes["vocabulary_size"],
        num_hidden_layers=sizes["num_layers"],
        num_attention_heads=sizes["num_heads"],
        hidden_size=sizes["hidden_dim"],
        intermediate_size=sizes["intermediate_dim"],
        max_position_embeddings=sizes["max_sequence_length"],
        type_vocab_size=sizes["num_segments"],
        hidden_act="gelu_new",
        layer_norm_eps=1e-12,
        **more,
    )


def theirs_and_ours(expected, found, task, positions):
    """The same outputs of both sides, as two dicts."""

    def picked(logits):
        return np.take_along_axis(logits.numpy(), positions[..., None], 1)

    if task == "encoder":
        theirs = {
            "sequence_output": expected.last_hidden_state,
            "pooled_output": expected.pooler_output,
        }
    elif task == "masked_lm":
        theirs = {"masked_lm": picked(expected.logits)}
    elif task == "pretrainer":
        theirs = {"masked_lm": picked(expected.prediction_logits)}
        if "next_sentence" in found:
            theirs["next_sentence"] = expected.seq_relationship_logits
        else:
            theirs["sentence_order"] = expected.sop_logits
    elif task == "span_classifier":
        theirs = {"start": expected.start_logits, "end": expected.end_logits}
    else:
        found, theirs = {"logits": found}, {"logits": expected.logits}
    return theirs, found


KINDS = {
    "encoder": "{}Model",
    "masked_lm": "{}ForMaskedLM",
    "pretrainer": "{}ForPreTraining",
    "sequence_classifier": "{}ForSequenceClassification",
    "token_classifier": "{}ForTokenClassification",
    "span_classifier": "{}ForQuestionAnswering",
}


# Each head once within the fast tests, for one of the two families.
FAST = {
    ("bert", "encoder"),
    ("bert", "pretrainer"),
    ("bert", "span_classifier"),
    ("albert", "pretrainer"),
    ("albert", "sequence_classifier"),
    ("albert", "token_classifier"),
}
CASES = [
    pytest.param(
        family, task, marks=[] if (family, task) in FAST else [pytest.mark.slow]
    )
    for family in ("bert", "albert")
    for task in KINDS
]


@pytest.mark.parametrize(("family", "task"), CASES)
def test_same_logits_and_back_bit_by_bit(family, task, tmp_path, record_property):
    seed = 31 + len(task) + len(family)
    sizes = random_encoder_sizes(seed)
    if family == "albert":
        sizes["num_layers"] = 2
    more = {"num_labels": 7} if task.endswith("e_classifier") else {}
    more = {"num_labels": 11} if task == "token_classifier" else more
    config = their_config(family, sizes, **more)
    kind = KINDS[task].format(family.capitalize())
    theirs = randomize(getattr(transformers, kind)(config), seed)
    rules = BERT_RULES if family == "bert" else ALBERT_RULES
    arrays = googles_arrays(theirs, rules)
    write_checkpoint(tmp_path / "theirs.ckpt", arrays)
    write_config(tmp_path / "config.json", config)

    ours = load_tf_checkpoint(
        tmp_path / "theirs.ckpt",
        tmp_path / "config.json",
        # All other heads are found by their names.
        task=task if task == "token_classifier" else None,
    )
    batch = random_batch(sizes, seed)
    positions = np.random.default_rng(seed).integers(0, 17, (5, 7), "int32")
    with torch.no_grad():
        expected = theirs(
            input_ids=torch.tensor(batch["token_ids"]).long(),
            token_type_ids=torch.tensor(batch["segment_ids"]).long(),
            attention_mask=torch.tensor(batch["padding_mask"]),
        )
    inputs = batch
    if "mask_positions" in ours.input:
        inputs = {**batch, "mask_positions": positions}
    wanted, found = theirs_and_ours(expected, outputs_of(ours, inputs), task, positions)
    assert_close(found, wanted, record_property)

    save_tf_checkpoint(ours, tmp_path / "ours.ckpt")
    back = read_checkpoint(tmp_path / "ours.ckpt")
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)
    written = json.loads((tmp_path / f"{family}_config.json").read_text("utf-8"))
    given = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert given.items() <= written.items()


def test_the_names_are_the_published_ones():
    """Spot checks of names that were read in Google's code and release notes."""
    sizes = random_encoder_sizes(3)
    bert = transformers.BertForPreTraining(their_config("bert", sizes))
    albert = transformers.AlbertForPreTraining(their_config("albert", sizes))
    assert {
        "bert/embeddings/token_type_embeddings",
        "bert/embeddings/LayerNorm/beta",
        "bert/encoder/layer_1/attention/output/LayerNorm/gamma",
        "bert/encoder/layer_0/intermediate/dense/kernel",
        "cls/predictions/output_bias",
        "cls/predictions/transform/LayerNorm/gamma",
        "cls/seq_relationship/output_weights",
    } <= googles_arrays(bert, BERT_RULES).keys()
    block = "bert/encoder/transformer/group_0/inner_group_1/"
    assert {
        "bert/encoder/embedding_hidden_mapping_in/kernel",
        block + "attention_1/self/query/kernel",
        block + "attention_1/output/dense/bias",
        block + "ffn_1/intermediate/dense/kernel",
        block + "ffn_1/intermediate/output/dense/kernel",
        block + "LayerNorm/beta",
        block + "LayerNorm_1/gamma",
        "bert/pooler/dense/kernel",
        "cls/seq_relationship/output_bias",
    } <= googles_arrays(albert, ALBERT_RULES).keys()
