"""Turns texts into vectors, and finds for each text the ones most like it.

    python examples/extract_embeddings.py --checkpoint sentence-transformers/NAME \\
        --data sentences.txt --output vectors
    python examples/extract_embeddings.py --checkpoint out/encoder.keras \\
        --data reviews.txt --pooling first --query "a great film"

A text a line. `--output` gets `vectors.npy`, `(N, D)` float32 of length 1, and
`texts.txt`, whose lines are in the order of the rows.
"""

import argparse
import pathlib

import numpy as np
from open_checkpoint import open_encoder

import keras_tformer as kt


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--checkpoint", required=True, help="see finetune_glue.py")
    add("--cased", action=argparse.BooleanOptionalAction, help="see finetune_glue.py")
    add("--data", required=True, type=pathlib.Path, help="a text a line")
    add("--output", type=pathlib.Path, default=pathlib.Path("embeddings_output"))
    add("--pooling", choices=("mean", "max", "first", "pooled"), default="mean")
    add("--query", help="a text; prints the five most like it")
    add("--batch-size", type=int, default=32)
    add("--sequence-length", type=int, default=128)
    options = parser.parse_args(arguments)

    lines = options.data.read_text(encoding="utf-8").splitlines()
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise SystemExit(f"{options.data} holds no text; expected one a line.")
    encoder, tokenizer = open_encoder(options.checkpoint, options.cased)
    model = kt.models.text_embedder(encoder, pooling=options.pooling, normalize=True)

    def embed(texts):
        dataset = kt.data.classification_dataset(
            texts,
            [0] * len(texts),
            tokenizer,
            options.sequence_length,
            options.batch_size,
        )
        return model.predict(dataset.map(lambda inputs, _: inputs), verbose=0)

    vectors = embed(texts)
    options.output.mkdir(parents=True, exist_ok=True)
    np.save(options.output / "vectors.npy", vectors.astype("float32"))
    (options.output / "texts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    print(f"{len(vectors)} vectors of {vectors.shape[1]} numbers in {options.output}")

    if options.query:
        similarities = vectors @ embed([options.query])[0]
        for row in np.argsort(-similarities)[:5]:
            print(f"{similarities[row]:.3f}  {texts[row]}")


if __name__ == "__main__":
    main()
