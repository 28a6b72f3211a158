"""What is done to text before a SentencePiece model, written into the model's rules."""

from keras_tformer.text.sentence_piece_model import import_sentencepiece

# Where Unicode has assigned characters to: the planes 0 to 3, and tags. Not U+0000,
# which ends the keys of compiled rules.
_CHARACTERS = (
    *map(chr, range(1, 0xD800)),
    *map(chr, range(0xE000, 0xFFFF)),
    *map(chr, range(0x10000, 0x40000)),
    *map(chr, range(0xE0000, 0xE1000)),
)
# Between two texts: no text holds it, since Unicode makes no character of it.
_APART = "\uffff"
# What the tokenizers on the host split words at.
_WHITE_SPACE = dict.fromkeys(
    [*range(9, 14), 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B)]
    + [0x2028, 0x2029, 0x202F, 0x205F, 0x3000],
    " ",
)


def put_into_rules(content, prepare, sequences=()):
    """Makes a model of which raw text gives what prepared text gave before.

    TensorFlow Lite has no operations that lower-case or decompose letters, but its
    sentence pieces follow their model's normalization rules: the longest of the
    strings that the rules name is replaced, then the next. So every character is
    prepared and sent through the old rules, and a new rule says what came of it. A
    string of several characters has a rule where the old rules name it and it gives
    something else than its characters do. Rules that change nothing but letters that
    no piece has are left out: they are unknown either way.

    Args:
        content: bytes of a `.model` file.
        prepare: function of a string to a string; what it makes of a character must
            not depend on the ones beside it.
        sequences: strings of several characters that `prepare` replaces as one.

    Returns:
        The bytes of a `.model` file with the same pieces.
    """
    sentencepiece, format_of = import_sentencepiece()
    model = format_of.ModelProto()
    model.ParseFromString(content)
    spec = model.normalizer_spec
    keys, follow_rules = [], list
    if spec.precompiled_charsmap:
        rules = sentencepiece.SentencePieceNormalizer(
            model_proto=content,
            add_dummy_prefix=False,
            escape_whitespaces=False,
            remove_extra_whitespaces=False,
        )
        keys, follow_rules = [key for key, _ in rules.Decompile()], rules.Normalize

    def images(texts):
        prepared = prepare(_APART.join(texts)).split(_APART) if texts else []
        return [text.translate(_WHITE_SPACE) for text in follow_rules(prepared)]

    letters = {" ", "\u2581"}.union(*(piece.piece for piece in model.pieces))

    def tells(before, found):
        return not (before and found and letters.isdisjoint(before + found))

    characters = list({*_CHARACTERS, *(key for key in keys if len(key) == 1)})
    image = dict(zip(characters, images(characters), strict=True))
    new_rules = [(c, to) for c, to in image.items() if to != c and tells(c, to)]
    new_rules += zip(sequences, images(sequences), strict=True)
    strings = [key for key in keys if len(key) > 1]
    apart = ["".join(image.get(c, c) for c in string) for string in strings]
    together = [
        (string, before, found)
        for string, before, found in zip(strings, apart, images(strings), strict=True)
        if before != found
    ]
    # All or none: where a long rule is missing, a short one would act in its place.
    if any(tells(before, found) for _, before, found in together):
        new_rules += [(string, found) for string, _, found in together]
    normalizer = sentencepiece.SentencePieceNormalizer(
        norm_map=[*dict(new_rules).items()]
    )
    made = format_of.NormalizerSpec()
    made.ParseFromString(normalizer.serialized_normalizer_spec())
    spec.name = "user_defined"
    spec.precompiled_charsmap = made.precompiled_charsmap
    return model.SerializeToString()
