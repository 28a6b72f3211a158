"""Texts, settings and pieces on which an app's tokenizer goes wrong first."""

TEXTS = [
    "",
    "  Two\tspaces\u00a0and \u3000 others\r\n",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
    "Ὀδυσσεύς ΣΊΣΥΦΟΣ İstanbul ǅ ﬁne",
    "机器学习 and 日本語のテキスト, 한국어",
    "e\u0301 \u200bzero\u200dwidth so\u00adft \ufffd \x00 \x7f control",
    "a\x0bb \x0cc d\x85e f\u2028g h\u2029i \ufeffj \x1ck",
    "💡 emoji 👩‍💻 x²+y^2=`z` $5 <tag> a|b ~c ¿qué? «no» —dash…",
    "x" * 100 + " " + "x" * 101,
    "[CLS] [SEP] ##ing don't u.s.a. 3.14e-5 snake_case->arrow",
    "The [MASK]ed word[MASK][MASK] Café u.s Straße \U0002a6d6\U0002b8ff",
]
SETTINGS = [
    {},
    {"lowercase": False},
    {"strip_accents": False},
    {"lowercase": False, "strip_accents": True},
    {"split_chinese_characters": False},
    {"never_split": ("[MASK]", "[CLS]", "u.s", "u")},
]
# A piece that ends lines elsewhere, and accents beside letters without them.
PIECES = [
    *("[PAD]", "the", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *("\u2028", "\x85", "caf", "##é", "cafe", "Caf", "u.s", "u", "s", ".", "[", "]"),
    *(
        "中国",
        "机",
        "机器",
        "##器",
        "学",
        "习",
        "x",
        "##x",
        "σισυφος",
        "σίσυφος",
        "##ς",
    ),
    *("zerowidth", "soft", "e", "é", "ee", "i", "##̇", "istanbul", "mask", "ed", "word"),
    *("ab", "b", "de", "d", "f", "g", "h", "j", "k", "MASK", "The", "\U0002b8ff"),
]
