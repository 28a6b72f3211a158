"""A vocabulary of word pieces learned from texts."""

import collections
import unicodedata

from keras_tformer.text.rust_engine import import_tokenizers

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train_word_pieces(texts, vocabulary_size, normalizer, show_progress=True):
    """Learns word pieces from `texts`: the same texts give the same pieces.

    Args:
        texts: iterable of strings.
        vocabulary_size: int. Largest number of pieces, special tokens included.
        normalizer: a normalizer of the library `tokenizers`.
        show_progress: bool. Draw the progress bars of `tokenizers`.

    Returns:
        List of pieces in the order of their ids, the special tokens first.

    Raises:
        ValueError: if `vocabulary_size` leaves no room beside the special tokens
            and the letters, or if the texts hold no word.
    """
    tokenizers = import_tokenizers()
    if vocabulary_size <= len(SPECIAL_TOKENS):
        raise ValueError(
            f"vocabulary_size is {vocabulary_size}; expected more than the "
            f"{len(SPECIAL_TOKENS)} special tokens. A few thousand is usual."
        )
    texts, continuations = _alphabet([normalizer.normalize_str(t) for t in texts])
    engine = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    engine.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=vocabulary_size,
        min_frequency=2,
        # Left alone, the trainer numbers "##a", "##b" ... in the order of a hash
        # table, other in every process, and resolves ties by these numbers.
        special_tokens=[*SPECIAL_TOKENS, *continuations],
        continuing_subword_prefix="##",
        show_progress=show_progress,
    )
    engine.train_from_iterator(texts, trainer)
    pieces = engine.get_vocab()
    if len(pieces) == len(SPECIAL_TOKENS):
        raise ValueError(
            "The texts hold no word to learn from; expected an iterable of "
            "non-empty strings."
        )
    if len(pieces) > vocabulary_size:
        raise ValueError(
            f"vocabulary_size is {vocabulary_size}; expected at least "
            f"{len(pieces)}, the special tokens and the letters of the texts. A "
            "few thousand is usual."
        )
    return sorted(pieces, key=pieces.get)


def _alphabet(texts, max_characters=1000):
    """Replaces rare characters by spaces where there are more than `max_characters`.

    Returns:
        The texts, and the pieces "##c" for all characters c that go on with a word.
    """
    words = collections.Counter()
    for text in texts:
        words.update(text.split())
    counts = collections.Counter()
    pairs = set()
    for word, count in words.items():
        for character in word:
            counts[character] += count
        pairs.update(zip(word, word[1:], strict=False))
    common = sorted(counts, key=lambda c: (-counts[c], c))[:max_characters]
    if len(common) < len(counts):
        rare = dict.fromkeys(map(ord, counts.keys() - set(common)), " ")
        texts = [text.translate(rare) for text in texts]
    inside = {c for c in common if not _is_punctuation(c)}
    continuing = {after for before, after in pairs if before in inside} & inside
    return texts, ["##" + c for c in sorted(continuing)]


def _is_punctuation(character):
    """What BERT splits at: Unicode's punctuation, and all of ASCII's signs."""
    return unicodedata.category(character).startswith("P") or (
        character.isascii() and not character.isalnum()
    )
