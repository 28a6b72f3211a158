"""Continues a prompt with a language model, and shows every token as it is chosen.

    python examples/generate_text.py --model out --prompt "the river"
    python examples/generate_text.py --model gpt2_folder --prompt "The river" \\
        --temperature 0.8 --num-sequences 3 --seed 7

`--model` is what `train_causal_lm.py` wrote into its `--output`, or a folder with
GPT-2's weights and tokenizer as Hugging Face saves them.
"""

import argparse
import pathlib

from open_checkpoint import open_language_model

import keras_tformer as kt


def main(arguments=None):
    options = read_options(arguments)
    model, encode, decode, end_token_id = load(options.model)
    prompt = encode(options.prompt)
    longest = model.get_layer("position_embedding").max_sequence_length
    for number in range(options.num_sequences):
        kt.models.generate(
            model,
            [prompt],
            max_length=min(len(prompt) + options.max_tokens, longest),
            sampler=options.sampler,
            end_token_id=end_token_id,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            repetition_penalty=options.repetition_penalty,
            seed=None if options.seed is None else options.seed + number,
            callback=Screen(prompt, decode, end_token_id),
        )
        print("\n")


class Screen:
    """Prints a text while it grows."""

    def __init__(self, prompt, decode, end_token_id):
        self.token_ids, self.decode, self.end_token_id = [*prompt], decode, end_token_id
        self.shown = ""
        self.show()

    def __call__(self, tokens):
        self.token_ids += [int(token) for token in tokens if token != self.end_token_id]
        self.show()

    def show(self):
        # A character of several bytes may still lack some: it waits for them.
        text = self.decode(self.token_ids).rstrip("\ufffd")
        print(text[len(self.shown) :], end="", flush=True)
        self.shown = text


def read_options(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=pathlib.Path, required=True)
    add("--prompt", required=True)
    add("--max-tokens", type=int, default=60, help="to write, at most")
    add("--sampler", choices=("greedy", "top_k", "top_p"), default="top_p")
    add("--temperature", type=float, default=1.0, help="below 1 for likelier texts")
    add("--top-k", type=int, default=50, help="tokens to draw from, for top_k")
    add("--top-p", type=float, default=0.9, help="their probability, for top_p")
    add("--repetition-penalty", type=float, default=1.0, help="above 1 against loops")
    add("--num-sequences", type=int, default=1, help="texts to write")
    add("--seed", type=int, help="for the same texts every time")
    return parser.parse_args(arguments)


def load(folder):
    """Gives a model, text to ids, ids to text, and the id that ends a text."""
    ours = folder / "model.keras"
    model, tokenizer = open_language_model(ours if ours.exists() else folder)

    def encode(text):
        ids = tokenizer.encode([text])[0]
        if tokenizer.start_id != tokenizer.end_id:
            return [tokenizer.start_id, *ids]
        # Every text of GPT-2's corpus stood behind an end: an empty one does so here.
        return ids or [tokenizer.end_id]

    return model, encode, tokenizer.decode, tokenizer.end_id


if __name__ == "__main__":
    main()
