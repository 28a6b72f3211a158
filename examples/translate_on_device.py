"""Translate with a `.tflite` file: ai_edge_litert and a vocabulary, as in an app.

    python examples/translate_on_device.py --model phone/translate.json "A dog runs."
    python examples/translate_on_device.py --model phone/translate.json \\
        --lines val.en --compare out/model.keras

The file is one that `keras_tformer.export.to_tflite` wrote with `max_length=...` and
`tokenizer=...`; its JSON card names vocabulary and lengths. A source is read once
(`encode`), then every call of `decode_step` takes one token and the caches, and says
how probable each next token is. The most probable one is taken, until the end. With
`--compare` the Keras model writes the same lines, and the shares of equal tokens and
lines are printed: only that needs Keras. Of this package only the tokenizer is used.
"""

import argparse
import json
import pathlib
import time

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from keras_tformer import text

# Each kind of tokenizer has some of these, and its card says which.
SETTINGS = (
    "lowercase",
    "strip_accents",
    "keep_accents",
    "split_chinese_characters",
    "split_comma_after_digit",
    "never_split",
)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("texts", nargs="*", help="what to translate")
    add("--model", type=pathlib.Path, required=True, help="the JSON card of a file")
    add("--lines", type=pathlib.Path, help="a file with one text a line")
    add("--compare", type=pathlib.Path, help="the Keras model that it was made from")
    add("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    texts = list(options.texts)
    if options.lines is not None:
        texts += options.lines.read_text(encoding="utf-8").splitlines()
    if not texts:
        parser.error("there is nothing to translate; give texts, or --lines a file")
    translator = Translator(options.model, options.threads)
    sources = [translator.read(line) for line in texts]
    start = time.perf_counter()
    written = [translator.write(source) for source in sources]
    seconds = time.perf_counter() - start
    if options.compare is None:
        for ids in written:
            print(translator.tokenizer.decode(ids))
    count = sum(map(len, written))
    print(
        f"{count} tokens, {count / seconds:.0f} a second, {options.threads} thread(s)"
    )
    if options.compare is not None:
        compare(translator, sources, written, options.compare)


class Translator:
    """Two signatures of a `.tflite` file, a tokenizer, and the loop between them."""

    def __init__(self, card, num_threads=1):
        self.card = json.loads(card.read_text(encoding="utf-8"))
        kind = getattr(text, self.card["tokenizer"])
        settings = {name: self.card[name] for name in SETTINGS if name in self.card}
        self.tokenizer = kind(card.parent / self.card["vocabulary"], **settings)
        interpreter = Interpreter(
            model_path=str(card.parent / self.card["file"]), num_threads=num_threads
        )
        self.encode = interpreter.get_signature_runner("encode")
        self.decode_step = interpreter.get_signature_runner("decode_step")
        self.empty = {
            name: np.zeros(detail["shape"], "float32")
            for name, detail in self.decode_step.get_input_details().items()
            if name.startswith("self_")
        }

    def read(self, line):
        """A line as token ids, its end included; what is too long is cut."""
        pieces = self.tokenizer.encode([line])[0]
        return [*pieces[: self.card["sequence_length"] - 1], self.card["end_id"]]

    def write(self, source):
        """The most probable token after the other, up to the end, which is left out."""
        card = self.card
        padding = card["sequence_length"] - len(source)
        mask = np.array([[1] * len(source) + [0] * padding], "int32")
        ids = np.array([source + [card["padding_id"]] * padding], "int32")
        memory = self.encode(encoder_token_ids=ids, encoder_padding_mask=mask)
        # An answer lies in the interpreter's own memory until the next call.
        memory = {name: np.array(value) for name, value in memory.items()}
        caches, token, written = self.empty, card["start_id"], []
        for position in range(card["max_length"] - 1):
            caches = self.decode_step(
                token_ids=np.array([[token]], "int32"),
                position=np.array([position], "int32"),
                encoder_padding_mask=mask,
                **memory,
                **caches,
            )
            caches = {name: np.array(value) for name, value in caches.items()}
            token = int(caches.pop("logits")[0].argmax())
            if token == card["end_id"]:
                break
            written.append(token)
        return written


def compare(translator, sources, written, file):
    """Prints which share of tokens and lines the Keras model writes as well."""
    import keras

    from keras_tformer import models

    card = translator.card
    found = models.generate(
        keras.models.load_model(file),
        sources,
        max_length=card["max_length"],
        start_token_id=card["start_id"],
        end_token_id=card["end_id"],
        pad_token_id=card["padding_id"],
    )
    equal_lines = equal_tokens = tokens = 0
    for ids, row in zip(written, found[:, 1:].tolist(), strict=True):
        end = row.index(card["end_id"]) if card["end_id"] in row else len(row)
        expected = row[:end]
        equal_lines += ids == expected
        equal_tokens += sum(a == b for a, b in zip(ids, expected, strict=False))
        tokens += max(len(ids), len(expected))
    print(
        f"as the Keras model: {equal_lines} of {len(written)} lines "
        f"({equal_lines / len(written):.1%}), {equal_tokens / max(tokens, 1):.1%} of "
        "the tokens"
    )


if __name__ == "__main__":
    main()
