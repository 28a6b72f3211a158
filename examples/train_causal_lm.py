"""Trains a causal language model on text and measures its perplexity.

    python examples/train_causal_lm.py --data train.txt --dev valid.txt --output out
    python examples/train_causal_lm.py --format wikitext --data wiki.train.tokens \\
        --dev wiki.valid.tokens --output out --size medium
    python examples/train_causal_lm.py --checkpoint gpt2_folder --learning-rate 5e-5 \\
        --data train.txt --dev valid.txt --output out

Text files have a blank line between documents; WikiText's own files (Merity et al.
2016) begin an article with ` = Title = `. `--checkpoint` is the `model.keras` of
another run, or GPT-2 as Hugging Face saves it. Perplexity is per *piece* of the
vocabulary, and per *word* for comparison with other vocabularies: the same total
log-likelihood over the number of words and line ends, as WikiText is scored.
`predictions.txt` gets beginnings of dev documents and how the model goes on.
"""

import lzma
import math
import pathlib
import re

import fine_tuning
from open_checkpoint import open_language_model, save_tokenizer

import keras_tformer as kt

TITLE = re.compile(r" = [^=].* = ?")


def main(arguments=None):
    parser = fine_tuning.parser(
        __doc__, epochs=10, learning_rate=1e-3, sequence_length=128
    )
    parser.add_argument("--format", choices=("text", "wikitext"), default="text")
    options = parser.parse_args(arguments)
    if options.family != "albert":
        parser.error("--family is for encoders; leave it out")

    train, dev = (read(options, file) for file in (options.data, options.dev))
    texts = [paragraph for document in train for paragraph in document]
    model, tokenizer = start(options, texts)
    sizes = tokenizer, options.sequence_length, options.batch_size
    train_task = kt.data.language_modelling_task(
        joined(train), *sizes, shuffle=True, seed=options.seed, drop_remainder=True
    )
    dev_task = kt.data.language_modelling_task(joined(dev), *sizes)

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
    write_continuations(options, model, tokenizer, dev)
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


def joined(documents):
    return ["\n".join(paragraphs) for paragraphs in documents]  # GPT-2 reads line ends


def start(options, texts):
    """A causal model and its tokenizer: the checkpoint's, or untrained ones."""
    fine_tuning.prepare_output(options)
    if options.checkpoint is not None:
        model, tokenizer = open_language_model(options.checkpoint, options.cased)
        save_tokenizer(tokenizer, options.output)
        return model, tokenizer
    tokenizer = fine_tuning.learn_vocabulary(options, texts)
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


def write_continuations(options, model, tokenizer, documents):
    """Lets the model go on after the first words of dev documents."""
    beginnings = [" ".join(document[0].split()[:8]) for document in documents[:5]]
    prompts = [
        [tokenizer.start_id, *ids][: options.sequence_length // 2]
        for ids in tokenizer.encode(beginnings)
    ]
    continued = kt.models.generate(
        model,
        prompts,
        max_length=min(48, options.sequence_length),
        end_token_id=tokenizer.end_id,
        pad_token_id=tokenizer.end_id,
        seed=options.seed,
        sampler="top_k",
    )
    lines = [
        tokenizer.decode([i for i in ids if i != tokenizer.end_id]) for ids in continued
    ]
    file = options.output / "predictions.txt"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("continues:", lines[0])


if __name__ == "__main__":
    main()
