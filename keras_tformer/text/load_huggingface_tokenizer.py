"""The tokenizer of a folder that `transformers` saved, or the hub holds."""

import pathlib

from keras_tformer.text.sentence_piece import SentencePieceTokenizer
from keras_tformer.text.tokenizer_json import (
    read_json,
    sentence_piece_arguments,
    word_piece_arguments,
)
from keras_tformer.text.word_piece import WordPieceTokenizer

_WORD_PIECES = ("bert", "distilbert", "electra")
_SPECIAL_TOKENS = {
    "bert": {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    },
    "albert": {
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
        "bos_token": "[CLS]",
        "eos_token": "[SEP]",
    },
}
# Settings that `transformers` reads and we follow in one value only.
_ONLY = {
    "do_basic_tokenize": True,
    "never_split": None,
    "padding_side": "right",
    "truncation_side": "right",
    "add_prefix_space": True,
    "remove_space": True,
    "wordpieces_prefix": "##",
    "split_special_tokens": False,
    "sp_model_kwargs": {},
    "clean_text": True,
}
# Settings that change no id: names of files, defaults of calls that we do not make.
_WITHOUT_EFFECT = frozenset(
    """
    _commit_hash _from_auto added_tokens_decoder auto_map backend
    clean_up_tokenization_spaces is_local local_files_only max_len max_length
    model_input_names model_specific_special_tokens name_or_path pad_to_multiple_of
    pad_token_type_id processor_class special_tokens_map_file stride tokenizer_class
    tokenizer_file transformers_version trim_offsets truncation_strategy
    """.split()
)
_FOLLOWED = frozenset(
    """
    additional_special_tokens do_lower_case extra_special_tokens keep_accents
    model_max_length strip_accents tokenize_chinese_chars
    """.split()
)


def load_huggingface_tokenizer(folder):
    """Opens the tokenizer of a Hugging Face folder: the same ids as `transformers`.

    Reads `tokenizer.json`, or where there is none `vocab.txt` (BERT, DistilBERT,
    ELECTRA) or `spiece.model` (ALBERT); then `tokenizer_config.json`. As in
    `transformers`, and unlike a tokenizer made by hand, names of special tokens in a
    text ("[MASK]") give their ids; `model_max_length` becomes `max_sequence_length`.

    From a `spiece.model` without `tokenizer.json`, ids are those of Google's ALBERT
    and of `tokenizer.json`: `transformers` 5 there treats "(", "-", "." and other
    user-defined pieces as ends of words, which no other version does.

    Args:
        folder: path of the folder.

    Returns:
        A `WordPieceTokenizer` or a `SentencePieceTokenizer`.

    Raises:
        ValueError: if files are missing or contradict each other, if the family is
            another one (byte-level BPE of RoBERTa and GPT-2, XLM-RoBERTa, Marian), or
            for a setting that cannot be followed, naming it.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise ValueError(
            f"The folder {folder} does not exist; expected one with tokenizer.json, "
            "vocab.txt or spiece.model."
        )
    settings = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            settings.update(read_json(folder / name))
    family = _family(folder, settings)
    _check_settings(folder, settings, family)
    if family == "albert":
        arguments = _albert_arguments(folder, settings)
        tokenizer_class = SentencePieceTokenizer
    else:
        arguments = _bert_arguments(folder, settings)
        tokenizer_class = WordPieceTokenizer
    length = settings.get("model_max_length")
    # Without a limit, `transformers` writes 10 to the 30th.
    if length is not None and length < 1 << 31:
        arguments["max_sequence_length"] = int(length)
    return tokenizer_class(**arguments)


def _family(folder, settings):
    """Tells "bert" or "albert" by the class, the model or the files."""
    name = settings.get("tokenizer_class") or ""
    name = name.removesuffix("Fast").removesuffix("Tokenizer").lower()
    if name in ("", "pretrained", "tokenizersbackend"):
        name = ""
        if (folder / "config.json").is_file():
            name = read_json(folder / "config.json").get("model_type", "")
    if not name:
        name = "bert"
        if (folder / "spiece.model").is_file():
            name = "albert"
        elif (folder / "tokenizer.json").is_file():
            model = read_json(folder / "tokenizer.json").get("model") or {}
            kinds = {"Unigram": "albert", "WordPiece": "bert", None: "bert"}
            name = kinds.get(model.get("type"), str(model.get("type")))
    if name in _WORD_PIECES:
        return "bert"
    if name == "albert":
        return name
    raise ValueError(
        f"The folder {folder} has a tokenizer of the family {name!r}; expected one "
        f"of {', '.join(_WORD_PIECES)}, albert. For others, tokenize with the library "
        "`tokenizers` (Tokenizer.from_file) and feed the ids."
    )


def _check_settings(folder, settings, family):
    for name, value in settings.items():
        if isinstance(value, dict) and name.endswith("_token"):
            value = value.get("content")
        if name.endswith("_token"):
            expected = _SPECIAL_TOKENS[family].get(name)
            if value in (None, expected):
                continue
        elif name in _ONLY:
            expected = _ONLY[name]
            if value is None or value == expected:
                continue
        elif name in _FOLLOWED | _WITHOUT_EFFECT:
            continue
        else:
            expected = "a setting that is known"
        raise ValueError(
            f"tokenizer_config.json in {folder} has {name} {value!r}; expected "
            f"{expected!r}. The ids could differ; remove the setting if it has no part "
            "in them."
        )


def _never_split(settings, special_tokens):
    """Every token that `transformers` reads out of a text, beside those of a file."""
    tokens = dict.fromkeys(special_tokens)
    for name in ("additional_special_tokens", "extra_special_tokens"):
        for token in settings.get(name) or ():
            tokens[token["content"] if isinstance(token, dict) else token] = None
    for token in (settings.get("added_tokens_decoder") or {}).values():
        if token.get("normalized") or token.get("single_word"):
            raise ValueError(
                f"The added token {token['content']!r} is normalized or single_word; "
                "expected a token that is matched in the raw text as it stands."
            )
        tokens[token["content"]] = None
    return tuple(tokens)


def _compare(folder, name, from_json, from_settings):
    if from_json != from_settings:
        raise ValueError(
            f"The folder {folder} contradicts itself: {name} is {from_json} in "
            f"tokenizer.json, {from_settings} by tokenizer_config.json (or its "
            "default). Make both the same."
        )


def _bert_arguments(folder, settings):
    lowercase = settings.get("do_lower_case", True)
    strip_accents = settings.get("strip_accents")
    chinese = settings.get("tokenize_chinese_chars", True)
    special_tokens = WordPieceTokenizer.SPECIAL_TOKENS
    if (folder / "tokenizer.json").is_file():
        arguments = word_piece_arguments(folder / "tokenizer.json")
        _compare(folder, "do_lower_case", arguments["lowercase"], lowercase)
        _compare(folder, "strip_accents", arguments["strip_accents"], strip_accents)
        split = arguments["split_chinese_characters"]
        _compare(folder, "tokenize_chinese_chars", split, chinese)
        special_tokens = (*special_tokens, *arguments["never_split"])
        arguments["never_split"] = _never_split(settings, special_tokens)
        return arguments
    if not (folder / "vocab.txt").is_file():
        raise ValueError(
            f"The folder {folder} holds neither tokenizer.json nor vocab.txt; expected "
            "one of them."
        )
    plain = WordPieceTokenizer(folder / "vocab.txt")
    pieces = plain.vocabulary
    added = settings.get("added_tokens_decoder") or {}
    added = {int(i): token["content"] for i, token in added.items()}
    if (folder / "added_tokens.json").is_file():
        more = read_json(folder / "added_tokens.json")
        added |= {i: token for token, i in more.items()}
    for i in sorted(added):
        if i == len(pieces):
            pieces.append(added[i])
        elif i > len(pieces) or pieces[i] != added[i]:
            raise ValueError(
                f"The added token {added[i]!r} of {folder} has the id {i}, which does "
                f"not fit the {len(pieces)} pieces before it; expected no gaps and no "
                "other piece there."
            )
    return {
        "vocabulary": pieces,
        "lowercase": lowercase,
        "strip_accents": strip_accents,
        "split_chinese_characters": chinese,
        "never_split": _never_split(settings, (*special_tokens, *added.values())),
    }


def _albert_arguments(folder, settings):
    lowercase = settings.get("do_lower_case", True)
    keep_accents = settings.get("keep_accents", False)
    special_tokens = SentencePieceTokenizer.SPECIAL_TOKENS
    if (folder / "tokenizer.json").is_file():
        arguments = sentence_piece_arguments(folder / "tokenizer.json")
        _compare(folder, "do_lower_case", arguments["lowercase"], lowercase)
        _compare(folder, "keep_accents", arguments["keep_accents"], keep_accents)
        special_tokens = (*special_tokens, *arguments["never_split"])
        arguments["never_split"] = _never_split(settings, special_tokens)
        return arguments
    if not (folder / "spiece.model").is_file():
        raise ValueError(
            f"The folder {folder} holds neither tokenizer.json nor spiece.model; "
            "expected one of them."
        )
    return {
        "model_file": folder / "spiece.model",
        "lowercase": lowercase,
        "keep_accents": keep_accents,
        "never_split": _never_split(settings, special_tokens),
    }
