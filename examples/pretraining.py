"""What the two pretraining scripts share: options, data, phases, scores."""

import argparse
import contextlib
import json
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import run_options
import tensorflow as tf
from fine_tuning import draw_curves

import keras_tformer as kt


def parser(description, learning_rate):
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--data", help="text file or folder; default: the embedded corpus")
    add(
        "--vocabulary",
        type=pathlib.Path,
        help="vocab.txt or spiece.model; default: word pieces trained on the data",
    )
    add("--vocabulary-size", type=int, default=8000)
    add("--held-out-share", type=float, default=0.02, help="of the documents")
    add("--output", type=pathlib.Path, required=True)
    add(
        "--resume",
        action="store_true",
        help="go on with the run in --output, with the options it began with (see its "
        "options.json; the numbers of steps may change before the second phase)",
    )
    add("--size", default="cpu", help="cpu, or a published size such as base")
    add("--steps", type=int, default=2000, help="of the first phase")
    add("--second-steps", type=int, default=0, help="of the phase with long rows")
    add("--sequence-length", type=int, default=128)
    add("--second-sequence-length", type=int, default=512)
    add("--batch-size", type=int, default=32)
    add("--second-batch-size", type=int, default=8)
    add("--micro-batches", type=int, default=1, help="parts of a batch, for its memory")
    add("--optimizer", choices=("adamw", "lamb"), default="adamw")
    add("--learning-rate", type=float, default=learning_rate)
    add("--warmup-steps", type=int, help="default: a tenth of all steps")
    add("--masking", choices=("subword", "whole_word", "ngram"), default="whole_word")
    add("--mask-share", type=float, default=0.15)
    add("--sine-positions", action="store_true", help="short runs need it to learn")
    add("--jit-compile", action="store_true", help="XLA: for long runs, also on CPUs")
    add("--precision", default="float32", help="or mixed_bfloat16, mixed_float16")
    add("--epoch-steps", type=int, default=200, help="from one score to the next")
    add("--strategy", default="auto", help="a name for kt.distribute.get_strategy")
    add("--peak-tflops", type=float, help="the machine's, for MFU; default: measured")
    add("--seed", type=int, default=0)
    return made


def start(options):
    """Reads the corpus and the vocabulary.

    Returns:
        Train and held-out documents, and the tokenizer.
    """
    output = options.output
    if output.exists() and any(output.iterdir()) and not options.resume:
        raise SystemExit(
            f"{output} is not empty. Add --resume to go on with the run in it, or name "
            "another --output."
        )
    run_options.refuse_others(options, may_change(output))
    output.mkdir(parents=True, exist_ok=True)
    run_options.write(options)
    keras.config.set_dtype_policy(options.precision)
    keras.utils.set_random_seed(options.seed)
    if options.data is None:
        documents = kt.data.embedded_corpus()
    else:
        documents = kt.data.read_documents(options.data)
    documents = [
        kt.data.Document("", document.paragraphs)
        for document in kt.data.deduplicate(documents)
    ]
    shares = 1 - options.held_out_share, options.held_out_share
    train, held_out = kt.data.split_documents(documents, shares, seed=options.seed)
    print(f"{len(train)} documents to train on, {len(held_out)} held out")
    file = options.vocabulary or output / "vocab.txt"
    if file.suffix == ".model":
        tokenizer = kt.text.SentencePieceTokenizer(str(file))
        tokenizer.save(output / "spiece.model")
        return train, held_out, tokenizer
    if not file.exists():
        texts = (text for document in train for text in document.paragraphs)
        kt.text.WordPieceTokenizer.train(texts, options.vocabulary_size).save(file)
    tokenizer = kt.text.WordPieceTokenizer.load(file)
    tokenizer.save(output / "vocab.txt")
    return train, held_out, tokenizer


def may_change(output):
    """Names the options that may be others at --resume."""
    names = run_options.MAY_CHANGE | {"jit_compile", "peak_tflops", "strategy"}
    before = run_options.read(output)
    if not before or (output / "second_phase").exists():
        return names
    # Nor where a last, shorter epoch was trained: epochs are what the data counts by.
    is_even = before["steps"] % before["epoch_steps"] == 0
    return names | ({"steps", "second_steps"} if is_even else {"second_steps"})


def run(options, make_dataset, make_encoder, add_heads, task, documents, tokenizer):
    """Trains both phases, scores the held-out documents, writes the encoder.

    Args:
        options: what the parser gave.
        make_dataset: function like `kt.data.sentence_order_dataset`.
        make_encoder: function without arguments that builds the encoder.
        add_heads: function from the encoder to the pretraining model.
        task: name of the task for `kt.training.compile_arguments`.
        documents: pair of train and held-out documents.
        tokenizer: the tokenizer.
    """
    total = options.steps + options.second_steps
    with scope(options.strategy):
        encoder = make_encoder()
        if options.sine_positions:
            start_as_sines(encoder)
        model = add_heads(encoder)
        warmup = total // 10 if options.warmup_steps is None else options.warmup_steps
        schedule = kt.training.LinearWarmup(options.learning_rate, warmup, total)
        optimizer = getattr(kt.training, options.optimizer)(schedule)
        arguments = kt.training.compile_arguments(task)
        arguments["weighted_metrics"]["masked_lm"].append(kt.training.Perplexity())
        jit_compile = options.jit_compile or "auto"
        model.compile(optimizer, jit_compile=jit_compile, **arguments)
        if options.micro_batches != 1:
            kt.training.accumulate_gradients(model, options.micro_batches)
    histories, scores = {}, {}
    for name, steps, length, batch_size in (
        ("first", options.steps, options.sequence_length, options.batch_size),
        (
            "second",
            options.second_steps,
            options.second_sequence_length,
            options.second_batch_size,
        ),
    ):
        if not steps:
            continue
        resume = kt.training.ResumeFromCheckpoint(
            options.output / f"{name}_phase", passes_over_batches=False
        )
        settings = {
            "masking": options.masking,
            "mask_share": options.mask_share,
            "seed": options.seed,
        }
        sizes = tokenizer, length, batch_size
        held_out = make_dataset(documents[1], *sizes, num_epochs=1, **settings)
        stop = kt.training.StopOnNaN(options.output)
        # Keras' epochs are equally long; the steps left over are a `fit` of their own.
        epoch_steps = min(options.epoch_steps, steps)
        whole_epochs, rest = divmod(steps, epoch_steps)
        parts = [(whole_epochs, epoch_steps)]
        if rest:
            parts.append((whole_epochs + 1, rest))
        if resume.finished_epochs >= whole_epochs:
            parts = parts[-1:]
        for epochs, steps_per_epoch in parts:
            first_step = resume.finished_epochs * epoch_steps
            train = make_dataset(
                documents[0], *sizes, first_step=first_step, **settings
            )
            progress = kt.training.RichProgress(
                f"{name} phase, length {length}",
                tokens_per_step=batch_size * length,
                **flops(options, model, train.element_spec[0]),
            )
            model.fit(
                stop.watch(train),
                epochs=epochs,
                steps_per_epoch=steps_per_epoch,
                validation_data=held_out.cache(),
                shuffle=False,
                verbose=0,
                callbacks=[
                    progress,
                    stop,  # before what saves
                    resume,
                    keras.callbacks.TensorBoard(options.output / "logs" / name),
                ],
            )
        histories[name] = resume.history
        draw_curves(options.output / f"{name}_phase.png", resume.history)
        scores[name] = model.evaluate(held_out, verbose=0, return_dict=True)
        print(name, "phase, held out:", in_words(scores[name]))
    save(options.output, encoder, scores, histories)


def start_as_sines(encoder):
    """From random positions, short runs do not learn which tokens are neighbours."""
    positions = encoder.get_layer("embeddings").position_embedding.embeddings
    sines = kt.layers.SinusoidalPositionEncoding()
    positions.assign(0.1 * sines(keras.ops.zeros((1, *positions.shape)))[0])


def scope(strategy):
    """Where the model is made: a strategy of tf.distribute is TensorFlow's alone."""
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    return kt.distribute.get_strategy(strategy).scope()


def flops(options, model, inputs):
    """What the progress line makes the MFU of: TensorFlow alone counts operations."""
    if keras.backend.backend() != "tensorflow":
        return {}
    peak = 1e12 * options.peak_tflops if options.peak_tflops else measured_peak()
    counted = kt.training.training_flops(model, inputs)
    return {"flops_per_step": counted, "peak_flops": peak}


def measured_peak():
    """The fastest of a few large products, in floating point operations a second."""
    matrix = tf.random.normal((2048, 2048))
    product = tf.function(lambda: tf.reduce_sum(matrix @ matrix))
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        product().numpy()
        seconds.append(time.perf_counter() - begin)
    return 2 * 2048**3 / min(seconds)


def in_words(scores):
    return ", ".join(f"{name} {score:.4f}" for name, score in sorted(scores.items()))


def save(output, encoder, scores, histories):
    content = json.dumps({"held_out": scores, "histories": histories}, indent=1)
    for name, write in (
        ("encoder.keras", encoder.save),
        ("scores.json", lambda file: file.write_text(content)),
    ):
        unfinished = output / f"unfinished-{name}"
        write(unfinished)
        os.replace(unfinished, output / name)
    print(f"{output / 'encoder.keras'} is what the fine-tuning scripts take")
