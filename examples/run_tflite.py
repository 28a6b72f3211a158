"""Classify a sentence with a `.tflite` file: ai_edge_litert alone, as in an app.

    python examples/run_tflite.py "Returns the sum of the elements over an axis."
    python examples/run_tflite.py --model quickstart_output/classifier_int8.json "..."

The JSON card beside the file names its inputs, its vocabulary, its lengths and its
classes. Of a file for several lengths, the shortest that the sentence fits is called.
"""

import argparse
import json
import pathlib
import unicodedata
from string import punctuation

import numpy as np
from ai_edge_litert.interpreter import Interpreter

HERE = pathlib.Path(__file__).resolve().parent
CARD = HERE.parent / "savedmodels" / "quickstart" / "classifier_int8.json"


def word_pieces(text, vocabulary, lowercase=True):
    """BERT's tokens: words and signs, each cut into its longest known pieces."""
    if lowercase:
        text = unicodedata.normalize("NFD", text.lower())
        text = "".join(c for c in text if unicodedata.category(c) != "Mn")
    signs = {c for c in text if c in punctuation or unicodedata.category(c)[0] == "P"}
    for word in "".join(f" {c} " if c in signs else c for c in text).split():
        pieces, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((e for e in ends if prefix + word[start:e] in vocabulary), None)
            if end is None:
                pieces = ["[UNK]"]
                break
            pieces.append(prefix + word[start:end])
            start = end
        yield from (vocabulary[piece] for piece in pieces)


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
    lines = (folder / card["vocabulary"]).read_text(encoding="utf-8").splitlines()
    vocabulary = {piece: index for index, piece in enumerate(lines)}

    ids = list(word_pieces(options.text, vocabulary, card["lowercase"]))
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
    logits = next(iter(classify(**inputs).values()))[0]
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    names = card["classes"] or range(len(probabilities))
    for index in np.argsort(-probabilities):
        print(f"{probabilities[index]:6.1%}  {names[index]}")


if __name__ == "__main__":
    main()
