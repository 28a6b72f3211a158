"""What a TPU needs, tried without one.

A TPU runs what XLA compiles, with shapes that are known beforehand. Here XLA for CPUs
translates whole training steps (forward, backward, clipping, AdamW, dropout), fed by
the datasets that the models are trained on.
"""

import re

import keras
import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="a TPU strategy needs TensorFlow")
pytest.importorskip("tokenizers", reason="the engine on the host")
if keras.backend.backend() != "tensorflow":
    pytest.skip("tf.distribute needs the TensorFlow backend", allow_module_level=True)

from keras_tformer import data, models, training  # noqa: E402
from keras_tformer.data.tables import Examples  # noqa: E402
from keras_tformer.data.tagging import TaggedSentence  # noqa: E402
from keras_tformer.text import WordPieceTokenizer  # noqa: E402

TOKENIZER = WordPieceTokenizer("[PAD] [UNK] [CLS] [SEP] [MASK] a b c d e".split())
SIZES = {
    "vocabulary_size": 10,
    "num_layers": 1,
    "num_heads": 2,
    "hidden_dim": 14,
    "intermediate_dim": 11,
    "dropout": 0.1,
    "attention_dropout": 0.1,
}
TEXTS = ["a b", "c", "d e a b", "e", "a"]
DOCUMENTS = [["A b c d e. B c d."], ["E d c b a. D c b a e."], ["C c a b. E a."]]
T, B, P = 13, 2, 3


def bert():
    return models.bert_encoder(**SIZES, max_sequence_length=T, sequence_length=T)


def albert():
    return models.albert_encoder(
        **SIZES, embedding_dim=5, max_sequence_length=T, sequence_length=T
    )


def pairs(read, build, encoder):
    dataset = read(DOCUMENTS, TOKENIZER, T, B, max_predictions=P, num_epochs=1)
    return build(encoder(), max_predictions=P), dataset


def masked_lm():
    model, dataset = pairs(data.sentence_order_dataset, models.masked_lm, albert)

    def keep(inputs, labels, weights):
        return inputs, *({"masked_lm": x["masked_lm"]} for x in (labels, weights))

    return model, dataset.map(keep)


def classification():
    examples = Examples(TEXTS, TEXTS, list("xyxyx"), ["x", "y"], [2, 2], {})
    task = data.table_task(examples, TOKENIZER, T, B, drop_remainder=True)
    return models.sequence_classifier(albert(), num_classes=2), task.dataset


def regression():
    examples = Examples(TEXTS, None, [0.5, 1.5, -2.0, 0.0, 1.0], [], [], {})
    task = data.table_task(examples, TOKENIZER, T, B, drop_remainder=True)
    return models.sequence_classifier(bert(), num_classes=1), task.dataset


def tagging():
    sentences = [TaggedSentence(text.split(), text.split()) for text in TEXTS]
    task = data.tagging_task(sentences, TOKENIZER, T, B, drop_remainder=True)
    return models.token_classifier(bert(), num_classes=5), task.dataset


def question_answering():
    questions = [
        data.squad.Question(str(n), "a b", "a b c d e", ["c d"], [4]) for n in range(3)
    ]
    task = data.question_answering_task(
        questions, TOKENIZER, T, B, doc_stride=3, drop_remainder=True
    )
    return models.span_classifier(bert()), task.dataset


def translation():
    task = data.translation_task(
        *(TEXTS, TEXTS[::-1], TOKENIZER),
        tokens_per_batch=B * T,
        bucket_lengths=(T,),
        drop_remainder=True,
    )
    lengths = {"encoder_sequence_length": T, "decoder_sequence_length": T}
    return models.transformer(**SIZES, **lengths), task.dataset


def language_modelling():
    task = data.language_modelling_task(TEXTS * 9, TOKENIZER, T, B, drop_remainder=True)
    model = models.causal_lm(**SIZES, max_sequence_length=T, sequence_length=T)
    return model, task.dataset


TASKS = {
    "masked_lm": masked_lm,
    "bert_pretrainer": lambda: pairs(
        data.next_sentence_dataset, models.bert_pretrainer, bert
    ),
    "albert_pretrainer": lambda: pairs(
        data.sentence_order_dataset, models.albert_pretrainer, albert
    ),
    "sequence_classifier": classification,
    "regressor": regression,
    "token_classifier": tagging,
    "span_classifier": question_answering,
    "transformer": translation,
    "causal_lm": language_modelling,
}


def step_and_batch(name, policy):
    """The compiled training step of a task's model, and a batch of its dataset."""
    keras.config.set_dtype_policy(policy)
    try:
        model, dataset = TASKS[name]()
    finally:
        keras.config.set_dtype_policy("float32")
    schedule = training.LinearWarmup(1e-3, warmup_steps=3, total_steps=10)
    model.compile(
        training.adamw(schedule, global_clipnorm=1.0),
        **training.compile_arguments(name),
    )
    batch = next(iter(dataset))
    model._symbolic_build(data_batch=batch)
    return tf.function(model.train_step, jit_compile=True), batch


def assert_known_beforehand(dataset):
    for spec in tf.nest.flatten(dataset.element_spec):
        assert spec.shape.is_fully_defined(), spec
        assert spec.shape[0] == B
        # No strings; 64-bit numbers would be emulated.
        assert spec.dtype in (tf.int32, tf.float32), spec


@pytest.mark.parametrize("name", TASKS)
def test_batches_have_shapes_that_are_known_beforehand(name):
    _, dataset = TASKS[name]()
    assert_known_beforehand(dataset)


def test_so_do_batches_from_records(tmp_path):
    data.write_pretraining_records(DOCUMENTS, tmp_path, TOKENIZER, T)
    dataset = data.pretraining_records_dataset(
        tmp_path, TOKENIZER, B, max_predictions=P
    )
    assert_known_beforehand(dataset)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("name", TASKS)
def test_xla_translates_the_whole_training_step(name, policy):
    step, batch = step_and_batch(name, policy)
    # Strings and Python functions in the step are an error here.
    hlo = step.experimental_get_compiler_ir(batch)(stage="hlo")
    dots = re.findall(r"= (\w+)\[[^\]]*\]\S* dot\(", hlo)
    assert len(dots) > 15
    if policy == "mixed_bfloat16":
        assert set(dots) == {"bf16"}
    # An axis whose length is known only while it runs is written [<=8].
    assert re.search(r"\[[^\]]*<=", hlo) is None
    assert "f64[" not in hlo
    for word in ("custom-call(", "infeed(", "outfeed(", " send(", " recv("):
        assert word not in hlo


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_the_compiled_step_trains(policy):
    step, batch = step_and_batch("bert_pretrainer", policy)
    losses = [float(step(batch)["loss"]) for _ in range(12)]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


def test_the_check_sees_what_a_tpu_refuses():
    @tf.function(jit_compile=True)
    def of_unknown_length(x):
        return tf.boolean_mask(x, x > 0)

    hlo = of_unknown_length.experimental_get_compiler_ir(tf.constant([1.0, -1.0]))(
        stage="hlo"
    )
    assert re.search(r"\[[^\]]*<=", hlo)
