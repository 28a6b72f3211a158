// BERT's tokens in JavaScript, the same ids as `keras_tformer.text.WordPieceTokenizer`
// (but for signs that Unicode has got since its version 8, which the Rust library lacks).

const PUNCTUATION = /[\p{P}$+<=>^`|~]/u;
const CONTROL = /[\p{Cc}\p{Cf}\p{Co}\uFFFD]/u;
const IDEOGRAPHS = [
  [0x4e00, 0x9fff], [0x3400, 0x4dbf], [0x20000, 0x2a6df], [0x2a700, 0x2b73f],
  [0x2b740, 0x2b81f], [0x2b920, 0x2ceaf], [0xf900, 0xfaff], [0x2f800, 0x2fa1f],
];

/** Reads `vocab.txt`, one piece a line, into a Map from piece to id. */
export function readVocabulary(text) {
  const pieces = text.split("\n").map((line) => line.replace(/\r$/, ""));
  if (pieces.at(-1) === "") pieces.pop();
  return new Map(pieces.map((piece, id) => [piece, id]));
}

/** Cuts a text into the ids of its longest known pieces, as the card says. */
export function wordPieces(text, vocabulary, card) {
  const kept = [...(card.never_split ?? [])].sort((a, b) => b.length - a.length);
  const literal = kept.map((token) => token.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&"));
  const parts = kept.length ? text.split(new RegExp(`(${literal.join("|")})`)) : [text];
  return parts.flatMap((part) => kept.includes(part)
    ? [vocabulary.get(part)]
    : words(part, card).flatMap((word) => piecesOf(word, vocabulary, card)));
}

function piecesOf(word, vocabulary, card) {
  const characters = [...word];
  if (characters.length > (card.max_characters_per_word ?? 100)) return [card.unknown_id];
  const pieces = [];
  for (let start = 0; start < characters.length; ) {
    const prefix = start ? (card.continuation_prefix ?? "##") : "";
    let end = characters.length;
    let id;
    for (; end > start; end--) {
      id = vocabulary.get(prefix + characters.slice(start, end).join(""));
      if (id !== undefined) break;
    }
    if (id === undefined) return [card.unknown_id];
    pieces.push(id);
    start = end;
  }
  return pieces;
}

/** [CLS] ids [SEP], cut and padded to the card's length: one array for each input. */
export function pack(ids, card) {
  const length = card.inputs.token_ids.shape[1]; // the longest of several
  const row = [card.start_id, ...ids.slice(0, length - 2), card.end_id];
  const filled = (values, rest) => Int32Array.from({ length }, (_, i) => values[i] ?? rest);
  return {
    token_ids: filled(row, card.padding_id),
    segment_ids: new Int32Array(length),
    padding_mask: filled(row.map(() => 1), 0),
  };
}

/** Probabilities of the classes: the output itself, or the softmax of its logits. */
export function shares(numbers, card) {
  if (Object.values(card.outputs)[0].values === "probabilities") return numbers;
  const powers = numbers.map((logit) => Math.exp(logit - Math.max(...numbers)));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}

function words(text, card) {
  let clean = "";
  for (const character of text) {
    if (/[\t\n\r\p{Z}]/u.test(character)) clean += " ";
    else if (CONTROL.test(character)) continue;
    else if ((card.split_chinese_characters ?? true) && isIdeograph(character.codePointAt(0))) {
      clean += ` ${character} `;
    } else clean += character;
  }
  if (card.strip_accents ?? card.lowercase) {
    clean = clean.normalize("NFD").replace(/\p{Mn}/gu, "");
  }
  if (card.lowercase) {
    // One by one: the whole string would turn a final sigma into another letter.
    clean = [...clean].map((character) => character.toLowerCase()).join("");
  }
  clean = [...clean].map((c) => (PUNCTUATION.test(c) ? ` ${c} ` : c)).join("");
  return clean.split(" ").filter((word) => word !== "");
}

function isIdeograph(code) {
  return IDEOGRAPHS.some(([first, last]) => first <= code && code <= last);
}
