"""Folders that `transformers` writes open here, and ours open there: same logits.

Every case goes all the way: random configuration, weights and head written by
`transformers`, loaded, compared, saved, compared tensor by tensor, opened by
`transformers` again without a missing or unexpected key.
"""

import json
import os
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
from comparison import (
    TOLERANCE,
    assert_close,
    one_backend_is_enough,
    outputs_of,
    random_batch,
    random_encoder_sizes,
    randomize,
)

import keras_tformer as kt
from keras_tformer.checkpoints import load_huggingface, save_huggingface

torch = pytest.importorskip("torch", reason="the reference runs on torch")
transformers = pytest.importorskip("transformers", reason="the reference itself")
safetensors_numpy = pytest.importorskip(
    "safetensors.numpy", reason="the reference reader of the format"
)

pytestmark = one_backend_is_enough

NAMES = {"albert": "Albert", "bert": "Bert", "distilbert": "DistilBert"}
NAMES |= {"electra": "Electra", "roberta": "Roberta", "xlm-roberta": "XLMRoberta"}
LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
HEADS = {
    "ForMaskedLM": {},
    "ForPreTraining": {},
    "ForSequenceClassification": {"num_labels": 7},
    "ForTokenClassification": {
        "id2label": dict(enumerate(LABELS)),
        "label2id": {name: index for index, name in enumerate(LABELS)},
    },
    "ForQuestionAnswering": {},
    "Model": {},
}
# Hugging Face's base models of these two have no pooler, ours does.
WITHOUT_POOLER = ("distilbert", "electra")

CASES = [
    (family, head, 1 + index)
    for family in NAMES
    for index, head in enumerate(HEADS)
    if head != "ForPreTraining" or family in ("albert", "bert")
]
# Every head of BERT, and of the others what is their own; all else is slow.
OWN = {
    "albert": ("ForPreTraining", "ForSequenceClassification", "Model"),
    "bert": tuple(HEADS),
    "distilbert": ("ForSequenceClassification",),
    "electra": ("ForSequenceClassification",),
    "roberta": ("ForMaskedLM", "ForSequenceClassification"),
    "xlm-roberta": ("Model",),
}
FAST = [case for case in CASES if case[1] in OWN[case[0]]]
SLOW = [case for case in CASES if case not in FAST]
SLOW += [(family, head, seed + 40) for family, head, seed in CASES]


def their_config(family, seed, **more):
    """Draws a configuration: odd sizes, activation, epsilon, dropouts, segments."""
    sizes = random_encoder_sizes(seed)
    draw = np.random.default_rng(seed)
    # The heads of RoBERTa and ELECTRA compute the exact GELU whatever the field says.
    fixed = family in ("electra", "roberta", "xlm-roberta")
    activation = "gelu" if fixed else str(draw.choice(["gelu", "gelu_new", "silu"]))
    common = {
        "vocab_size": sizes["vocabulary_size"],
        "max_position_embeddings": sizes["max_sequence_length"],
        "initializer_range": 0.03,
        **more,
    }
    if family == "distilbert":
        return transformers.DistilBertConfig(
            **common,
            n_layers=sizes["num_layers"],
            n_heads=sizes["num_heads"],
            dim=sizes["hidden_dim"],
            hidden_dim=sizes["intermediate_dim"],
            activation=activation,
            dropout=0.11,
            attention_dropout=0.13,
            qa_dropout=0.17,
            seq_classif_dropout=0.19,
        )
    common |= {
        "num_hidden_layers": sizes["num_layers"],
        "num_attention_heads": sizes["num_heads"],
        "hidden_size": sizes["hidden_dim"],
        "intermediate_size": sizes["intermediate_dim"],
        "type_vocab_size": sizes["num_segments"],
        "hidden_act": activation,
        "layer_norm_eps": float(draw.choice([1e-12, 1e-5, 1e-7])),
        "hidden_dropout_prob": 0.11,
        "attention_probs_dropout_prob": 0.13,
    }
    if family == "albert":
        repetitions = int(draw.choice([1, 2]))
        common |= {"embedding_size": 5, "inner_group_num": repetitions}
        common |= {"num_hidden_groups": int(draw.choice([1, sizes["num_layers"]]))}
        return transformers.AlbertConfig(**common, classifier_dropout_prob=0.17)
    common["classifier_dropout"] = [None, 0.17][seed % 2]
    if family == "electra":
        # Equal widths leave the projection out.
        common["embedding_size"] = [sizes["hidden_dim"], 17][seed % 2]
        return transformers.ElectraConfig(**common)
    if family == "bert":
        return transformers.BertConfig(**common)
    kind = {"roberta": "RobertaConfig", "xlm-roberta": "XLMRobertaConfig"}[family]
    return getattr(transformers, kind)(**common, pad_token_id=seed % 3)


def write_theirs(folder, family, head, seed, **more):
    config = their_config(family, seed, **HEADS[head], **more)
    theirs = getattr(transformers, NAMES[family] + head)(config)
    theirs = randomize(theirs, seed)
    theirs.save_pretrained(folder)
    return theirs


def batch_for(config, seed, length=13):
    """Makes a padded batch; padding is the padding token, which RoBERTa counts by."""
    sizes = {
        "vocabulary_size": config.vocab_size,
        "num_segments": getattr(config, "type_vocab_size", 1),
    }
    batch = random_batch(sizes, seed, length=length)
    ids, padding = batch["token_ids"], config.pad_token_id
    ids[ids == padding] = padding + 1
    batch["token_ids"] = np.where(batch["padding_mask"], ids, padding).astype("int32")
    return batch


def their_outputs(theirs, batch):
    arguments = {
        "input_ids": torch.tensor(batch["token_ids"]).long(),
        "attention_mask": torch.tensor(batch["padding_mask"]),
    }
    if theirs.config.model_type != "distilbert":
        arguments["token_type_ids"] = torch.tensor(batch["segment_ids"]).long()
    with torch.no_grad():
        found = theirs(**arguments)
    return {key: value.numpy() for key, value in found.items()}


def compare(theirs, ours, head, seed, record=None):
    """Runs both on one batch; only tokens that are no padding count."""
    batch = batch_for(theirs.config, seed)
    expected = their_outputs(theirs, batch)
    keep = batch["padding_mask"][..., None]
    if head in ("ForMaskedLM", "ForPreTraining"):
        lengths = batch["padding_mask"].sum(1, keepdims=True)
        draw = np.random.default_rng(seed)
        batch["mask_positions"] = (draw.integers(0, 997, (5, 7)) % lengths).astype("i4")
    batch = {key: batch[key] for key in ours.input}
    found = outputs_of(ours, batch)
    if head in ("ForMaskedLM", "ForPreTraining"):
        logits = expected.get("prediction_logits", expected.get("logits"))
        places = batch["mask_positions"][..., None]
        wanted = {"masked_lm": np.take_along_axis(logits, places, 1)}
        if head == "ForPreTraining":
            pair = {"bert": "next_sentence", "albert": "sentence_order"}
            field = {"bert": "seq_relationship_logits", "albert": "sop_logits"}
            family = theirs.config.model_type
            wanted[pair[family]] = expected[field[family]]
    elif head == "ForQuestionAnswering":
        wanted = {"start": expected["start_logits"], "end": expected["end_logits"]}
        wanted = {key: value * keep[..., 0] for key, value in wanted.items()}
        found = {key: value * keep[..., 0] for key, value in found.items()}
    elif head == "Model":
        wanted = {"sequence_output": expected["last_hidden_state"] * keep}
        found = {**found, "sequence_output": found["sequence_output"] * keep}
        if theirs.config.model_type in WITHOUT_POOLER:
            del found["pooled_output"]
        else:
            wanted["pooled_output"] = expected["pooler_output"]
    else:
        keep = keep if head == "ForTokenClassification" else 1
        wanted, found = {"logits": expected["logits"] * keep}, {"logits": found * keep}
    assert_close(found, wanted, record)


def assert_equal_tensors(one, other):
    one, other = (
        safetensors_numpy.load_file(folder / "model.safetensors")
        for folder in (one, other)
    )
    assert sorted(one) == sorted(other)
    for name in one:
        assert one[name].dtype == other[name].dtype, name
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def opened_by_transformers(folder, kind):
    found, report = getattr(transformers, kind).from_pretrained(
        folder, output_loading_info=True
    )
    wrong = {key: value for key, value in report.items() if value}
    assert not wrong, wrong
    return found.eval()


def assert_equal_configs(one, other):
    ignored = ("transformers_version", "_name_or_path", "initializer_range")
    one, other = one.to_dict(), other.to_dict()
    for field in ignored:
        one.pop(field, None)
        other.pop(field, None)
    assert one == other


@pytest.mark.parametrize(
    ("family", "head", "seed"),
    [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)],
)
def test_both_ways(family, head, seed, tmp_path, record_property):
    theirs = write_theirs(tmp_path / "theirs", family, head, seed)
    lacks_pooler = head == "Model" and family in WITHOUT_POOLER
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        ours = load_huggingface(tmp_path / "theirs")
        save_huggingface(ours, tmp_path / "ours")
    told = [str(x.message) for x in told if x.category is UserWarning]
    assert len(told) == (2 if lacks_pooler else 0), told
    assert all("pooler/dense/kernel" in message for message in told)
    compare(theirs, ours, head, seed, record_property)

    assert_equal_tensors(tmp_path / "theirs", tmp_path / "ours")
    back = opened_by_transformers(tmp_path / "ours", NAMES[family] + head)
    assert_equal_configs(theirs.config, back.config)
    batch = batch_for(theirs.config, seed)
    before, after = their_outputs(theirs, batch), their_outputs(back, batch)
    for key in before:
        np.testing.assert_array_equal(before[key], after[key])
    if head == "ForTokenClassification":
        assert list(ours.class_names) == LABELS


def test_regression_and_several_labels(tmp_path):
    for more in (
        {"num_labels": 1, "problem_type": "regression"},
        {"num_labels": 3, "problem_type": "multi_label_classification"},
    ):
        config = their_config("bert", 3, **more)
        theirs = transformers.BertForSequenceClassification(config)
        theirs = randomize(theirs, 3)
        theirs.save_pretrained(tmp_path / "theirs")
        ours = load_huggingface(tmp_path / "theirs")
        compare(theirs, ours, "ForSequenceClassification", 3)
        save_huggingface(ours, tmp_path / "ours")
        written = json.loads((tmp_path / "ours" / "config.json").read_text("utf-8"))
        assert written["problem_type"] == more["problem_type"]
        assert len(written["id2label"]) == more["num_labels"]


def test_electra_discriminator_is_an_encoder(tmp_path):
    config = their_config("electra", 7)
    theirs = randomize(transformers.ElectraForPreTraining(config), 7)
    theirs.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="discriminator_predictions.dense.bias"):
        ours = load_huggingface(tmp_path)
    compare(theirs.electra.eval(), ours, "Model", 7)


@pytest.mark.parametrize(("activation", "inner"), [("gelu_new", None), ("relu", 43)])
def test_gpt2_both_ways(activation, inner, tmp_path, record_property):
    config = transformers.GPT2Config(
        vocab_size=53,
        n_positions=19,
        n_embd=15,
        n_layer=2,
        n_head=3,
        n_inner=inner,
        activation_function=activation,
        resid_pdrop=0.11,
        embd_pdrop=0.11,
        attn_pdrop=0.13,
        bos_token_id=3,
        eos_token_id=5,
    )
    theirs = randomize(transformers.GPT2LMHeadModel(config), 8)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_huggingface(tmp_path / "theirs")
    batch = random_batch({"vocabulary_size": 53, "num_segments": 1}, 8)
    batch.pop("segment_ids")
    keep = batch["padding_mask"][..., None]

    def logits(model):
        ids = torch.tensor(batch["token_ids"]).long()
        with torch.no_grad():
            mask = torch.tensor(batch["padding_mask"])
            return model(input_ids=ids, attention_mask=mask).logits.numpy() * keep

    assert_close(
        {"logits": outputs_of(ours, batch) * keep},
        {"logits": logits(theirs)},
        record_property,
    )
    save_huggingface(ours, tmp_path / "ours")
    assert_equal_tensors(tmp_path / "theirs", tmp_path / "ours")
    back = opened_by_transformers(tmp_path / "ours", "GPT2LMHeadModel")
    assert_equal_configs(config, back.config)
    np.testing.assert_array_equal(logits(back), logits(theirs))


def marian_config(is_shared, **more):
    return transformers.MarianConfig(
        vocab_size=53,
        decoder_vocab_size=53 if is_shared else 47,
        share_encoder_decoder_embeddings=is_shared,
        d_model=14,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=7,
        decoder_attention_heads=7,
        encoder_ffn_dim=29,
        decoder_ffn_dim=29,
        activation_function="silu",
        max_position_embeddings=23,
        pad_token_id=1,
        eos_token_id=0,
        decoder_start_token_id=1,
        forced_eos_token_id=0,
        **{"scale_embedding": True, **more},
    )


def marian_batch(seed):
    draw = np.random.default_rng(seed)
    batch = {}
    for side, length in (("encoder", 17), ("decoder", 13)):
        lengths = draw.integers(1, length + 1, (5, 1))
        mask = (np.arange(length) < lengths).astype("int32")
        batch[f"{side}_token_ids"] = draw.integers(0, 47, mask.shape, "int32")
        batch[f"{side}_padding_mask"] = mask
    return batch


def marian_logits(model, batch):
    with torch.no_grad():
        return model(
            input_ids=torch.tensor(batch["encoder_token_ids"]).long(),
            attention_mask=torch.tensor(batch["encoder_padding_mask"]),
            decoder_input_ids=torch.tensor(batch["decoder_token_ids"]).long(),
            decoder_attention_mask=torch.tensor(batch["decoder_padding_mask"]),
            use_cache=False,
        ).logits.numpy()


@pytest.mark.parametrize("is_shared", [True, False], ids=["one table", "two tables"])
def test_marian_both_ways(is_shared, tmp_path, record_property):
    """Sines before cosines, a bias for every token, one table or two."""
    config = marian_config(is_shared)
    theirs = randomize(transformers.MarianMTModel(config), 9)
    with torch.no_grad():
        theirs.final_logits_bias.normal_()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_huggingface(tmp_path / "theirs")
    batch = marian_batch(9)
    expected = {"logits": marian_logits(theirs, batch)}
    assert_close({"logits": outputs_of(ours, batch)}, expected, record_property)

    save_huggingface(ours, tmp_path / "ours")
    assert_equal_tensors(tmp_path / "theirs", tmp_path / "ours")
    back = opened_by_transformers(tmp_path / "ours", "MarianMTModel")
    assert_equal_configs(config, back.config)
    np.testing.assert_array_equal(marian_logits(back, batch), expected["logits"])


OUR_SIZES = {
    "vocabulary_size": 41,
    "num_layers": 2,
    "num_heads": 3,
    "hidden_dim": 21,
    "intermediate_dim": 19,
    "max_sequence_length": 17,
}


def own_encoder(family):
    if family == "albert":
        return kt.models.albert_encoder(**OUR_SIZES, embedding_dim=5, num_groups=2)
    return kt.models.bert_encoder(**OUR_SIZES)


@pytest.mark.parametrize(
    ("family", "head"),
    [
        ("bert", "ForSequenceClassification"),
        ("albert", "ForPreTraining"),
        *(
            pytest.param(family, head, marks=pytest.mark.slow)
            for family in ("albert", "bert")
            for head in HEADS
            if head != "ForMaskedLM"
        ),
    ],
)
def test_models_that_were_built_here(family, head, tmp_path):
    """Never loaded: the configuration comes from the layers alone."""
    encoder = own_encoder(family)
    ours = {
        "ForPreTraining": getattr(kt.models, f"{family}_pretrainer"),
        "ForSequenceClassification": lambda x: kt.models.sequence_classifier(
            x, num_classes=3, dropout=0.3
        ),
        "ForTokenClassification": lambda x: kt.models.token_classifier(
            x, num_classes=5
        ),
        "ForQuestionAnswering": kt.models.span_classifier,
        "Model": lambda x: x,
    }[head](encoder)
    save_huggingface(ours, tmp_path)
    theirs = opened_by_transformers(tmp_path, NAMES[family] + head)
    # Ours hides padding with -30, theirs with the lowest float; the scores are small.
    compare(theirs, ours, head, 10)
    if head == "ForSequenceClassification":
        field = "classifier_dropout" + "_prob" * (family == "albert")
        assert getattr(theirs.config, field) == 0.3


@pytest.mark.parametrize(
    "use_attention_bias", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_transformer_that_was_built_here(use_attention_bias, tmp_path):
    sizes = {**OUR_SIZES, "num_heads": 2, "hidden_dim": 14, "vocabulary_size": 47}
    ours = kt.models.transformer(
        **sizes, layer_norm_epsilon=1e-5, use_attention_bias=use_attention_bias
    )
    save_huggingface(ours, tmp_path)
    theirs = opened_by_transformers(tmp_path, "MarianMTModel")
    batch = marian_batch(11)
    assert_close(
        {"logits": outputs_of(ours, batch)}, {"logits": marian_logits(theirs, batch)}
    )
    again = load_huggingface(tmp_path)
    assert_close(
        {"logits": outputs_of(again, batch)}, {"logits": outputs_of(ours, batch)}
    )


def test_causal_lm_that_was_built_here(tmp_path):
    ours = kt.models.causal_lm(**OUR_SIZES)
    save_huggingface(ours, tmp_path)
    theirs = opened_by_transformers(tmp_path, "GPT2LMHeadModel")
    ids = np.random.default_rng(12).integers(0, 41, (3, 11), "int32")
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor(ids).long()).logits.numpy()
    batch = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    assert_close({"logits": outputs_of(ours, batch)}, {"logits": expected})


@pytest.mark.slow
def test_pruned_and_fine_tuned(tmp_path):
    model = kt.models.sequence_classifier(own_encoder("bert"), num_classes=3)
    model = kt.compress.prune_low_magnitude(model, lambda step: (step <= 2, 0.5))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    ids = np.random.default_rng(13).integers(1, 41, (8, 13), "int32")
    batch = {"token_ids": ids, "segment_ids": ids % 2, "padding_mask": ids > 0}
    model.fit(batch, ids[:, 0] % 3, batch_size=4, verbose=0)
    with pytest.raises(ValueError, match=r"strip_pruning\(model\)"):
        save_huggingface(model, tmp_path / "pruned")
    assert not (tmp_path / "pruned").exists()

    model = kt.compress.strip_pruning(model)
    save_huggingface(model, tmp_path / "stripped", class_names=["red", "green", "blue"])
    kind = "BertForSequenceClassification"
    theirs = opened_by_transformers(tmp_path / "stripped", kind)
    assert theirs.config.id2label == {0: "red", 1: "green", 2: "blue"}
    zeros = theirs.bert.encoder.layer[1].intermediate.dense.weight == 0
    assert abs(float(zeros.float().mean()) - 0.5) < 0.01
    compare(theirs, model, "ForSequenceClassification", 13)


def test_shards(tmp_path):
    config = their_config("bert", 3, **HEADS["ForTokenClassification"])
    theirs = randomize(transformers.BertForTokenClassification(config), 3)
    theirs.save_pretrained(tmp_path, max_shard_size="9KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    compare(theirs, load_huggingface(tmp_path), "ForTokenClassification", 3)

    shards[1].unlink()
    with pytest.raises(ValueError, match=f"shard '{shards[1].name}'.* is missing"):
        load_huggingface(tmp_path)


@pytest.mark.parametrize("in_shards", [False, True], ids=["one file", "shards"])
def test_bin_with_old_names(in_shards, tmp_path):
    """As the first releases: a pickle, gamma and beta, no prefix, buffers, old head."""
    theirs = write_theirs(tmp_path, "bert", "ForPreTraining", 4)
    state = {}
    for name, value in theirs.state_dict().items():
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        state[name.replace("LayerNorm.bias", "LayerNorm.beta")] = value.clone()
    assert "cls.predictions.decoder.weight" in state  # Repeats the table.
    state["bert.embeddings.position_ids"] = torch.arange(23)[None]
    if in_shards:
        names = sorted(state)
        weight_map = {name: f"part-{i % 2}.bin" for i, name in enumerate(names)}
        for part in set(weight_map.values()):
            kept = {name: state[name] for name in names if weight_map[name] == part}
            torch.save(kept, tmp_path / part)
        index = {"metadata": {}, "weight_map": weight_map}
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    else:
        torch.save(
            state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False
        )
    os.remove(tmp_path / "model.safetensors")
    compare(theirs, load_huggingface(tmp_path), "ForPreTraining", 4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype, tmp_path):
    theirs = write_theirs(tmp_path, "albert", "ForMaskedLM", 5)
    theirs.to(getattr(torch, dtype)).save_pretrained(tmp_path)
    ours = load_huggingface(tmp_path)
    assert {weight.dtype for weight in ours.weights} == {"float32"}
    # The halves are widened on both sides; both compute in float32.
    compare(theirs.float(), ours, "ForMaskedLM", 5)

    torch.save(theirs.to(getattr(torch, dtype)).state_dict(), tmp_path / "w.bin")
    os.remove(tmp_path / "model.safetensors")
    os.rename(tmp_path / "w.bin", tmp_path / "pytorch_model.bin")
    compare(theirs.float(), load_huggingface(tmp_path), "ForMaskedLM", 5)


def test_base_models_without_prefix(tmp_path):
    """The base classes leave the first word of every name out; heads start afresh."""
    theirs = write_theirs(tmp_path, "roberta", "Model", 6)
    with pytest.warns(UserWarning, match="keep their initial value.*classifier/bias"):
        ours = load_huggingface(tmp_path, task="token_classifier", num_classes=11)
    assert ours.output.shape == (None, None, 11)
    encoder = load_huggingface(tmp_path, task="encoder")
    compare(theirs, encoder, "Model", 6)


def test_untied_tables(tmp_path):
    theirs = write_theirs(tmp_path, "bert", "ForMaskedLM", 7, tie_word_embeddings=False)
    with pytest.raises(ValueError, match="tie_word_embeddings=False"):
        load_huggingface(tmp_path)
    load = pytest.warns(UserWarning, match="cls.predictions.bias")
    with load:  # Without that head it does not matter.
        load_huggingface(tmp_path, task="encoder")
    with torch.no_grad():
        decoder = theirs.cls.predictions.decoder
        decoder.weight.copy_(theirs.bert.embeddings.word_embeddings.weight)
        decoder.bias.copy_(theirs.cls.predictions.bias)
    theirs.save_pretrained(tmp_path)
    compare(theirs, load_huggingface(tmp_path), "ForMaskedLM", 7)


def test_tokenizer_files(tmp_path):
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] the cat sat ##s on , Cat".split()
    for lowercase in (True, False):
        folder = tmp_path / str(lowercase)
        tokenizer = kt.text.WordPieceTokenizer(words, lowercase=lowercase)
        save_huggingface(own_encoder("bert"), folder, tokenizer=tokenizer)
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        text = "The Cat cats, on the unknown"
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert list(tokenizer.encode([text])[0]) == ids
        assert theirs.model_max_length == 17


@pytest.mark.parametrize("theirs", sorted(kt.checkpoints.config_fields.ACTIVATIONS))
def test_activations(theirs):
    from transformers.activations import ACT2FN

    from keras_tformer.layers.activations import get_activation

    x = np.linspace(-9, 9, 1009, dtype="float32")
    ours = get_activation(kt.checkpoints.config_fields.ACTIVATIONS[theirs])(x)
    expected = ACT2FN[theirs](torch.tensor(x)).numpy()
    assert np.abs(keras.ops.convert_to_numpy(ours) - expected).max() < 1e-5


ON_JAX = """
import sys
import numpy as np
from keras_tformer.checkpoints import load_huggingface, save_huggingface
model = load_huggingface(sys.argv[1])
save_huggingface(model, sys.argv[1] + "-again")
assert "tensorflow" not in sys.modules and "torch" not in sys.modules
batch = dict(np.load(sys.argv[1] + "/batch.npz"))
np.save(sys.argv[1] + "/logits.npy", model.predict_on_batch(batch))
assert "tensorflow" not in sys.modules
"""


@pytest.mark.slow
def test_on_jax_without_tensorflow(tmp_path):
    pytest.importorskip("jax", reason="the [reference] extra is not installed")
    folder = tmp_path / "theirs"
    theirs = write_theirs(folder, "bert", "ForSequenceClassification", 8)
    batch = batch_for(theirs.config, 8)
    np.savez(folder / "batch.npz", **batch)
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    subprocess.run(
        [sys.executable, "-c", ON_JAX, str(folder)], env=environment, check=True
    )
    assert_equal_tensors(folder, tmp_path / "theirs-again")
    found = np.load(folder / "logits.npy")
    expected = their_outputs(theirs, batch)["logits"]
    assert np.abs(found - expected).max() < TOLERANCE
