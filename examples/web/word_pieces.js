// BERT's tokens in JavaScript, the same ids as `keras_tformer.text.WordPieceTokenizer`.

const PUNCTUATION = /[\p{P}$+<=>^`|~]/u;
const CONTROL = /[\p{Cc}\p{Cf}\p{Co}\uFFFD]/u;
const IDEOGRAPHS = [
  [0x4e00, 0x9fff], [0x3400, 0x4dbf], [0x20000, 0x2a6df], [0x2a700, 0x2b73f],
  [0x2b740, 0x2b81f], [0x2b920, 0x2ceaf], [0xf900, 0xfaff], [0x2f800, 0x2fa1f],
];
const LONGEST_WORD = 100;

/** Reads `vocab.txt`, one piece a line, into a Map from piece to id. */
export function readVocabulary(text) {
  const pieces = text.split("\n").map((line) => line.replace(/\r$/, ""));
  if (pieces.at(-1) === "") pieces.pop();
  return new Map(pieces.map((piece, id) => [piece, id]));
}

/** Cuts a text into the ids of its longest known pieces. */
export function wordPieces(text, vocabulary, lowercase = true) {
  const unknown = vocabulary.get("[UNK]");
  const ids = [];
  for (const word of words(text, lowercase)) {
    const characters = [...word];
    const pieces = [];
    for (let start = 0; start < characters.length; ) {
      let end = characters.length > LONGEST_WORD ? start : characters.length;
      let id;
      for (; end > start; end--) {
        const piece = characters.slice(start, end).join("");
        id = vocabulary.get(start ? `##${piece}` : piece);
        if (id !== undefined) break;
      }
      if (id === undefined) {
        pieces.length = 0;
        pieces.push(unknown);
        break;
      }
      pieces.push(id);
      start = end;
    }
    ids.push(...pieces);
  }
  return ids;
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

function words(text, lowercase) {
  let clean = "";
  for (const character of text) {
    if (/\s/u.test(character)) clean += " ";
    else if (CONTROL.test(character)) continue;
    else if (isIdeograph(character.codePointAt(0))) clean += ` ${character} `;
    else clean += character;
  }
  if (lowercase) {
    clean = clean.normalize("NFD").replace(/\p{Mn}/gu, "");
    // One by one: the whole string would turn a final sigma into another letter.
    clean = [...clean].map((character) => character.toLowerCase()).join("");
  }
  clean = [...clean].map((c) => (PUNCTUATION.test(c) ? ` ${c} ` : c)).join("");
  return clean.split(" ").filter((word) => word !== "");
}

function isIdeograph(code) {
  return IDEOGRAPHS.some(([first, last]) => first <= code && code <= last);
}
