"""`generate_text.py` on tiny models: what streams is what `generate` returns."""

import json
import pathlib

import keras
import numpy as np
import pytest

import keras_tformer as kt

tokenizers = pytest.importorskip("tokenizers", reason="needs the [text] extra")
pytestmark = pytest.mark.slow

SIZES = {
    "num_layers": 1,
    "num_heads": 2,
    "hidden_dim": 14,
    "intermediate_dim": 11,
    "max_sequence_length": 23,
    "initializer_range": 0.4,
}
TEXTS = ["Grüße aus Köln, wo Bäume grün sind", "naïve cafés serve jalapeños"] * 3


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parents[2] / "examples"))
    import generate_text

    return generate_text


def test_what_train_causal_lm_wrote(tmp_path, script, capsys):
    keras.utils.set_random_seed(5)
    tokenizer = kt.text.WordPieceTokenizer.train(TEXTS, 60, show_progress=False)
    tokenizer.save(tmp_path / "vocab.txt")
    model = kt.models.causal_lm(vocabulary_size=tokenizer.vocabulary_size, **SIZES)
    model.save(tmp_path / "model.keras")
    common = ["--model", str(tmp_path), "--prompt", "cafés"]
    script.main([*common, "--num-sequences", "2", "--seed", "3", "--top-p", "1"])
    shown = capsys.readouterr().out.split("\n\n")[:2]
    prompt = [tokenizer.start_id, *tokenizer.encode(["cafés"])[0]]
    expected = [
        tokenizer.decode(
            kt.models.generate(
                model,
                [prompt],
                max_length=23,  # the model's, below the 60 that are asked for
                sampler="top_p",
                top_p=1.0,
                end_token_id=tokenizer.end_id,
                seed=seed,
                jit_compile=False,
            )
        )
        for seed in (3, 4)
    ]
    assert shown == expected and shown[0] != shown[1]
    assert shown[0].startswith("cafes")

    script.main([*common, "--sampler", "greedy", "--max-tokens", "5"])
    text = kt.models.generate(
        model,
        [prompt],
        len(prompt) + 5,
        end_token_id=tokenizer.end_id,
        jit_compile=False,
    )
    assert capsys.readouterr().out == tokenizer.decode(text) + "\n\n"


def test_a_gpt2_folder(tmp_path, script, capsys):
    keras.utils.set_random_seed(5)
    # No pair is merged: every token is a byte, so that "ü" takes two.
    trained = tokenizers.ByteLevelBPETokenizer()
    trained.train_from_iterator(TEXTS, 257, special_tokens=["<|endoftext|>"])
    model = kt.models.causal_lm(vocabulary_size=257, **SIZES | {"dropout": 0.1})
    kt.checkpoints.save_huggingface(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"eos_token_id": 0}))
    trained.save(str(tmp_path / "tokenizer.json"))
    script.main(["--model", str(tmp_path), "--prompt", "Köln ü", "--sampler", "greedy"])
    prompt = trained.encode("Köln ü").ids
    assert len(prompt) == 8
    ids = kt.models.generate(model, [prompt], 23, end_token_id=0, jit_compile=False)[0]
    assert capsys.readouterr().out.rstrip("\n") == trained.decode(
        [int(i) for i in ids if i]
    ).rstrip("\ufffd")

    (tmp_path / "tokenizer.json").unlink()
    trained.save_model(str(tmp_path))  # GPT-2's own two files
    _, encode, decode, end = script.load(tmp_path)
    assert encode("Köln ü") == prompt and decode(prompt) == "Köln ü"
    assert encode("") == [end] == [0]


def test_a_character_waits_for_its_last_byte(script, capsys):
    encoded = "aü€".encode()
    screen = script.Screen([], lambda ids: bytes(ids).decode(errors="replace"), None)
    shown = []
    for byte in encoded:
        screen(np.array([byte]))
        shown.append(capsys.readouterr().out)
    assert shown == ["a", "", "ü", "", "", "€"]
