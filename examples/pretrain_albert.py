"""Pretrains ALBERT on text: masked words and the order of sentences.

    python examples/pretrain_albert.py --output albert           # the embedded corpus
    python examples/pretrain_albert.py --data wiki.txt --output albert --steps 20000 \\
        --sine-positions --jit-compile
    python examples/pretrain_albert.py --data texts/ --vocabulary-size 30000 \\
        --size base --optimizer lamb --learning-rate 1.76e-3 --warmup-steps 3125 \\
        --batch-size 4096 --sequence-length 512 --steps 125000 --masking ngram \\
        --precision mixed_bfloat16 --output albert                   # the paper's

Lan et al. 2019 (arXiv 1909.11942), section 4.1; the warm-up is that of the authors'
code. The size "cpu" is one that two cores train, "small" one for a GPU and a few
minutes. Curves, TensorBoard's logs, scores on held-out documents and `encoder.keras` go
into `--output`; killed and started again with `--resume`, it goes on.
"""

import pretraining

import keras_tformer as kt

COMMON = {"max_sequence_length": 512, "initializer_range": 0.05}  # 0.02 is for D >= 768
SIZES = {
    "tiny": {
        "embedding_dim": 16,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 32,
        "intermediate_dim": 128,
        **COMMON,
    },
    "cpu": {
        "embedding_dim": 64,
        "num_layers": 3,
        "num_heads": 4,
        "hidden_dim": 128,
        "intermediate_dim": 512,
        **COMMON,
    },
    "small": {
        "embedding_dim": 128,
        "num_layers": 6,
        "num_heads": 6,
        "hidden_dim": 384,
        "intermediate_dim": 1536,
        **COMMON,
    },
    **kt.models.ALBERT_SIZES,
}


def main(arguments=None):
    options = pretraining.parser(__doc__, learning_rate=1e-3).parse_args(arguments)
    if options.size not in SIZES:
        raise SystemExit(f"--size {options.size}: expected one of {', '.join(SIZES)}")
    *documents, tokenizer = pretraining.start(options)
    pretraining.run(
        options,
        kt.data.sentence_order_dataset,
        lambda: kt.models.albert_encoder(
            vocabulary_size=tokenizer.vocabulary_size, **SIZES[options.size]
        ),
        kt.models.albert_pretrainer,
        "albert_pretrainer",
        documents,
        tokenizer,
    )


if __name__ == "__main__":
    main()
