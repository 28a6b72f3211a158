"""How fast text becomes ids beside Hugging Face's, KerasHub's and TF Text's own.

    python benchmarks/tokenization_speed.py --vocabulary vocab.txt --text text.txt
    python benchmarks/tokenization_speed.py --quick       a small vocabulary made here

All peers get the same lines of text and the same vocabulary, measured in turn within
one run (A B C A B C), so that whatever else the machine does meets all of them, and are
reported in MB/s with ratios of medians: above 1 is slower than ours on the same side.
CPU seconds are told too, because some peers use all cores and others one. The graph's
peers run inside of `tf.data`; those of the host take Python strings.

`FastBertTokenizer` alone is the fastest and gives other ids: 1,425 of 6.1 million
tokens of an English Wikipedia sample, in 467 of 59,608 paragraphs. It folds case and
decomposes as Unicode's "NFKC_Casefold" does, where BERT lower-cases and decomposes
canonically (NFD). So it writes out compatible signs (273 paragraphs: the ellipsis in
one character becomes three dots, a superscript two "2", a half "1/2", the ligature fi
two letters) and folds letters that have a capital form of two letters or two small
forms (188: sharp s becomes "ss", the Greek final sigma an ordinary one); both in 4. The
last 2 hold U+FFFD, which BERT drops and it takes for a letter: the word around it
becomes `[UNK]`, where BERT joins what is on both sides ("agents" and "cyclonic", "gin"
and "gayu"). All are differences from BERT's own code too, which the Rust library
follows. "ours graph" is FastBertTokenizer behind operations that prepare the text as
BERT does, which gives the Rust library's ids and needs half as much CPU time again.
"""

import argparse
import json
import os
import statistics
import time


def main():
    arguments = parse_arguments()
    lines, vocabulary = read(arguments)
    megabytes = sum(len(line.encode()) for line in lines) / 1e6
    batches = [
        lines[start : start + arguments.batch]
        for start in range(0, len(lines), arguments.batch)
    ]
    peers = host_peers(vocabulary, arguments) | graph_peers(vocabulary, arguments)
    times = {name: [] for name in peers}
    counts = {}
    for round_number in range(-1, arguments.rounds):
        for name, tokenize in peers.items():
            wall, cpu = time.perf_counter(), time.process_time()
            counts[name] = tokenize(batches)
            if round_number >= 0:  # The first turn traces and builds.
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                times[name].append((wall, cpu))
    print(f"{megabytes:.1f} MB, {len(lines)} lines, {len(vocabulary)} pieces")
    for name, measured in times.items():
        wall = statistics.median(wall for wall, _ in measured)
        cpu = statistics.median(cpu for _, cpu in measured)
        ours = "ours graph" if name.endswith("graph") else "ours host"
        ratio = wall / statistics.median(wall for wall, _ in times[ours])
        print(
            f"  {name:24}{megabytes / wall:8.2f} MB/s  {ratio:6.2f} x the time of ours"
            f"  {cpu / megabytes:7.3f} CPU s/MB  {counts[name]} ids"
        )
    if arguments.json:
        temporary = f"{arguments.json}.new"
        with open(temporary, "w") as file:
            json.dump({"megabytes": megabytes, "seconds": times}, file, indent=1)
        os.replace(temporary, arguments.json)


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--text", help="UTF-8 text file, plain or .xz; default: Python's own pages")
    add("--vocabulary", help="vocab.txt; default: one of 3,000 pieces learned here")
    add("--megabytes", type=float, default=4.0, help="how much of the text to use")
    add("--batch", type=int, default=256, help="lines in a batch")
    add("--rounds", type=int, default=5, help="turns of all peers; the first is extra")
    add("--without", nargs="*", default=[], help="parts of names of peers to leave out")
    add("--json", help="file for all times, in seconds")
    add("--quick", action="store_true", help="little text and one round")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.megabytes, arguments.rounds = 0.2, 1
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return arguments


def read(arguments):
    import lzma

    from keras_tformer.text import WordPieceTokenizer

    if arguments.text:
        opener = lzma.open if arguments.text.endswith(".xz") else open
        with opener(arguments.text, "rt", encoding="utf8") as file:
            text = file.read(int(arguments.megabytes * 1e6))
    else:
        from pydoc_data.topics import topics

        text = "\n".join(topics.values())[: int(arguments.megabytes * 1e6)]
    lines = [line for line in text.split("\n") if line.strip()]
    if arguments.vocabulary:
        tokenizer = WordPieceTokenizer.load(arguments.vocabulary)
    else:
        tokenizer = WordPieceTokenizer.train(lines, 3000, show_progress=False)
    return lines, tokenizer.vocabulary


# === Each peer: a function from batches of strings to the number of ids it made ===


def host_peers(vocabulary, arguments):
    import tokenizers

    from keras_tformer.text import WordPieceTokenizer

    ours = WordPieceTokenizer(vocabulary)
    ids = {piece: i for i, piece in enumerate(vocabulary)}
    rust = tokenizers.BertWordPieceTokenizer(ids, lowercase=True)

    def rust_tokenizes(batches):
        encode = rust.encode_batch
        return sum(len(e) for b in batches for e in encode(b, add_special_tokens=False))

    peers = {
        "ours host": lambda batches: sum(
            len(r) for b in batches for r in ours.encode(b)
        ),
        "ours host, offsets": lambda batches: sum(
            len(row[0]) for b in batches for row in ours.encode_with_offsets(b)
        ),
        "tokenizers (Rust)": rust_tokenizes,
    }
    return without(peers, arguments)


def graph_peers(vocabulary, arguments):
    import tensorflow as tf
    import tensorflow_text as tf_text

    from keras_tformer.text import WordPieceTokenizer

    peers = {"ours graph": WordPieceTokenizer(vocabulary).tokenize}
    raw = tf_text.FastBertTokenizer(
        vocab=vocabulary, token_out_type=tf.int32, lower_case_nfd_strip_accents=True
    )
    peers["FastBertTokenizer graph"] = raw.tokenize
    try:
        import keras_hub

        hub = keras_hub.tokenizers.WordPieceTokenizer(
            vocabulary=vocabulary, lowercase=True, strip_accents=True, split_on_cjk=True
        )
        peers["KerasHub graph"] = hub
    except ImportError:
        pass

    def pipeline(tokenize):
        # Traced once; every turn runs the same function.
        tokenize = tf.function(
            tokenize, input_signature=[tf.TensorSpec([None], tf.string)]
        )

        def count(batches):
            dataset = tf.data.Dataset.from_tensor_slices(
                [line for batch in batches for line in batch]
            )
            dataset = dataset.batch(arguments.batch).map(tokenize)
            sizes = dataset.map(lambda ids: tf.size(ids.flat_values))
            return int(sum(sizes.as_numpy_iterator()))

        return count

    peers = {name: pipeline(tokenize) for name, tokenize in peers.items()}
    return without(peers, arguments)


def without(peers, arguments):
    return {
        name: peer
        for name, peer in peers.items()
        if not any(part in name for part in arguments.without)
    }


if __name__ == "__main__":
    main()
