"""Pretraining rows of a corpus of any size, in files that restart where they stop."""

import collections
import concurrent.futures
import multiprocessing
import os
import pathlib
import tempfile

from keras_tformer.data.bulk_encoding import bulk_library
from keras_tformer.data.import_tensorflow import import_tensorflow
from keras_tformer.data.masking import check_masking, check_share
from keras_tformer.data.record_manifest import (
    MANIFEST,
    check_shard,
    read_card,
    read_cards,
    read_header,
    vocabulary_checksum,
    write_card,
    write_manifest,
)
from keras_tformer.data.record_shard import documents_checksum, shard_name, write_shard
from keras_tformer.data.segment_pairs import PAIR_TASKS
from keras_tformer.text import SentencePieceTokenizer


def write_pretraining_records(
    documents,
    folder,
    tokenizer,
    sequence_length,
    pair_task="next_sentence",
    masking=None,
    max_predictions=None,
    mask_share=0.15,
    num_duplicates=1,
    negative_share=0.5,
    short_sequence_share=0.1,
    seed=0,
    documents_per_shard=1000,
    characters_per_shard=10_000_000,
    num_processes=1,
):
    """Cuts documents into pairs of segments and writes them as TFRecord shards.

    A shard is full with `documents_per_shard` documents, or earlier with
    `characters_per_shard` characters of text. Its content depends on them, on its
    number and on the settings alone. So any number of processes writes the same bytes,
    and a run that was stopped goes on with the shards that are missing. Next sentences
    come from the documents of the same shard. TF Text cuts the text where it is
    installed, which takes a third of the time (see `encode_in_bulk`); a folder of
    SentencePiece's ids keeps to the library that it was begun with.

    Memory does not grow with the corpus: a process holds one shard, about 40 bytes for
    every character of it, and nothing of those that are done.

    By default segments are stored without masks, and `pretraining_records_dataset`
    masks them anew in every epoch (Liu et al. 2019, arXiv 1907.11692, section 4.1).
    With `masking` the masks are fixed here; `num_duplicates` passes over the documents
    then give every sentence that many masks (Devlin et al. 2018 used 10).

    With `pair_task=None` rows are not pairs but whole documents side by side, for
    masked words alone, as `masked_lm_dataset(..., has_packed_documents=True)` has them.

    Args:
        documents: iterable of `Document`, such as `read_documents(folder)`, in the same
            order in every run.
        folder: path. Made where it is missing.
        tokenizer: `WordPieceTokenizer` or `SentencePieceTokenizer`.
        sequence_length: int. Length `T` of a row.
        pair_task: `"next_sentence"`, `"sentence_order"` or None.
        masking: None for masks that are made while reading, or `"whole_word"`,
            `"ngram"` or `"subword"`.
        max_predictions, mask_share: see `sentence_order_dataset`. For fixed masks.
        num_duplicates: int. Passes over the documents, each cut otherwise.
        negative_share: float. Share of the rows with label 1.
        short_sequence_share: float. Share of the rows with a random shorter length.
        seed: int, 0 or more.
        documents_per_shard: int, 2 or more.
        characters_per_shard: int. The document that reaches it is the shard's last.
        num_processes: int. With more than one, the calling script needs the guard
            `if __name__ == "__main__":`.

    Returns:
        A dict of totals: `"num_shards"`, `"documents"`, `"rows"`, `"tokens"` and
        `"bytes"`. `read_manifest(folder)` has them shard by shard.

    Raises:
        ValueError: if an argument is out of range, if there are no documents, or if
            the folder holds records of other settings or of another corpus.
    """
    import_tensorflow()
    settings = record_settings(
        tokenizer,
        sequence_length,
        pair_task,
        masking,
        max_predictions,
        mask_share,
        num_duplicates,
        negative_share,
        short_sequence_share,
        seed,
    )
    if documents_per_shard < 2 or characters_per_shard < 1 or num_processes < 1:
        raise ValueError(
            f"documents_per_shard is {documents_per_shard}, characters_per_shard "
            f"{characters_per_shard} and num_processes {num_processes}; expected at "
            "least 2, 1 and 1."
        )
    settings["documents_per_shard"] = documents_per_shard
    settings["characters_per_shard"] = characters_per_shard
    folder = pathlib.Path(folder)
    start_folder(folder, settings)
    num_shards = 0

    def missing():
        nonlocal num_shards
        for some in _chunks(documents, documents_per_shard, characters_per_shard):
            if not is_finished(folder, num_shards, some):
                yield num_shards, some
            num_shards += 1

    if num_processes == 1:
        for number, some in missing():
            write_shard(folder, number, some, tokenizer, settings)
    else:
        _write_in_processes(missing(), folder, tokenizer, settings, num_processes)
    if num_shards == 0:
        raise ValueError("There are no documents; expected at least one.")
    return finish_folder(folder, settings, num_shards)


def record_settings(
    tokenizer,
    sequence_length,
    pair_task,
    masking,
    max_predictions,
    mask_share,
    num_duplicates,
    negative_share,
    short_sequence_share,
    seed,
):
    """Checks the settings of `write_pretraining_records` and returns them as a dict."""
    check_share("negative_share", negative_share)
    check_share("short_sequence_share", short_sequence_share)
    max_predictions = check_masking(
        sequence_length, max_predictions, mask_share, masking or "whole_word"
    )
    if pair_task not in (*PAIR_TASKS, None):
        raise ValueError(
            f"pair_task is {pair_task!r}; expected one of {', '.join(PAIR_TASKS)}, or "
            "None for documents side by side."
        )
    if num_duplicates < 1 or not 0 <= seed < 1 << 32:
        raise ValueError(
            f"num_duplicates is {num_duplicates} and seed {seed}; expected at least 1, "
            "and a seed from 0 to 2^32 - 1."
        )
    settings = {
        "sequence_length": sequence_length,
        "pair_task": pair_task,
        "masking": masking,
        "max_predictions": max_predictions if masking else None,
        "mask_share": mask_share if masking else None,
        "num_duplicates": num_duplicates,
        "negative_share": negative_share,
        "short_sequence_share": short_sequence_share,
        "seed": seed,
        "vocabulary_sha256": vocabulary_checksum(tokenizer),
        "lowercase": tokenizer.lowercase,
    }
    if isinstance(tokenizer, SentencePieceTokenizer):
        # Cuts that score the same are cut otherwise by another library.
        settings["tokenized_with"] = bulk_library(tokenizer)
    return settings


def start_folder(folder, settings):
    """Makes the folder and its manifest, or checks the one that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MANIFEST).exists():
        write_manifest(folder, settings, 0, [], complete=False)
        return
    header = read_header(folder)
    found = header["settings"]
    changed = [name for name in settings if settings[name] != found.get(name)]
    if changed:
        name = changed[0]
        raise ValueError(
            f"{folder} holds records with {name}={found.get(name)!r}, not "
            f"{settings[name]!r}; write to another folder, or remove this one."
        )
    if header["complete"]:
        # Back to one card a shard, so that shards that were lost since are seen.
        for card in read_cards(folder):
            if check_shard(folder, card, with_checksum=True) is None:
                write_card(folder, card)
        write_manifest(folder, settings, 0, [], complete=False)


def is_finished(folder, number, documents):
    """Says whether a shard is there and whole, made of these documents."""
    try:
        card = read_card(folder, shard_name(number))
        if card is None or check_shard(folder, card, with_checksum=True) is not None:
            return False
    except (ValueError, KeyError, TypeError):
        return False
    if card["input_sha256"] != documents_checksum(documents):
        raise ValueError(
            f"{folder / card['file']} was made of other documents than shard {number} "
            "has now; give the same corpus in the same order, or write to another "
            "folder."
        )
    return True


def finish_folder(folder, settings, num_shards):
    """Gathers the cards in the manifest, removes them, and returns the totals."""
    totals = collections.Counter(num_shards=num_shards)

    def counted_cards():
        for number in range(num_shards):
            card = read_card(folder, shard_name(number))
            for name in ("documents", "rows", "tokens", "bytes"):
                totals[name] += card[name]
            yield card

    write_manifest(folder, settings, num_shards, counted_cards(), complete=True)
    for number in range(num_shards):
        (folder / f"{shard_name(number)}.json").unlink(missing_ok=True)
    with os.scandir(folder) as entries:  # one by one, which glob does not
        for entry in entries:
            if entry.name.startswith(".shard-"):  # of a run that was killed
                os.unlink(entry)
    return dict(totals)


def _chunks(documents, most_documents, most_characters):
    """Yields lists of documents, each as soon as it is full and two more are there.

    So the last has at least two where it can: one that is left over joins it.
    """
    chunk, next_chunk, length = [], [], 0
    for document in documents:
        if next_chunk:
            yield chunk
            chunk, next_chunk = next_chunk, []
            length = _num_characters(chunk[0])
        if len(chunk) == most_documents or (
            len(chunk) >= 2 and length >= most_characters
        ):
            next_chunk = [document]
        else:
            chunk.append(document)
            length += _num_characters(document)
    if chunk:
        yield chunk + next_chunk


def _num_characters(document):
    return sum(map(len, getattr(document, "paragraphs", document)))


def _write_in_processes(missing, folder, tokenizer, settings, num_processes):
    with tempfile.TemporaryDirectory() as temporary:
        file = str(pathlib.Path(temporary) / "vocabulary")
        tokenizer.save(file)
        # Not forked: TensorFlow's threads do not survive that.
        with concurrent.futures.ProcessPoolExecutor(
            num_processes,
            multiprocessing.get_context("spawn"),
            _start_process,
            (type(tokenizer), file, tokenizer.lowercase),
        ) as pool:
            running = set()
            for number, some in missing:
                running.add(
                    pool.submit(_write_in_process, folder, number, some, settings)
                )
                if len(running) >= 2 * num_processes:
                    done, running = concurrent.futures.wait(
                        running, return_when=concurrent.futures.FIRST_COMPLETED
                    )
                    for future in done:
                        future.result()  # raises what went wrong there
            for future in running:
                future.result()


def _start_process(kind, file, lowercase):
    global _tokenizer
    _tokenizer = kind.load(file, lowercase=lowercase)


def _write_in_process(folder, number, documents, settings):
    write_shard(folder, number, documents, _tokenizer, settings)
