"""How fast text becomes pretraining batches, and what share of a step that takes.

    python benchmarks/input_speed.py                      the embedded corpus
    python benchmarks/input_speed.py --corpus wiki.txt.xz --vocabulary vocab.txt
    python benchmarks/input_speed.py --quick              a check that takes minutes

Three questions, each answered by its own part (`--measure`):

- `batches`: rows a second out of each source of batches, for every way of masking, and
  rows for each second of CPU;
- `write`: rows and megabytes of text from documents to records on disk, likewise;
- `step`: what share of a training step the input takes: a step of a small ALBERT on a
  batch that lies ready, the step that takes its batches from the source while it
  trains, and a batch by itself, from the start of an epoch to its end. CPU time counts
  all threads; it does not depend on what else the machine does, wall time does.

How much memory a corpus takes is what `memory.py` measures.

The model is trained with `jit_compile=False`, Keras' choice on a CPU. Times are medians
over rounds in which the sources take turns.
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time


def main():
    arguments = parse_arguments()
    documents, tokenizer = load(arguments)
    results = {"arguments": vars(arguments)}
    with tempfile.TemporaryDirectory() as folder:
        for what in ("write", "batches", "step"):
            if what in arguments.measure or what == "write":
                measure = globals()[f"measure_{what}"]
                results[what] = measure(arguments, documents, tokenizer, folder)
    if arguments.json:
        temporary = f"{arguments.json}.new"
        with open(temporary, "w") as file:
            json.dump(results, file, indent=1)
        os.replace(temporary, arguments.json)


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--corpus", help="text file or folder; the embedded corpus by default")
    add("--vocabulary", help="vocab.txt; by default one is learned from the corpus")
    add("--measure", nargs="+", default=["write", "batches", "step"])
    add("--sequence-length", type=int, default=128)
    add("--batch", type=int, default=32, help="rows in a batch")
    add("--size", default="4x256", help="layers x hidden_dim of the model trained")
    add("--max-documents", type=int, default=500)
    add("--rounds", type=int, default=5)
    add("--batches", type=int, default=20, help="batches in a round")
    add("--json", help="file for all numbers")
    add("--quick", action="store_true", help="a tiny model and one round")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.size, arguments.max_documents = "1x64", 60
        arguments.rounds, arguments.batches = 1, 5
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return arguments


def load(arguments):
    from keras_tformer import data, text

    if arguments.corpus:
        documents = data.read_documents(arguments.corpus)
    else:
        documents = data.embedded_corpus()
    documents = list(itertools.islice(documents, arguments.max_documents))
    if arguments.vocabulary:
        return documents, text.WordPieceTokenizer(arguments.vocabulary)
    texts, _ = data.texts_and_labels(documents)
    return documents, text.WordPieceTokenizer.train(texts, 8000, show_progress=False)


def sources(arguments, documents, tokenizer, folder):
    """Returns `{name: data set}`: each source of batches, endless."""
    from keras_tformer import data

    size = (arguments.sequence_length, arguments.batch)
    found = {
        f"in memory, sentence order, {masking}": data.sentence_order_dataset(
            documents, tokenizer, *size, masking=masking
        )
        for masking in ("whole_word", "ngram", "subword")
    }
    found["in memory, next sentence"] = data.next_sentence_dataset(
        documents, tokenizer, *size
    )
    found["records, dynamic masks"] = data.pretraining_records_dataset(
        f"{folder}/plain", tokenizer, arguments.batch
    )
    found["records, fixed masks"] = data.pretraining_records_dataset(
        f"{folder}/fixed", tokenizer, arguments.batch
    )
    return found


def measure_write(arguments, documents, tokenizer, folder):
    from keras_tformer import data
    from keras_tformer.data.bulk_encoding import encode_in_bulk

    characters = sum(len(p) for document in documents for p in document.paragraphs)
    print(f"{len(documents)} documents, {characters / 1e6:.1f} million characters")
    results = {}
    encode_in_bulk(tokenizer, ["makes the tables"])
    for name, masking in (("plain", None), ("fixed", "whole_word")):
        start, cpu = time.perf_counter(), time.process_time()
        totals = data.write_pretraining_records(
            documents,
            f"{folder}/{name}",
            tokenizer,
            arguments.sequence_length,
            pair_task="sentence_order",
            masking=masking,
            documents_per_shard=max(2, len(documents) // 8),
        )
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        rows = totals["rows"]
        results[name] = {"rows": rows, "seconds": seconds, "characters": characters}
        print(
            f"  written {name:6}{rows / seconds:10.0f} rows/s"
            f"{characters / 1e6 / seconds:8.2f} MB/s, one process;"
            f"{rows / cpu:10.0f} rows/CPU s{characters / 1e6 / cpu:8.2f} MB/CPU s"
        )
    return results


def seconds_of_batches(iterator, count):
    """Returns seconds a batch, by the clock and of CPU."""
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        next(iterator)
    return (time.perf_counter() - start) / count, (time.process_time() - cpu) / count


def measure_batches(arguments, documents, tokenizer, folder):
    shape = f"{arguments.batch}x{arguments.sequence_length}"
    print(f"\nbatches of {shape}, alone on {os.cpu_count()} cores")
    # Without the prefetched ones that lie ready when a round begins.
    found = sources(arguments, documents, tokenizer, folder)
    times = {name: [] for name in found}
    iterators = {name: iter(dataset) for name, dataset in found.items()}
    for round_number in range(-1, arguments.rounds):
        for name, iterator in iterators.items():
            seconds = seconds_of_batches(iterator, arguments.batches)
            if round_number >= 0:  # The first one traces and fills buffers.
                times[name].append(seconds)
    for name, measured in times.items():
        rates = sorted(arguments.batch / seconds for seconds, _ in measured)
        cpu = statistics.median(cpu for _, cpu in measured)
        print(
            f"  {name:40}{statistics.median(rates):10.0f} rows/s"
            f"  ({rates[0]:.0f} to {rates[-1]:.0f})"
            f"{arguments.batch / cpu:10.0f} rows/CPU s"
        )
    return times


def measure_step(arguments, documents, tokenizer, folder):

    from keras_tformer import data, models, training

    num_layers, hidden_dim = map(int, arguments.size.split("x"))
    encoder = models.albert_encoder(
        vocabulary_size=tokenizer.vocabulary_size,
        embedding_dim=min(128, hidden_dim),
        num_layers=num_layers,
        num_heads=max(1, hidden_dim // 64),
        hidden_dim=hidden_dim,
        intermediate_dim=4 * hidden_dim,
        max_sequence_length=arguments.sequence_length,
    )
    model = models.albert_pretrainer(encoder)
    model.compile(
        training.adamw(1e-4),
        jit_compile=False,
        **training.compile_arguments("albert_pretrainer"),
    )

    def dataset(num_epochs=None):
        return data.pretraining_records_dataset(
            f"{folder}/plain", tokenizer, arguments.batch, num_epochs=num_epochs
        )

    count = max(3, arguments.batches // 4)
    live = iter(dataset())
    ready = itertools.repeat(next(live))

    def steps(batches):
        for _ in range(count):
            inputs, targets, weights = next(batches)
            model.train_on_batch(inputs, targets, weights)
        return count

    parts = {
        "step, batch ready": lambda: steps(ready),
        "step, batches made": lambda: steps(live),
        # A whole epoch, so that nothing lay ready before and nothing is left over.
        "batch alone": lambda: sum(1 for _ in dataset(num_epochs=1)),
    }
    times = {name: [] for name in parts}
    for round_number in range(-1, arguments.rounds):
        for name, part in parts.items():
            wall, cpu = time.perf_counter(), time.process_time()
            number = part()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if round_number >= 0:  # The first round traces.
                times[name].append((wall / number, cpu / number))
    medians = {
        name: [statistics.median(column) for column in zip(*values, strict=True)]
        for name, values in times.items()
    }
    print(f"\ntraining step, ALBERT {arguments.size} with both heads")
    for name, (wall, cpu) in medians.items():
        print(f"  {name:20}{wall * 1e3:10.1f} ms {cpu * 1e3:10.1f} ms of CPU")
    (ready_wall, ready_cpu), (made_wall, _), (_, alone_cpu) = medians.values()
    share = alone_cpu / (alone_cpu + ready_cpu)
    print(f"  the input takes {share:.2%} of the CPU time of a step")
    print(f"  the step takes {made_wall / ready_wall - 1:+.1%} with batches made")
    return times


if __name__ == "__main__":
    main()
