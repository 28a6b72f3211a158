"""Trains on JAX's virtual devices; `test_jax_training.py` runs it in own processes.

`jax_training.py compare FOLDER` trains each kind of model under layouts and prints how
far it ends from one device; `jax_training.py worker FOLDER RANK ADDRESS` is one of two
processes that train together, `jax_training.py alone FOLDER` the same in one;
`jax_training.py refuse` prints what wrong requests are told.
"""

import json
import sys

import keras
import numpy as np

import keras_tformer as kt

BATCH, STEPS, LENGTH, PREDICTIONS, VOCABULARY = 8, 20, 5, 3, 40
SIZES = {"num_layers": 1, "num_heads": 8, "hidden_dim": 16, "intermediate_dim": 24}
NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0}
LAYOUTS = {
    "one_device": None,
    "data": ("data_parallel", None),
    "model": ("model_parallel", 8),
    "hybrid": ("model_parallel", 4),
}


def bert(**changes):
    sizes = {"vocabulary_size": VOCABULARY, **SIZES, **NO_DROPOUT, **changes}
    return kt.models.bert_encoder(max_sequence_length=7, **sizes)


def albert():
    return kt.models.albert_encoder(
        vocabulary_size=VOCABULARY, embedding_dim=8, **SIZES, **NO_DROPOUT
    )


MODELS = {
    "bert_pretrainer": lambda: kt.models.bert_pretrainer(bert()),
    # A vocabulary that 4 does not divide: the table is split by columns. Heads that 4
    # does not divide: each is cut in two, which is slower and as right.
    "masked_lm": lambda: kt.models.masked_lm(bert(vocabulary_size=37, num_heads=2)),
    "albert_pretrainer": lambda: kt.models.albert_pretrainer(albert(), dropout=0.0),
    "transformer": lambda: kt.models.transformer(
        vocabulary_size=VOCABULARY, **SIZES, **NO_DROPOUT
    ),
    "causal_lm": lambda: kt.models.causal_lm(
        vocabulary_size=VOCABULARY, max_sequence_length=7, **SIZES, **NO_DROPOUT
    ),
}


def examples(task, model):
    """Inputs, labels and weights; parts of a batch hold unequal counts of tokens."""
    random = np.random.default_rng(0)
    count = BATCH * STEPS

    def integers(end, *shape):
        return random.integers(0, end, (count, *shape)).astype("int32")

    x = {name: integers(37, LENGTH) for name in model.input}
    kept = np.arange(LENGTH) < random.integers(1, LENGTH + 1, (count, 1))
    for name in x:
        if name.endswith("padding_mask"):
            x[name] = kept.astype("int32")
    if "segment_ids" in x:
        x["segment_ids"] = integers(2, LENGTH)
    if "mask_positions" in x:
        x["mask_positions"] = integers(LENGTH, PREDICTIONS)
    if task in ("masked_lm", "bert_pretrainer", "albert_pretrainer"):
        y = {"masked_lm": integers(37, PREDICTIONS)}
        # The first rows of a batch predict one token, the last ones all.
        few = np.arange(count) % BATCH < BATCH // 2
        counts = np.where(few, 1, PREDICTIONS)[:, None]
        weights = {"masked_lm": (np.arange(PREDICTIONS) < counts).astype("float32")}
        for name in set(model.output) - {"masked_lm"}:
            y[name], weights[name] = integers(2), np.ones(count, "float32")
        return x, y, weights
    return x, integers(37, LENGTH), kept.astype("float32")


def build(task):
    keras.utils.set_random_seed(0)
    model = MODELS[task]()
    model.compile(
        kt.training.adamw(1e-3, global_clipnorm=1.0),
        **kt.training.compile_arguments(task),
    )
    return model


def values(model):
    return [np.asarray(weight.value) for weight in model.weights]


def fit(model, x, y, weights, batch_size=BATCH):
    return model.fit(
        x, y, sample_weight=weights, batch_size=batch_size, shuffle=False, verbose=0
    ).history["loss"][0]


def layout(name, model_dim):
    return kt.distribute.get_distribution(name, model_dim=model_dim)


def compare(folder):
    report = {}
    for task in MODELS:
        # All models are alike to the other layouts.
        names = LAYOUTS if task == "bert_pretrainer" else ("one_device", "hybrid")
        for name in names:
            arguments = LAYOUTS[name]
            keras.distribution.set_distribution(arguments and layout(*arguments))
            model = build(task)
            start = values(model)
            loss = fit(model, *examples(task, model))
            end = values(model)
            if name == "one_device":
                expected, expected_loss = end, loss
            pairs = list(zip(end, expected, strict=True))
            moves = list(zip(end, start, strict=True))
            report[f"{task} {name}"] = {
                "difference": max(float(abs(a - b).max()) for a, b in pairs),
                "loss_difference": abs(loss - expected_loss),
                "moved": max(float(abs(a - b).max()) for a, b in moves),
                "shards": {
                    w.path: list(w.value.sharding.shard_shape(w.value.shape))
                    for w in model.weights
                },
                "slots": {
                    v.path.split("/")[1]: list(
                        v.value.sharding.shard_shape(v.value.shape)
                    )
                    for v in model.optimizer.variables[2:]
                },
                "expected": {
                    path: list(shape)
                    for path, shape in kt.distribute.weight_shards(
                        model, arguments[1]
                    ).items()
                }
                if arguments and arguments[1] and task != "masked_lm"
                else {},
            }
            if task == "bert_pretrainer" and name == "hybrid":
                model.save(f"{folder}/sharded.keras")
                np.savez(f"{folder}/sharded.npz", *end)
                keras.distribution.set_distribution(None)
                back = keras.saving.load_model(f"{folder}/sharded.keras")
                report["reloaded"] = {
                    "equal": all(map(np.array_equal, values(back), end)),
                    "devices": max(len(w.value.devices()) for w in back.weights),
                }
    return report


def train_masked_lm(folder, file, rank=0, workers=1):
    from jax.experimental.multihost_utils import process_allgather

    losses = {}
    for name in ("data", "hybrid"):
        keras.distribution.set_distribution(layout(*LAYOUTS[name]))
        model = build("masked_lm")
        # Each process reads its own rows of every batch.
        keras.distribution.distribution().auto_shard_dataset = False
        mine = np.arange(BATCH * STEPS) % BATCH * workers // BATCH == rank
        data = keras.tree.map_structure(lambda a: a[mine], examples("masked_lm", model))  # noqa: B023
        losses[name] = fit(model, *data, batch_size=BATCH // workers)
        # A weight whose parts lie in other processes' devices is whole in none of them.
        whole = [process_allgather(w.value, tiled=True) for w in model.weights]
        np.savez(f"{folder}/{file}_{name}.npz", *whole)
    return losses


def refuse():
    """What wrong requests are told, by name."""

    def told(action):
        try:
            action()
        except ValueError as error:
            return str(error)
        return "nothing"

    def under(name, action):
        def run():
            keras.distribution.set_distribution(name and layout(*LAYOUTS[name]))
            action()

        return told(run)

    def short_batch(task="causal_lm"):
        model = build(task)
        fit(model, *examples(task, model), batch_size=7)

    def encoder(**changes):
        sizes = {"vocabulary_size": VOCABULARY, **SIZES, **changes}
        return lambda: kt.models.bert_encoder(**sizes)

    def late(name):
        keras.distribution.set_distribution(None)
        model = build("causal_lm")
        return under(name, lambda: fit(model, *examples("causal_lm", model)))

    return {
        "devices": told(lambda: layout("model_parallel", 3)),
        "needless": told(lambda: layout("data_parallel", 2)),
        "data_batch": under("data", short_batch),
        "hybrid_batch": under("hybrid", short_batch),
        "late_data": late("data"),
        "late_model": late("model"),
        "heads": under("model", encoder(num_heads=2, hidden_dim=20)),
        "intermediate": under("hybrid", encoder(intermediate_dim=26)),
        "vocabulary": under("model", encoder(vocabulary_size=37, embedding_dim=6)),
    }


if __name__ == "__main__":
    action, *arguments = sys.argv[1:]
    if action == "worker":
        folder, rank, address = arguments
        keras.distribution.initialize(address, 2, int(rank))
        print(json.dumps(train_masked_lm(folder, f"worker_{rank}", int(rank), 2)))
    elif action == "alone":
        print(json.dumps(train_masked_lm(*arguments, "alone")))
    elif action == "compare":
        print(json.dumps(compare(*arguments)))
    else:
        print(json.dumps(refuse()))
