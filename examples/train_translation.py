"""Trains a Transformer that translates, from parallel text to BLEU.

    python examples/train_translation.py --source train.en.gz --target train.de.gz \\
        --dev-source val.en.gz --dev-target val.de.gz --output out

Line n of the two files of a pair translate each other; files may be packed (`.gz`,
`.xz`). One vocabulary of SentencePiece or WordPiece serves both languages. The weights
of the last epochs are averaged (Vaswani et al. 2017, section 6.1) before the dev file
is translated by beam search and scored by sacrebleu on text as people write it.
`--output` gets the model, vocabulary, translations, scores, curves and a picture of
where the translation looked. `KERAS_BACKEND=jax` works, too, on a GPU for example.
"""

import argparse
import pathlib

import fine_tuning
import keras
import numpy as np
import run_options
import sacrebleu
import tensorflow as tf
from fine_tuning import pyplot

import keras_tformer as kt

# How long it trains, and what is done with the trained model.
MAY_CHANGE = {
    "averaged",
    "epochs",
    "length_penalty",
    "num_beams",
    "output",
    "resume",
    "shown",
}


def main(arguments=None):
    options = read_options(arguments)
    if keras.backend.backend() != "tensorflow":
        tf.config.set_visible_devices([], "GPU")  # TensorFlow only reads the text.
    keras.config.set_dtype_policy(options.precision)
    keras.utils.set_random_seed(options.seed)
    train = kt.data.read_parallel(options.source, options.target)
    dev = kt.data.read_parallel(options.dev_source, options.dev_target)
    tokenizer = shared_vocabulary(options, [*train[0], *train[1]])
    run_options.write(options)

    model = build(options, tokenizer)
    history = fit(options, model, tokenizer, train, dev)
    average_weights(options, model)

    translations = translate(options, model, tokenizer, dev[0])
    scores = score(options, translations, dev[1])
    shown = range(min(len(translations), options.shown))
    for i in shown:
        print(f"\n  {dev[0][i]}\n= {dev[1][i]}\n> {translations[i]}")
    attention = cross_attention(options, model, tokenizer, dev[0][0], translations[0])
    draw_attention(options.output / "attention.png", *attention)
    fine_tuning.write_results(options, model, scores, history)


def read_options(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--source", required=True, help="lines to translate, to train on")
    add("--target", required=True, help="their translations")
    add("--dev-source", required=True, help="lines to score, never trained on")
    add("--dev-target", required=True)
    add("--output", type=pathlib.Path, required=True, help="folder for what comes out")
    add("--resume", action="store_true", help="go on with the run in --output")
    add("--epochs", type=int, default=20)
    add("--seed", type=int, default=0)
    add("--precision", default="float32", help="or mixed_bfloat16, mixed_float16")
    add("--vocabulary", choices=("sentence_piece", "word_piece"), help="how to cut")
    add("--vocabulary-size", type=int, default=8000, help="pieces of both languages")
    add("--num-layers", type=int, default=3, help="of the encoder and of the decoder")
    add("--num-heads", type=int, default=4)
    add("--hidden-dim", type=int, default=256)
    add("--intermediate-dim", type=int, default=1024)
    add("--dropout", type=float, default=0.2, help="0.1 for millions of lines")
    add("--tokens-per-batch", type=int, default=2048, help="padding included")
    add("--longest", type=int, default=64, help="pieces of a line that is trained on")
    add("--warmup-steps", type=int, default=2000, help="4000 in the paper")
    add("--averaged", type=int, default=5, help="epochs whose weights are averaged")
    add("--num-beams", type=int, default=4)
    add("--length-penalty", type=float, default=0.6, help="GNMT's alpha")
    add("--shown", type=int, default=5, help="translations to print")
    options = parser.parse_args(arguments)
    if options.output.exists() and any(options.output.iterdir()) and not options.resume:
        parser.error(f"{options.output} is not empty; add --resume, or name another")
    options.output.mkdir(parents=True, exist_ok=True)
    run_options.refuse_others(options, MAY_CHANGE)
    return options


def shared_vocabulary(options, texts):
    """Learns pieces of both languages together, with their capital letters."""
    if options.vocabulary == "word_piece":
        kind, file = kt.text.WordPieceTokenizer, options.output / "vocab.txt"
    else:
        kind, file = kt.text.SentencePieceTokenizer, options.output / "spiece.model"
    if not file.exists():
        kind.train(
            texts, options.vocabulary_size, lowercase=False, show_progress=False
        ).save(file)
    return kind.load(file, lowercase=False)


def build(options, tokenizer, **more):
    return kt.models.transformer(
        vocabulary_size=tokenizer.vocabulary_size,
        num_layers=options.num_layers,
        num_heads=options.num_heads,
        hidden_dim=options.hidden_dim,
        intermediate_dim=options.intermediate_dim,
        dropout=options.dropout,
        **more,
    )


def fit(options, model, tokenizer, train, dev):
    """Trains with teacher forcing; the weights of the last epochs are kept as files."""
    # Few lengths, and full batches only: each shape is compiled once.
    lengths = [n for n in (16, 24, 32, 48, 96) if n < options.longest]
    sizes = {
        "tokens_per_batch": options.tokens_per_batch,
        "bucket_lengths": (*lengths, options.longest),
    }
    train_task = kt.data.translation_task(
        *train, tokenizer, shuffle=True, seed=options.seed, drop_remainder=True, **sizes
    )
    dev_task = kt.data.translation_task(*dev, tokenizer, **sizes)
    print(f"{train_task.num_examples} pairs, left out: {train_task.skipped}")

    # Section 5.3 of the paper for optimizer and schedule, 5.4 for the smoothing.
    schedule = kt.training.InverseSquareRoot(options.hidden_dim, options.warmup_steps)
    model.compile(
        keras.optimizers.Adam(schedule, beta_2=0.98, epsilon=1e-9),
        # On a CPU TensorFlow's own kernels take 0.9 of the time that XLA takes.
        jit_compile=keras.backend.backend() == "jax",
        **kt.training.compile_arguments("transformer", label_smoothing=0.1),
    )

    def keep_weights(epoch, logs):
        if epoch + 1 in averaged_epochs(options):
            fine_tuning.write_whole(
                weights_file(options, epoch + 1), model.save_weights
            )

    resume = kt.training.ResumeFromCheckpoint(options.output / "checkpoints")
    stop = kt.training.StopOnNaN(options.output)
    model.fit(
        stop.watch(train_task.dataset),
        epochs=options.epochs,
        validation_data=dev_task.dataset,
        shuffle=False,  # the dataset shuffles itself
        verbose=0,
        callbacks=[
            keras.callbacks.LambdaCallback(on_epoch_end=keep_weights),
            kt.training.RichProgress("translation"),
            stop,  # before what saves
            resume,
        ],
    )
    return resume.history


def averaged_epochs(options):
    return range(max(options.epochs - options.averaged, 0) + 1, options.epochs + 1)


def weights_file(options, epoch):
    return options.output / f"epoch-{epoch}.weights.h5"


def average_weights(options, model):
    """Gives the model the mean of its weights after each of the last epochs."""
    files = [weights_file(options, epoch) for epoch in averaged_epochs(options)]
    states = []
    for file in filter(pathlib.Path.exists, files):  # none after fewer --epochs
        model.load_weights(file)
        states.append(model.get_weights())
    print(f"weights: the mean of {len(states)} epochs" if states else "last weights")
    if states:
        means = [np.mean(values, axis=0) for values in zip(*states, strict=True)]
        model.set_weights(means)


def translate(options, model, tokenizer, sources, rows=32):
    """Translates texts, those of similar length together, by beam search."""
    ids = [[*row, tokenizer.end_id] for row in tokenizer.encode(sources)]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    found = {}
    for start in range(0, len(order), rows):
        batch = order[start : start + rows]
        longest = -(-len(ids[batch[-1]]) // 16) * 16  # a multiple: few shapes
        texts = kt.models.generate(
            model,
            [ids[i] for i in batch],
            max_length=2 * longest,
            num_beams=options.num_beams,
            length_penalty=options.length_penalty,
            start_token_id=tokenizer.start_id,
            end_token_id=tokenizer.end_id,
            pad_token_id=tokenizer.padding_id,
        )
        for i, text in zip(batch, texts, strict=True):
            found[i] = tokenizer.decode(
                text, clean_up=options.vocabulary == "word_piece"
            )
    return [found[i] for i in range(len(ids))]


def score(options, translations, references):
    """Writes translations, and gives BLEU and chrF with sacrebleu's signatures."""
    text = "".join(f"{line}\n" for line in translations)
    fine_tuning.write_whole(
        options.output / "translations.txt", lambda file: file.write_text(text, "utf-8")
    )
    scores = {}
    for metric in (sacrebleu.metrics.BLEU(), sacrebleu.metrics.CHRF()):
        result = metric.corpus_score(translations, [references])
        scores[result.name] = result.score
        scores[f"{result.name} signature"] = str(metric.get_signature())
        print(result.format(signature=str(metric.get_signature())))
    return scores


def cross_attention(options, model, tokenizer, source, translation):
    """Gives `(T, S)` weights, averaged over heads and blocks, and the pieces."""
    looking = build(options, tokenizer, return_attention_scores=True)
    looking.set_weights(model.get_weights())
    source, target = tokenizer.encode([source, translation])
    source, target = [*source, tokenizer.end_id], [tokenizer.start_id, *target]
    inputs = {
        "encoder_token_ids": np.array([source]),
        "encoder_padding_mask": np.ones((1, len(source))),
        "decoder_token_ids": np.array([target]),
        "decoder_padding_mask": np.ones((1, len(target))),
    }
    scores = looking.predict(inputs, verbose=0)["cross_attention_scores"]
    names = [
        [tokenizer.vocabulary[i] for i in side]
        for side in (source, [*target[1:], tokenizer.end_id])
    ]
    return np.mean(np.array(scores, "float32"), axis=(0, 1, 2)), *names


def draw_attention(file, weights, source, target):
    """Draws how much each written piece (rows) looked at each read one (columns)."""
    size = 0.32 * len(source) + 2, 0.32 * len(target) + 1.5
    figure, axis = pyplot.subplots(figsize=size)
    axis.imshow(weights, cmap="Blues", vmin=0)
    axis.set(xticks=range(len(source)), yticks=range(len(target)), yticklabels=target)
    axis.set_xticklabels(source, rotation=60, ha="right")
    axis.set(xlabel="read", ylabel="written")
    figure.tight_layout()
    fine_tuning.write_whole(file, lambda file: figure.savefig(file, dpi=120))
    pyplot.close(figure)


if __name__ == "__main__":
    main()
