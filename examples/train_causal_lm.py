"""Trains a causal language model on text and measures its perplexity.

    python examples/train_causal_lm.py --data train.txt --dev valid.txt --output out
    python examples/train_causal_lm.py --format wikitext --data wiki.train.tokens \\
        --dev wiki.valid.tokens --output out --size medium

Text files have a blank line between documents; WikiText's own files (Merity et al.
2016) begin an article with ` = Title = `. Perplexity is per *piece* of the vocabulary
trained here, and per *word* for comparison with other vocabularies: the same total
log-likelihood over the number of words and line ends, as WikiText is scored.
"""

import lzma
import math
import pathlib
import re

import fine_tuning

import keras_tformer as kt

TITLE = re.compile(r" = [^=].* = ?")


def main(arguments=None):
    parser = fine_tuning.parser(
        __doc__, epochs=10, learning_rate=1e-3, sequence_length=128
    )
    parser.add_argument("--format", choices=("text", "wikitext"), default="text")
    options = parser.parse_args(arguments)
    if options.checkpoint or options.family != "albert":
        parser.error("--checkpoint and --family are for encoders; leave them out")

    train, dev = (read(options, file) for file in (options.data, options.dev))
    texts = [paragraph for document in train for paragraph in document]
    model, tokenizer = start(options, texts)
    sizes = tokenizer, options.sequence_length, options.batch_size
    train_task = kt.data.language_modelling_task(
        train, *sizes, shuffle=True, seed=options.seed, drop_remainder=True
    )
    dev_task = kt.data.language_modelling_task(dev, *sizes)

    history = fine_tuning.fit(
        options,
        model,
        train_task.dataset,
        train_task.num_examples,
        kt.training.compile_arguments("causal_lm"),
        monitor="val_perplexity",
        validation_data=dev_task.dataset,
    )

    scores = model.evaluate(dev_task.dataset, verbose=0, return_dict=True)
    pieces = sum(float(weights.numpy().sum()) for *_, weights in dev_task.dataset)
    words = sum(
        len(paragraph.split()) + 1 for document in dev for paragraph in document
    )
    scores["word_perplexity"] = math.exp(
        math.log(scores["perplexity"]) * pieces / words
    )
    prompt = tokenizer.encode([" ".join(dev[0][0].split()[:8])])[0]
    prompt = [tokenizer.start_id, *prompt]
    continued = kt.models.generate(
        model,
        [prompt],
        max_length=min(48, options.sequence_length),
        seed=options.seed,
        sampler="top_k",
    )
    print("continues:", tokenizer.decode(continued[0]))
    fine_tuning.write_results(options, model, scores, history)


def read(options, file):
    """Gives documents as lists of paragraphs."""
    if options.format == "text":
        return [document.paragraphs for document in kt.data.read_documents(file)]
    file = pathlib.Path(file)
    opener = lzma.open if file.suffix == ".xz" else open
    documents = []
    with opener(file, "rt", encoding="utf-8") as lines:
        for line in filter(str.strip, lines):
            if TITLE.fullmatch(line.rstrip("\n")) or not documents:
                documents.append([])
            documents[-1].append(line.strip())
    return documents


def start(options, texts):
    """A causal model of the size that an encoder would have, and its tokenizer."""
    encoder, tokenizer = fine_tuning.start(options, texts)
    del encoder
    num_layers, hidden_dim, num_heads, _ = fine_tuning.SIZES[options.size]
    model = kt.models.causal_lm(
        vocabulary_size=tokenizer.vocabulary_size,
        num_layers=num_layers,
        num_heads=num_heads,
        hidden_dim=hidden_dim,
        intermediate_dim=4 * hidden_dim,
        max_sequence_length=options.sequence_length,
        initializer_range=0.05,  # 0.02 is meant for widths of 768 and more
    )
    return model, tokenizer


if __name__ == "__main__":
    main()
