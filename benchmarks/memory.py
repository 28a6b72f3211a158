"""Whether memory grows with the corpus that pretraining records are made of.

    python benchmarks/memory.py                       the embedded corpus, over and over
    python benchmarks/memory.py --corpus wiki.txt.xz --vocabulary vocab.txt
    python benchmarks/memory.py --megabytes 300 --times 31 --sequence-length 512 \\
        --masking whole_word --batch 256

For each size a text file is made on disk: the documents of the corpus again and again,
in parts of at most 20 paragraphs, in another order each time. A fresh process writes
pretraining records of it, and another one reads them for an epoch; before that each
does the same with a small part of the file, so that TensorFlow and the tokenizer are
there. Reported is how far its resident memory rose at most over what it was then, by
the kernel's own count of the peak, and what of the C library's heap is in use at the
end and what is holes in between. Shards are of 0.2 MB, so that there are many;
`--documents-per-shard 1000` is what users get by default.

With `--times` the corpus is then taken to be the file that many times over: the shards
are linked under further names, as if a run had been stopped after the last of them.
Writing is started again, goes through all of the text and all of the shards, finds each
of them done and gathers their cards; an epoch reads all of them. This leaves out the
tokenizing, which is slow and has its figure from the file itself, so that a corpus of
ten times all that the process has in memory takes minutes. Rows of 512 tokens with
fixed masks in large batches read fastest.

The GNU C library gives threads heaps of their own (arenas), which keep what was freed;
they fill in the first thousands of batches, whatever the corpus. Here the process has
one (`MALLOC_ARENA_MAX=1`), so that growth of another kind is seen; `--arenas 16` is the
library's own choice on two cores. Linux only.
"""

import argparse
import ctypes
import itertools
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

PASSED_ON = (
    "vocabulary",
    "times",
    "sequence_length",
    "masking",
    "batch",
    "documents_per_shard",
    "file",
    "records",
)


def main():
    arguments = parse_arguments()
    if arguments.child:
        {"write": write, "read": read}[arguments.child](arguments)
        return
    environment = {**os.environ, "MALLOC_ARENA_MAX": str(arguments.arenas)}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        arguments.vocabulary = arguments.vocabulary or train_vocabulary(folder)
        arguments.file = pathlib.Path(folder) / "corpus.txt"
        arguments.records = pathlib.Path(folder) / "records"
        times = arguments.times

        def run(stage):
            command = [sys.executable, __file__, "--child", stage]
            for name in PASSED_ON:
                if getattr(arguments, name) is not None:
                    option = f"--{name.replace('_', '-')}"
                    command += [option, str(getattr(arguments, name))]
            subprocess.run(command, check=True, env=environment)

        for megabytes in arguments.megabytes:
            make_corpus(arguments, megabytes)
            arguments.times = 1
            run("write")
            run("read")
            if times > 1:
                arguments.times = times
                link_shards(arguments.records, times)
                run("write")
                run("read")
            shutil.rmtree(arguments.records)


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--corpus", help="text file or folder; the embedded corpus by default")
    add("--vocabulary", help="vocab.txt; by default one is learned")
    add("--megabytes", type=float, nargs="+", default=[20.0, 200.0], help="of text")
    add("--times", type=int, default=1, help="how often the file is in the corpus")
    add("--sequence-length", type=int, default=128)
    add("--masking", help="fixed masks of this kind; new ones in each epoch by default")
    add("--batch", type=int, default=32, help="rows in a batch")
    add("--documents-per-shard", type=int, default=30)
    add("--arenas", type=int, default=1, help="most heaps of the C library")
    add("--folder", help="where the files lie while this runs")
    for name in ("child", "file", "records"):
        add(f"--{name}", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return arguments


def train_vocabulary(folder):
    from keras_tformer import data, text

    file = pathlib.Path(folder) / "vocab.txt"
    texts, _ = data.texts_and_labels(data.embedded_corpus())
    text.WordPieceTokenizer.train(texts, 8000, show_progress=False).save(file)
    return file


def make_corpus(arguments, megabytes):
    """Writes the documents again and again, to the end of a shard of that size."""
    from keras_tformer import data

    corpus = arguments.corpus
    documents = data.read_documents(corpus) if corpus else data.embedded_corpus()
    documents = [
        [paragraph.replace("\n", " ") for paragraph in document.paragraphs]
        for document in documents
    ]
    num_parts = 0
    with open(arguments.file, "wb") as stream:
        for seed in itertools.count():
            draw = random.Random(seed)
            for paragraphs in documents:
                draw.shuffle(paragraphs)
                for start in range(0, len(paragraphs), 20):
                    part = "\n".join(paragraphs[start : start + 20])
                    stream.write((part + "\n\n").encode())
                    num_parts += 1
                    is_large = stream.tell() > megabytes * 1e6
                    if is_large and num_parts % arguments.documents_per_shard == 0:
                        return


def write(arguments):
    def documents(times):
        from keras_tformer import data

        for _ in range(times):
            yield from data.read_documents(arguments.file)

    with tempfile.TemporaryDirectory() as folder:
        write_records(arguments, itertools.islice(documents(1), 600), folder)
    report = start_counting()
    totals = write_records(arguments, documents(arguments.times), arguments.records)
    megabytes = os.path.getsize(arguments.file) * arguments.times / 1e6
    report(f"{megabytes:,.0f} MB of text, {totals['num_shards']} shards written")


def read(arguments):
    from keras_tformer import data

    def read_records(folder):
        dataset = data.pretraining_records_dataset(
            folder, tokenizer(arguments), arguments.batch, num_epochs=1
        )
        return sum(1 for _ in dataset)

    with tempfile.TemporaryDirectory() as folder:
        documents = itertools.islice(data.read_documents(arguments.file), 600)
        write_records(arguments, documents, folder)
        read_records(folder)
    report = start_counting()
    report(f"{read_records(arguments.records)} batches read")


def tokenizer(arguments):
    from keras_tformer import text

    return text.WordPieceTokenizer(arguments.vocabulary)


def write_records(arguments, documents, folder):
    from keras_tformer import data

    return data.write_pretraining_records(
        documents,
        folder,
        tokenizer(arguments),
        arguments.sequence_length,
        masking=arguments.masking,
        documents_per_shard=arguments.documents_per_shard,
    )


def start_counting():
    """Returns a function that prints how far memory has risen since now."""
    start = memory("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    begin = time.perf_counter()

    def report(what):
        rise, seconds = memory("VmHWM") - start, time.perf_counter() - begin
        print(
            f"{what}: {start:.0f} MB resident before, {rise:+.1f} MB at most, after "
            f"{seconds:.0f} s; heap: {heap()}",
            flush=True,
        )

    return report


def link_shards(folder, times):
    """Gives every shard `times` names, and the manifest a line for each."""
    manifest = pathlib.Path(folder) / "manifest.jsonl"
    header, *cards = map(json.loads, manifest.read_text().splitlines())
    header["num_shards"] = times * len(cards)
    with open(manifest, "w") as stream:
        stream.write(json.dumps(header) + "\n")
        for number in range(times * len(cards)):
            card = cards[number % len(cards)]
            name = f"shard-{number:06d}.tfrecord"
            if number >= len(cards):
                os.link(manifest.with_name(card["file"]), manifest.with_name(name))
            stream.write(json.dumps({**card, "file": name}) + "\n")


def heap():
    """What the C library's heap holds, and the holes that it keeps in between."""
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks"
    fields = [(name, ctypes.c_size_t) for name in [*names.split(), "keepcost"]]
    count = ctypes.CDLL("libc.so.6").mallinfo2
    count.restype = type("mallinfo2", (ctypes.Structure,), {"_fields_": fields})
    found = count()
    return f"{found.uordblks / 1e6:.1f} MB in use, {found.fordblks / 1e6:.1f} MB holes"


def memory(field):
    """Megabytes that the kernel counts for this process."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    main()
