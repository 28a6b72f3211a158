"""Pretraining records on many machines at once, as an Apache Beam pipeline."""

import pathlib

from keras_tformer.data.import_tensorflow import import_tensorflow
from keras_tformer.data.pretraining_records import (
    finish_folder,
    is_finished,
    record_settings,
    start_folder,
)
from keras_tformer.data.read_documents import read_documents, text_files
from keras_tformer.data.record_shard import write_shard


def write_pretraining_records_with_beam(
    files,
    folder,
    tokenizer_class,
    vocabulary,
    sequence_length,
    pair_task="next_sentence",
    masking=None,
    max_predictions=None,
    mask_share=0.15,
    num_duplicates=1,
    negative_share=0.5,
    short_sequence_share=0.1,
    seed=0,
    lowercase=True,
    text_field="text",
    pipeline_options=None,
):
    """Does what `write_pretraining_records` does, one file of the corpus per shard.

    Every worker reads its own files, and must see corpus, vocabulary and `folder` under
    the same paths (a shared file system). File n gives the bytes that
    `write_pretraining_records` gives for the same documents as shard n. A run that was
    stopped goes on with the shards that are missing. Cut a large corpus into files of
    about 10 MB: a worker holds one of them, about 40 bytes for every character.

    Args:
        files: path of a folder, or list of paths, see `read_documents`.
        folder: path. Made where it is missing.
        tokenizer_class: `WordPieceTokenizer` or `SentencePieceTokenizer`.
        vocabulary: path of the tokenizer's file.
        sequence_length, pair_task, masking, max_predictions, mask_share,
            num_duplicates, negative_share, short_sequence_share, seed: see
            `write_pretraining_records`.
        lowercase: bool. As the tokenizer takes it.
        text_field: str. Field of a JSON line that holds the text.
        pipeline_options: `apache_beam.options.pipeline_options.PipelineOptions`, or
            None for Beam's own runner on this machine.

    Returns:
        The totals, see `write_pretraining_records`.

    Raises:
        ImportError: if Apache Beam or TensorFlow is missing.
        ValueError: as `write_pretraining_records`.
    """
    import_tensorflow()
    try:
        import apache_beam as beam
    except ImportError:
        raise ImportError(
            "Writing records on many machines needs Apache Beam. Install it with: "
            'pip install "keras_tformer[beam]"'
        ) from None
    if isinstance(files, (str, pathlib.Path)):
        files = text_files(files)
    files = [str(file) for file in files]
    if not files:
        raise ValueError("There are no files; expected at least one.")
    tokenizer = tokenizer_class.load(vocabulary, lowercase=lowercase)
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
    settings["documents_per_shard"] = "one file"
    folder = pathlib.Path(folder)
    start_folder(folder, settings)
    loading = (tokenizer_class, str(vocabulary), lowercase)
    with beam.Pipeline(options=pipeline_options) as pipeline:
        _ = (
            pipeline
            | "Files" >> beam.Create(list(enumerate(files)))
            | "Spread" >> beam.Reshuffle()
            | "Write"
            >> beam.Map(_write_file, str(folder), loading, settings, text_field)
        )
    return finish_folder(folder, settings, len(files))


_tokenizers = {}


def _write_file(numbered_file, folder, loading, settings, text_field):
    """Writes the shard of one file, on whichever machine Beam runs it."""
    number, file = numbered_file
    folder = pathlib.Path(folder)
    documents = list(read_documents(file, text_field))
    if is_finished(folder, number, documents):
        return
    if loading not in _tokenizers:  # once a process
        kind, vocabulary, lowercase = loading
        _tokenizers[loading] = kind.load(vocabulary, lowercase=lowercase)
    write_shard(folder, number, documents, _tokenizers[loading], settings)
