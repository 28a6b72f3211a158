// Loads a card, its vocabulary and its model; classifies while the user types.
// ?card=URL names another card than that of the committed model.

import { loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";
import { pack, readVocabulary, shares, wordPieces } from "./word_pieces.js";

const CARD = "../../savedmodels/quickstart/classifier_int8.json";
const [box, status, bars] = ["text", "status", "bars"].map((id) => document.getElementById(id));

async function load() {
  const address = new URL(new URLSearchParams(location.search).get("card") ?? CARD, location);
  const card = await (await checked(address)).json();
  const vocabulary = readVocabulary(await (await checked(new URL(card.vocabulary, address))).text());
  await loadLiteRt("./node_modules/@litertjs/core/wasm/");
  const content = await (await checked(new URL(card.file, address))).arrayBuffer();
  const model = await loadAndCompile(new Uint8Array(content), { accelerator: "wasm" });
  return { card, vocabulary, model };
}

async function checked(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address}: ${answer.status} ${answer.statusText}`);
  return answer;
}

async function classify(text, { card, vocabulary, model }) {
  const inputs = {};
  const packed = pack(wordPieces(text, vocabulary, card), card);
  for (const name in card.inputs) {
    inputs[name] = new Tensor(packed[name], card.inputs[name].shape);
  }
  const outputs = Object.values(await model.run(inputs));
  const numbers = Array.from(await outputs[0].data());
  // The runtime's memory is its own: what is not deleted stays.
  [...Object.values(inputs), ...outputs].forEach((tensor) => tensor.delete());
  return shares(numbers, card).map((share, index) => ({
    name: card.classes?.[index] ?? `${index}`,
    share,
  }));
}

function draw(classes) {
  classes.sort((a, b) => b.share - a.share);
  bars.replaceChildren(...classes.map(({ name, share }) => {
    const [row, label, bar, value] = ["div", "span", "div", "output"].map((tag) =>
      document.createElement(tag));
    row.className = "bar";
    label.textContent = name;
    bar.style.width = `${100 * share}%`;
    value.textContent = `${(100 * share).toFixed(1)} %`;
    row.append(label, bar, value);
    return row;
  }));
}

try {
  const loaded = await load();
  let running = Promise.resolve();
  box.addEventListener("input", () => {
    const text = box.value;
    // One at a time: the model has one set of tensors.
    running = running.then(async () => {
      if (text !== box.value) return; // typed on meanwhile
      const start = performance.now();
      draw(await classify(text, loaded));
      status.textContent = `${(performance.now() - start).toFixed(1)} ms`;
      bars.dataset.text = text;
    });
  });
  box.disabled = false;
  status.textContent = "Type a sentence.";
} catch (error) {
  status.textContent = `It does not work: ${error.message ?? error}`;
}
