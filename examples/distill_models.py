"""What `distill.py` reads and builds: texts, untrained models and their losses."""

import keras_tformer as kt

TEACHERS = {"small": (3, 192, 192), "tiny": (2, 32, 32)}  # layers, width, embeddings
STUDENTS = {"small": (2, 128, 64), "tiny": (2, 16, 8)}  # calls of one block, and so on
LOSSES = ("soft_targets", "hidden_states", "attention", "relations")
HEADS = 4


def read(options):
    """Gives the examples of the train and of the dev part."""
    if options.data is None:  # which package does this paragraph document?
        documents = kt.data.deduplicate(kt.data.embedded_corpus())
        train, _, dev = kt.data.split_documents(documents, seed=0)
        return [corpus_examples(part) for part in (train, dev)]
    if options.dev is None:
        raise SystemExit("--data needs --dev, a table to score.")
    columns = options.text_column, options.second_text_column, options.label_column
    files = options.data, options.dev
    return [kt.data.read_examples(file, *columns, options.task) for file in files]


def corpus_examples(documents):
    texts, labels = kt.data.texts_and_labels(documents)
    names = sorted(set(labels))
    counts = [labels.count(name) for name in names]
    return kt.data.tables.Examples(texts, None, labels, names, counts, {})


def untrained(options, role, vocabulary_size):
    """A BERT as the teacher, an ALBERT as a student."""
    is_teacher = role == "teacher"
    build = kt.models.bert_encoder if is_teacher else kt.models.albert_encoder
    sizes = (TEACHERS if is_teacher else STUDENTS)[options.size]
    return build(
        vocabulary_size=vocabulary_size,
        **dict(zip(("num_layers", "hidden_dim", "embedding_dim"), sizes, strict=True)),
        num_heads=HEADS,
        intermediate_dim=4 * sizes[1],
        dropout=0.1,
        initializer_range=0.05,  # 0.02 is meant for widths of 768 and more
        sequence_length=options.sequence_length,
        max_sequence_length=options.sequence_length,
    )


def losses(options):
    """New losses, for one student: each learns projections of its own."""
    made = {
        "soft_targets": kt.training.SoftTargetDistillation(),
        "hidden_states": kt.training.HiddenStateDistillation(options.layer_map),
        "attention": kt.training.AttentionDistillation(options.layer_map),
        "relations": kt.training.RelationDistillation(num_relation_heads=HEADS),
    }
    return [made[name] for name in options.losses]
