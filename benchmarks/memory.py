"""Whether memory grows with the corpus that pretraining records are made of.

    python benchmarks/memory.py                       the embedded corpus, over and over
    python benchmarks/memory.py --corpus wiki.txt.xz --vocabulary vocab.txt

Two text files are made on disk, one of `--megabytes` and one ten times as large: the
documents of the corpus again and again, in parts of at most 20 paragraphs (a shard is
held in memory, so that the peak is that of the largest one), in another order each
time. For each a fresh process writes pretraining records and reads them for an epoch.
Before that it has done both with a small part of the file, so that TensorFlow and the
tokenizer are there. Reported is how far its resident memory rose at most over what it
was then, by the kernel's own count of the peak. Linux only.
"""

import argparse
import itertools
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time


def main():
    arguments = parse_arguments()
    if arguments.child:
        write_and_read(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        arguments.vocabulary = arguments.vocabulary or train_vocabulary(folder)
        for times in (1, 10):
            file = make_corpus(arguments, folder, times * arguments.megabytes)
            command = [sys.executable, __file__, "--child", str(file), "--vocabulary"]
            subprocess.run([*command, str(arguments.vocabulary)], check=True)
            file.unlink()


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--corpus", help="text file or folder; the embedded corpus by default")
    add("--vocabulary", help="vocab.txt; by default one is learned")
    add("--megabytes", type=float, default=20.0, help="size of the smaller file")
    add("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return arguments


def read(corpus):
    from keras_tformer import data

    return data.read_documents(corpus) if corpus else iter(data.embedded_corpus())


def train_vocabulary(folder):
    from keras_tformer import data, text

    file = pathlib.Path(folder) / "vocab.txt"
    texts, _ = data.texts_and_labels(data.embedded_corpus())
    text.WordPieceTokenizer.train(texts, 8000, show_progress=False).save(file)
    return file


def make_corpus(arguments, folder, megabytes):
    """Writes the documents again and again until the file has its size."""
    file = pathlib.Path(folder) / "corpus.txt"
    with open(file, "wb") as stream:
        for seed in itertools.count():
            draw = random.Random(seed)
            for document in read(arguments.corpus):
                paragraphs = [p.replace("\n", " ") for p in document.paragraphs]
                draw.shuffle(paragraphs)
                for start in range(0, len(paragraphs), 20):
                    part = "\n".join(paragraphs[start : start + 20])
                    stream.write((part + "\n\n").encode())
                if stream.tell() > megabytes * 1e6:
                    return file


def write_and_read(arguments):
    from keras_tformer import data, text

    tokenizer = text.WordPieceTokenizer(arguments.vocabulary)

    def both(documents):
        with tempfile.TemporaryDirectory() as folder:
            data.write_pretraining_records(
                documents, folder, tokenizer, 128, documents_per_shard=30
            )
            dataset = data.pretraining_records_dataset(
                folder, tokenizer, 32, num_epochs=1, shuffle_buffer=1000
            )
            return 32 * sum(1 for _ in dataset)

    both(itertools.islice(data.read_documents(arguments.child), 600))
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    start = memory("VmRSS")
    seconds = time.perf_counter()
    rows = both(data.read_documents(arguments.child))
    seconds = time.perf_counter() - seconds
    rise = memory("VmHWM") - start
    print(
        f"corpus of {os.path.getsize(arguments.child) / 1e6:5.0f} MB, {rows:8} rows: "
        f"{start:5.0f} MB at the start, {rise:+4.1f} MB at most, "
        f"{seconds:.0f} s",
        flush=True,
    )


def memory(field):
    """Megabytes that the kernel counts for this process."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    main()
