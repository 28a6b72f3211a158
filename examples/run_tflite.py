"""Classify a sentence with a `.tflite` file: ai_edge_litert alone, as in an app.

    python examples/run_tflite.py "Returns the sum of the elements over an axis."
    python examples/run_tflite.py --model quickstart_output/classifier_int8.json "..."

The JSON card beside the file names its inputs, its vocabulary, its lengths and its
classes. Of a file for several lengths, the shortest that the sentence fits is called.
"""

import argparse
import json
import pathlib
import re
import unicodedata
from string import punctuation

import numpy as np
from ai_edge_litert.interpreter import Interpreter

HERE = pathlib.Path(__file__).resolve().parent
CARD = HERE.parent / "savedmodels" / "quickstart" / "classifier_int8.json"
IDEOGRAPHS = [
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
]


def word_pieces(text, vocabulary, card):
    """BERT's tokens: words and signs, each cut into its longest known pieces.

    As `WordPieceTokenizer` does, but for signs newer than its library's Unicode 8.
    """
    kept = sorted(card.get("never_split", ()), key=len, reverse=True)
    parts = re.split(f"({'|'.join(map(re.escape, kept))})", text) if kept else [text]
    prefix = card.get("continuation_prefix", "##")
    for part in parts:
        if part in kept:
            yield vocabulary[part]
            continue
        for word in words(part, card):
            pieces, start = [], 0
            while start < len(word) <= card.get("max_characters_per_word", 100):
                begin = prefix if start else ""
                ends = range(len(word), start, -1)
                end = next((e for e in ends if begin + word[start:e] in vocabulary), 0)
                if not end:
                    break
                pieces.append(vocabulary[begin + word[start:end]])
                start = end
            yield from pieces if start == len(word) else [card["unknown_id"]]


def words(text, card):
    """The words and signs of a text, as BERT cleans it."""
    clean = ""
    for c in text:
        kind = unicodedata.category(c)
        if c in "\t\n\r" or kind[0] == "Z":
            clean += " "
        elif card.get("split_chinese_characters", True) and is_ideograph(c):
            clean += f" {c} "
        elif kind not in ("Cc", "Cf", "Co") and c != "\ufffd":
            clean += c
    if card.get("strip_accents", card["lowercase"]):
        clean = unicodedata.normalize("NFD", clean)
        clean = "".join(c for c in clean if unicodedata.category(c) != "Mn")
    if card["lowercase"]:
        # One by one: the whole would turn a final sigma into another letter.
        clean = "".join(c.lower() for c in clean)
    signs = {c for c in clean if c in punctuation or unicodedata.category(c)[0] == "P"}
    return "".join(f" {c} " if c in signs else c for c in clean).split()


def is_ideograph(character):
    return any(first <= ord(character) <= last for first, last in IDEOGRAPHS)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text")
    parser.add_argument("--model", type=pathlib.Path, default=CARD, help="a JSON card")
    options = parser.parse_args(arguments)
    card, folder = json.loads(options.model.read_text("utf-8")), options.model.parent
    ranks = [len(output["shape"]) for output in card["outputs"].values()]
    if card.get("tokenizer") != "WordPieceTokenizer" or ranks != [2]:
        parser.error(
            f"{options.model} is not the card of a classifier with word pieces; "
            "to_tflite writes one where it is given a WordPieceTokenizer"
        )
    pieces = (folder / card["vocabulary"]).read_text(encoding="utf-8")
    # Not `splitlines`: BERT's Chinese vocabulary holds U+2028 as a piece.
    pieces = pieces.removesuffix("\n").split("\n")
    vocabulary = {piece: index for index, piece in enumerate(pieces)}

    ids = list(word_pieces(options.text, vocabulary, card))
    longest = card["inputs"]["token_ids"]["shape"][1]
    lengths = card.get("lengths", [longest])  # older cards have no such list
    length = min((n for n in lengths if n >= len(ids) + 2), default=longest)
    signature = "serving_default" if length == longest else f"shorter_{length}"
    ids = [card["start_id"], *ids[: length - 2], card["end_id"]]
    padding = length - len(ids)
    values = {
        "token_ids": ids + [card["padding_id"]] * padding,
        "segment_ids": [0] * length,
        "padding_mask": [1] * len(ids) + [0] * padding,
    }
    interpreter = Interpreter(model_path=str(folder / card["file"]), num_threads=1)
    classify = interpreter.get_signature_runner(signature)
    inputs = {  # no more than the model takes; each row of a larger batch is the same
        name: np.array([values[name]] * spec["shape"][0], spec["dtype"])
        for name, spec in card["inputs"].items()
    }
    (output,) = card["outputs"]
    probabilities = classify(**inputs)[output][0]
    if card["outputs"][output].get("values") != "probabilities":  # logits
        probabilities = np.exp(probabilities - probabilities.max())
        probabilities /= probabilities.sum()
    names = card["classes"] or range(len(probabilities))
    for index in np.argsort(-probabilities):
        print(f"{probabilities[index]:6.1%}  {names[index]}")


if __name__ == "__main__":
    main()
