"""Pretraining rows of a corpus of any size, in files that restart where they stop."""

import concurrent.futures
import json
import multiprocessing
import pathlib
import tempfile

from keras_tformer.data.masking import check_masking, check_share
from keras_tformer.data.record_manifest import (
    MANIFEST,
    check_shard,
    read_manifest,
    vocabulary_checksum,
    write_json,
    write_manifest,
)
from keras_tformer.data.record_shard import documents_checksum, shard_name, write_shard
from keras_tformer.data.segment_pairs import PAIR_TASKS


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
    num_processes=1,
):
    """Cuts documents into pairs of segments and writes them as TFRecord shards.

    Every `documents_per_shard` documents become one shard, whose content depends on
    them, on its number and on the settings alone. So any number of processes writes
    the same bytes, and a run that was stopped goes on with the shards that are missing.
    Memory holds a few shards per process, however large the corpus is. Next sentences
    come from the documents of the same shard.

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
        documents_per_shard: int.
        num_processes: int. With more than one, the calling script needs the guard
            `if __name__ == "__main__":`.

    Returns:
        The manifest, see `read_manifest`.

    Raises:
        ValueError: if an argument is out of range, if there are no documents, or if
            the folder holds records of other settings or of another corpus.
    """
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
    if documents_per_shard < 2 or num_processes < 1:
        raise ValueError(
            f"documents_per_shard is {documents_per_shard} and num_processes "
            f"{num_processes}; expected at least 2 and at least 1."
        )
    settings["documents_per_shard"] = documents_per_shard
    folder = pathlib.Path(folder)
    start_folder(folder, settings)
    shards = []

    def missing():
        for number, some in enumerate(_chunks(documents, documents_per_shard)):
            card = finished_shard(folder, number, some)
            if card is None:
                yield number, some
            else:
                shards.append(card)

    if num_processes == 1:
        for number, some in missing():
            shards.append(write_shard(folder, number, some, tokenizer, settings))
    else:
        shards += _in_processes(missing(), folder, tokenizer, settings, num_processes)
    if not shards:
        raise ValueError("There are no documents; expected at least one.")
    finish_folder(folder, settings, shards)
    return read_manifest(folder)


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
    return {
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


def start_folder(folder, settings):
    """Makes the folder and its manifest, or checks the one that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MANIFEST).exists():
        write_manifest(folder, settings, [], complete=False)
        return
    manifest = read_manifest(folder)
    found = manifest["settings"]
    changed = [name for name in settings if settings[name] != found.get(name)]
    if changed:
        name = changed[0]
        raise ValueError(
            f"{folder} holds records with {name}={found.get(name)!r}, not "
            f"{settings[name]!r}; write to another folder, or remove this one."
        )
    if manifest["complete"]:
        # Back to one card a shard, so that shards that were lost since are seen.
        for card in manifest["shards"]:
            if check_shard(folder, card, with_checksum=True) is None:
                write_json(folder / f"{card['file']}.json", card)
        write_manifest(folder, settings, [], complete=False)


def finished_shard(folder, number, documents):
    """Returns the card of a shard that is there and whole, else None."""
    file = folder / f"{shard_name(number)}.json"
    if not file.is_file():
        return None
    try:
        card = json.loads(file.read_text("utf-8"))
        if check_shard(folder, card, with_checksum=True) is not None:
            return None
    except (ValueError, KeyError, TypeError):
        return None
    if card["input_sha256"] != documents_checksum(documents):
        raise ValueError(
            f"{folder / card['file']} was made of other documents than shard {number} "
            "has now; give the same corpus in the same order, or write to another "
            "folder."
        )
    return card


def finish_folder(folder, settings, shards):
    """Writes the manifest, then removes the cards that it replaces."""
    write_manifest(folder, settings, shards, complete=True)
    for card in shards:
        (folder / f"{card['file']}.json").unlink(missing_ok=True)
    for stale in folder.glob(".shard-*"):  # of runs that were killed
        stale.unlink()


def _chunks(documents, size):
    """Yields lists of `size` documents; the last has at least two where it can."""
    chunk = []
    for document in documents:
        if len(chunk) > size:
            yield chunk[:size]
            chunk = chunk[size:]
        chunk.append(document)
    # One document that is left over joins the last chunk.
    if chunk:
        yield chunk


def _in_processes(missing, folder, tokenizer, settings, num_processes):
    shards = []
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
                    shards += [future.result() for future in done]
            shards += [future.result() for future in running]
    return shards


def _start_process(kind, file, lowercase):
    global _tokenizer
    _tokenizer = kind.load(file, lowercase=lowercase)


def _write_in_process(folder, number, documents, settings):
    return write_shard(folder, number, documents, _tokenizer, settings)
