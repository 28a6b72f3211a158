"""Trains one ALBERT classifier on several machines, or on one that plays several.

In two terminals of one machine, side by side (the order does not matter):

    export TF_CONFIG='{"cluster": {"worker": ["localhost:12345", "localhost:12346"]},
                       "task": {"type": "worker", "index": 0}}'
    python examples/train_multi_worker.py --output first

    export TF_CONFIG='{"cluster": {"worker": ["localhost:12345", "localhost:12346"]},
                       "task": {"type": "worker", "index": 1}}'
    python examples/train_multi_worker.py --output second

On several machines write their names for `localhost`, on each the same list and its own
index. Without TF_CONFIG the same script trains on what this machine has: its GPUs, or
its CPU. Every worker runs to the end; only the first writes. If one is killed, the
others end with an error: start all again with the same commands, and they go on at the
last checkpoint. `examples/multi_worker/` starts it under SLURM and on Kubernetes.
"""

import argparse
import pathlib

import keras
import tensorflow as tf

import keras_tformer as kt


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--output", type=pathlib.Path, default=pathlib.Path("multi_worker_output"))
    add("--epochs", type=int, default=2)
    add("--steps", type=int, default=100, help="batches an epoch")
    add("--batch-size", type=int, default=32, help="of all workers together")
    add("--sequence-length", type=int, default=48)
    options = parser.parse_args(arguments)

    # 1. First of all: the workers meet before TensorFlow does anything else.
    strategy = kt.distribute.get_strategy("auto", timeout_seconds=300)
    keras.utils.set_random_seed(1)  # the same on every worker

    # 2. Every worker makes the same dataset; the strategy gives each its rows of every
    #    batch. With files, FILE instead of DATA gives each worker its own files.
    texts, labels = kt.data.texts_and_labels(kt.data.embedded_corpus())
    classes = sorted(set(labels))
    tokenizer = kt.text.WordPieceTokenizer.train(texts, vocabulary_size=3000)
    dataset = kt.data.classification_dataset(
        texts,
        labels,
        tokenizer,
        options.sequence_length,
        options.batch_size,
        classes,
        shuffle=True,
    )
    sharding = tf.data.Options()
    sharding.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    dataset = dataset.repeat().with_options(sharding)

    # 3. Model, optimizer and metrics are made under the strategy, ...
    with strategy.scope():
        encoder = kt.models.albert_encoder(
            vocabulary_size=tokenizer.vocabulary_size,
            embedding_dim=64,
            hidden_dim=128,
            num_layers=3,
            num_heads=2,
            intermediate_dim=512,
            max_sequence_length=options.sequence_length,
        )
        model = kt.models.sequence_classifier(encoder, num_classes=len(classes))
        total = options.epochs * options.steps
        model.compile(
            kt.training.adamw(kt.training.LinearWarmup(1e-3, total // 10, total)),
            **kt.training.compile_arguments("sequence_classifier", len(classes)),
        )

    # 4. ... and `fit` is called by every worker.
    is_first = strategy.extended.should_checkpoint
    model.fit(
        dataset,
        epochs=options.epochs,
        steps_per_epoch=options.steps,
        verbose=2 if is_first else 0,
        callbacks=[
            kt.training.ResumeFromCheckpoint(
                options.output / "checkpoints", every_steps=20, saves_on_sigterm=True
            )
        ],
    )
    if is_first:
        model.save(options.output / "model.keras")
        print(f"saved {options.output / 'model.keras'}")


if __name__ == "__main__":
    main()
