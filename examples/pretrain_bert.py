"""Pretrains BERT on text: masked words and whether one text follows another.

    python examples/pretrain_bert.py --output bert               # the embedded corpus
    python examples/pretrain_bert.py --data wiki.txt --output bert --steps 20000 \\
        --sine-positions --jit-compile
    python examples/pretrain_bert.py --data texts/ --vocabulary-size 30000 \\
        --size base --learning-rate 1e-4 --warmup-steps 10000 --batch-size 256 \\
        --steps 900000 --second-batch-size 256 --second-steps 100000 \\
        --masking subword --precision mixed_bfloat16 --output bert   # the paper's

Devlin et al. 2019 (arXiv 1810.04805), appendix A.2. The size "cpu" is one that two
cores train. Curves, TensorBoard's logs, scores on held-out documents and
`encoder.keras` go into `--output`; killed and started again with `--resume`, it goes
on.
"""

import pretraining

import keras_tformer as kt

SIZES = {
    "cpu": {
        "num_layers": 3,
        "num_heads": 4,
        "hidden_dim": 128,
        "intermediate_dim": 512,
        "max_sequence_length": 512,
        "initializer_range": 0.05,  # 0.02 is meant for widths of 768 and more
    },
    **kt.models.BERT_SIZES,
}


def main(arguments=None):
    options = pretraining.parser(__doc__, learning_rate=1e-3).parse_args(arguments)
    if options.size not in SIZES:
        raise SystemExit(f"--size {options.size}: expected one of {', '.join(SIZES)}")
    *documents, tokenizer = pretraining.start(options)
    pretraining.run(
        options,
        kt.data.next_sentence_dataset,
        lambda: kt.models.bert_encoder(
            vocabulary_size=tokenizer.vocabulary_size, **SIZES[options.size]
        ),
        kt.models.bert_pretrainer,
        "bert_pretrainer",
        documents,
        tokenizer,
    )


if __name__ == "__main__":
    main()
