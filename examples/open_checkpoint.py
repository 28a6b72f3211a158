"""Opens what `--checkpoint` names: a model and the tokenizer that belongs to it.

Ours are `.keras` files with their vocabulary beside them, as these scripts write them
into `--output`; Hugging Face's are folders, or names on the hub; Google's are the
prefix of a TensorFlow 1 checkpoint, or its folder.
"""

import os
import pathlib
import re
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

import keras_tformer as kt
from keras_tformer.checkpoints.encoder_numbers import encoder_numbers, require_plain


def open_encoder(name, cased=None):
    """Gives an encoder and its tokenizer.

    Args:
        name: str or path, as above. Of a `.keras` file with a head, such as a
            `model.keras` of the fine-tuning scripts, the encoder is taken.
        cased: bool, or None to go by the capitals in the vocabulary.

    Returns:
        A pair of the encoder, a `keras.Model`, and the tokenizer.
    """
    path = pathlib.Path(name)
    if path.suffix == ".keras":
        model = keras.models.load_model(path, compile=False)
        return encoder_inside(model), tokenizer_beside(path.parent, cased)
    prefix = google_prefix(path)
    if prefix is not None:
        encoder = kt.checkpoints.load_tf_checkpoint(
            prefix, configuration_beside(prefix), task="encoder"
        )
        return encoder, tokenizer_beside(prefix.parent, cased)
    if cased is not None:
        raise SystemExit(
            f"--cased and --no-cased are for vocab.txt and spiece.model; {name} says "
            "itself, in tokenizer_config.json, whether it is. Leave them out."
        )
    folder = path if path.is_dir() else kt.checkpoints.download_huggingface(name)
    encoder = kt.checkpoints.load_huggingface(folder, task="encoder")
    return encoder, kt.text.load_huggingface_tokenizer(folder)


def encoder_inside(model):
    """Takes the encoder out of a model with a head; an encoder comes back as it is."""
    if isinstance(model.output, dict) and "sequence_output" in model.output:
        return model
    require_plain(model, "--checkpoint")
    family, numbers = encoder_numbers(model)
    build = {"albert": kt.models.albert_encoder, "bert": kt.models.bert_encoder}
    encoder = build[family](**numbers)
    trained = {layer.name: layer.get_weights() for layer in model.layers}
    if "pooler" not in trained:
        print("the checkpoint's model has no pooler: it starts untrained")
        trained["pooler"] = encoder.get_layer("pooler").get_weights()
    for layer in encoder.layers:
        layer.set_weights(trained[layer.name])
    return encoder


def google_prefix(path):
    """Gives the prefix of a TensorFlow 1 checkpoint, or None for anything else."""
    if path.with_name(path.name + ".index").exists():
        return path
    if not path.is_dir() or (path / "config.json").exists():
        return None
    found = sorted(path.glob("*.index"))
    if len(found) > 1:
        names = ", ".join(file.stem for file in found)
        raise SystemExit(f"{path} holds several checkpoints, {names}. Name one.")
    return found[0].with_suffix("") if found else None


def configuration_beside(prefix):
    found = sorted(prefix.parent.glob("*bert_config*.json"))  # ALBERT's, too
    if len(found) != 1:
        raise SystemExit(
            f"Beside {prefix} there are {len(found)} files *bert_config*.json; "
            "expected the one that came with the checkpoint."
        )
    return found[0]


def tokenizer_beside(folder, cased=None):
    """Opens vocab.txt or spiece.model, with the settings of a tokenizer.json."""
    for name, kind in (
        ("spiece.model", kt.text.SentencePieceTokenizer),
        ("vocab.txt", kt.text.WordPieceTokenizer),
    ):
        if not (folder / name).exists():
            continue
        if cased is None and (folder / "tokenizer.json").exists():
            return kind.load(folder / "tokenizer.json")
        if cased is None:
            cased = has_capitals(kind(folder / name).vocabulary)
            case = "cased" if cased else "uncased"
            print(f"{folder / name} is {case}", file=sys.stderr)
        return kind(folder / name, lowercase=not cased)
    raise SystemExit(
        f"{folder} holds no vocab.txt and no spiece.model. Put the one there that "
        "came with the checkpoint."
    )


def has_capitals(vocabulary):
    """Whether a vocabulary is of cased text; [CLS] and the like do not count."""
    pieces = [piece for piece in vocabulary if not re.fullmatch(r"[\[<].+[\]>]", piece)]
    capitals = sum(re.search("[A-Z]", piece) is not None for piece in pieces)
    return capitals > len(pieces) / 100  # Google's Chinese one, uncased, has two


def save_tokenizer(tokenizer, folder):
    """Writes tokenizer.json, which holds the settings too, and the plain vocabulary."""
    if isinstance(tokenizer, BytePairs):
        tokenizer.engine.save(str(folder / "tokenizer.json"))
        return
    tokenizer.save(folder / "tokenizer.json")
    is_word_pieces = isinstance(tokenizer, kt.text.WordPieceTokenizer)
    tokenizer.save(folder / ("vocab.txt" if is_word_pieces else "spiece.model"))


# === Language models ===


class BytePairs:
    """GPT-2's tokenizer (Radford et al. 2019, section 2.2), as the datasets ask it.

    Its one special token stands before and behind every text.
    """

    def __init__(self, folder):
        import tokenizers

        if (folder / "tokenizer.json").exists():
            file = str(folder / "tokenizer.json")
            self.engine = tokenizers.Tokenizer.from_file(file)
        else:
            files = [str(folder / name) for name in ("vocab.json", "merges.txt")]
            self.engine = tokenizers.ByteLevelBPETokenizer(*files)
        self.end_id = self.engine.token_to_id("<|endoftext|>")
        self.start_id = self.padding_id = self.end_id

    def encode(self, texts):
        return [encoding.ids for encoding in self.engine.encode_batch(texts)]

    def tokenize(self, strings):
        raise ValueError("Byte pairs are read on the host only: use `encode`.")

    def decode(self, ids):
        return self.engine.decode([int(i) for i in ids])


def open_language_model(name, cased=None):
    """Gives a causal language model, ours or GPT-2's, and its tokenizer."""
    path = pathlib.Path(name)
    if path.suffix == ".keras":
        model = keras.models.load_model(path, compile=False)
        if (path.parent / "vocab.txt").exists():
            return model, tokenizer_beside(path.parent, cased)
        return model, BytePairs(path.parent)
    folder = path if path.is_dir() else kt.checkpoints.download_huggingface(name)
    model = kt.checkpoints.load_huggingface(folder, task="causal_lm")
    return model, BytePairs(pathlib.Path(folder))
