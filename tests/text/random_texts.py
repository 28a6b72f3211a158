"""Random Unicode: words, emoji, marks, both directions, controls, zero width."""

import random

_WORDS = (
    "the of un ##able [SEP] [CLS] [MASK] <pad> don't it's `` '' 9,000, 1,2, 2019, "
    "Caf\u00e9 \u0130stanbul \u03a3\u0391\u03a3 \u00c5ngstr\u00f6m na\u0131ve \ufb01ne "
    "\u2026 hello world ing pre a b c , . ! \U0001f468\u200d\U0001f469\u200d\U0001f467"
).split()
_ODD = (
    "\x7f\x80\x85\xa0\xad\u200b\u200c\u200d\u200e\u202e\u2028\u2029\u2060\ufeff\ufffd"
    "\u3000\u180e\u1680\u2000\u2009\u202f"
)
# First, last and step of what one stretch of a text is drawn from.
_RANGES = [
    (0x20, 0x7F, 1),
    (0x00, 0x21, 1),
    (0xA0, 0x250, 1),
    (0x300, 0x370, 1),
    (0x370, 0x530, 1),
    (0x590, 0x700, 1),
    (0x700, 0xE80, 1),
    (0x1E00, 0x2C00, 1),
    (0x3000, 0x3400, 1),
    (0x4E00, 0x9FFF, 37),
    (0x1100, 0x1200, 1),
    (0xAC00, 0xD7A3, 53),
    (0xF900, 0x10000, 1),
    (0x1F300, 0x1FB00, 1),
    (0x10000, 0x20000, 11),
    (0x20000, 0x110000, 997),
]


def random_texts(number, seed=0):
    """Returns `number` strings, other ones for another seed."""
    draw = random.Random(seed)
    pools = [[chr(i) for i in range(*limits)] for limits in _RANGES] + [list(_ODD)]
    texts = []
    for _ in range(number):
        parts = []
        for _ in range(draw.randint(1, 6)):
            if draw.random() < 0.35:
                parts.append(draw.choice(_WORDS))
            else:
                parts += draw.choices(draw.choice(pools), k=draw.randint(1, 8))
            if draw.random() < 0.5:
                parts.append(" ")
        texts.append("".join(parts))
    return texts


def every_character():
    """Returns every character of Unicode within a word of its own."""
    return [f"a{chr(i)}b" for i in range(0x110000) if not 0xD800 <= i < 0xE000]


def long_words():
    """Words around 100 characters, of one to four bytes each, and one of 100 kB."""
    letters = "a\u0434\u0e44\U00010330"
    words = [c * n for c in letters for n in (50, 99, 100, 101, 102, 399, 401)]
    accented = "so " + "e\u0301" * 60 + " it, " + "e\u0301" * 101 + "."
    return [*words, "x" * 100_000, accented]
