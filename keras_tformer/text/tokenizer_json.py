"""`tokenizer.json`, the file format of the library `tokenizers`: written and read."""

import base64
import json
import pathlib

from keras_tformer.text.rust_engine import import_tokenizers
from keras_tformer.text.sentence_piece_model import build_model


def finished_engine(engine, decoder, ends):
    """Returns a copy of `engine` that adds the ends of a sequence and decodes.

    Args:
        engine: `tokenizers.Tokenizer`.
        decoder: a decoder of the library.
        ends: `{"[CLS]": id, "[SEP]": id}`.
    """
    tokenizers = import_tokenizers()
    engine = tokenizers.Tokenizer.from_str(engine.to_str())
    engine.decoder = decoder
    engine.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=list(ends.items()),
    )
    return engine


def read_json(file):
    """Reads a JSON object, or says which file is none."""
    file = pathlib.Path(file)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"The file {file} is no readable JSON ({error}); expected a JSON object."
        ) from None
    if not isinstance(content, dict):
        raise ValueError(f"The file {file} holds no JSON object; expected one.")
    return content


def word_piece_arguments(file):
    """Reads a `tokenizer.json` of BERT's shape into `WordPieceTokenizer`'s arguments.

    Raises:
        ValueError: for anything in the file that the class cannot follow, naming it.
    """
    content = read_json(file)
    model = _part(content, "model")
    # Files of old versions leave the type out.
    _expect(file, "model type", model.get("type", "WordPiece"), "WordPiece")
    for name, expected in (
        ("unk_token", "[UNK]"),
        ("continuing_subword_prefix", "##"),
        ("max_input_chars_per_word", 100),
    ):
        _expect(file, f"model {name}", model.get(name, expected), expected)
    normalizer = _part(content, "normalizer")
    _expect(file, "normalizer", normalizer.get("type"), "BertNormalizer")
    _expect(file, "clean_text", normalizer.get("clean_text", True), True)
    before = _part(content, "pre_tokenizer").get("type")
    _expect(file, "pre_tokenizer", before, "BertPreTokenizer")
    ids = model.get("vocab", {})
    never_split = _added_tokens(file, content, ids)
    if sorted(ids.values()) != list(range(len(ids))):
        raise ValueError(
            f"The vocabulary of {file} does not number its {len(ids)} pieces from 0 "
            "without gaps; expected that."
        )
    return {
        "vocabulary": sorted(ids, key=ids.get),
        "lowercase": normalizer.get("lowercase", True),
        "strip_accents": normalizer.get("strip_accents"),
        "split_chinese_characters": normalizer.get("handle_chinese_chars", True),
        "never_split": never_split,
    }


def sentence_piece_arguments(file):
    """Reads a `tokenizer.json` of ALBERT's into `SentencePieceTokenizer`'s arguments.

    Raises:
        ValueError: for anything in the file that the class cannot follow, naming it.
    """
    content = read_json(file)
    model = _part(content, "model")
    kind = model.get("type", "Unigram" if "unk_id" in model else None)
    _expect(file, "model type", kind, "Unigram")
    _expect(file, "byte_fallback", model.get("byte_fallback", False), False)
    normalizer = _part(content, "normalizer")
    steps = normalizer.get("normalizers", [normalizer])
    names = [step.get("type") for step in steps]
    plain = [name for name in names if name not in ("Lowercase", "Precompiled")]
    accents = ["NFKD", "StripAccents"]
    if plain not in (["Replace"] * 2, ["Replace"] * 2 + accents):
        raise ValueError(
            f"The normalizer of {file} is {' '.join(map(str, names))}; expected "
            "ALBERT's: Replace Replace [NFKD StripAccents] [Lowercase] Precompiled."
        )
    rules = [s["precompiled_charsmap"] for s in steps if s["type"] == "Precompiled"]
    before = _part(content, "pre_tokenizer")
    before = [p.get("type") for p in before.get("pretokenizers", [before])]
    _expect(file, "pre_tokenizer", before, ["WhitespaceSplit", "Metaspace"])
    pieces = [tuple(pair) for pair in model["vocab"]]
    ids = {piece: i for i, (piece, _) in enumerate(pieces)}
    never_split = _added_tokens(file, content, dict(ids))
    special_tokens = {"<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]", *never_split}
    return {
        "model_file": build_model(
            pieces,
            special_tokens,
            model.get("unk_id", 1),
            base64.b64decode(rules[0]) if rules else b"",
        ),
        "lowercase": "Lowercase" in names,
        "keep_accents": "NFKD" not in names,
        "never_split": never_split,
    }


def _part(content, name):
    return content.get(name) or {}


def _expect(file, name, found, expected):
    if found != expected:
        raise ValueError(
            f"The {name} of {file} is {found!r}; expected {expected!r}: nothing else "
            "is supported."
        )


def _added_tokens(file, content, ids):
    """Returns the tokens that are read out of a text; puts new ones into `ids`."""
    tokens = []
    for token in content.get("added_tokens") or []:
        name = token["content"]
        for option in ("single_word", "lstrip", "rstrip", "normalized"):
            # A space beside ALBERT's [MASK] gives no id of its own anyhow.
            if token.get(option) and option not in ("lstrip", "rstrip"):
                raise ValueError(
                    f"The added token {name!r} of {file} has {option}; expected a "
                    "token that is matched in the raw text as it stands."
                )
        if ids.setdefault(name, token["id"]) != token["id"]:
            raise ValueError(
                f"The added token {name!r} of {file} has the id {token['id']}, but "
                f"{ids[name]} in the vocabulary; expected one id."
            )
        tokens.append(name)
    return tuple(tokens)
