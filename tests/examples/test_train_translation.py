"""`train_translation.py` as a user runs it, on a language of a dozen words."""

import gzip
import importlib
import json
import pathlib
import sys

import keras
import numpy as np
import pytest

sacrebleu = pytest.importorskip("sacrebleu", reason="needs the [scores] extra")
pytestmark = pytest.mark.slow

WORDS = {
    "A": "Ein", "The": "Der", "man": "Mann", "dog": "Hund", "bird": "Vogel",
    "sees": "sieht", "finds": "findet", "a": "einen", "the": "den", "tree": "Baum",
    "ball": "Ball", "hat": "Hut",
}  # fmt: skip


def write_pairs(folder, name, count, seed):
    """Writes sentences such as "A man sees the ball." and their translations."""
    draw = np.random.default_rng(seed)
    words = list(WORDS)
    parts = words[:2], words[2:5], words[5:7], words[7:9], words[9:] + words[3:5]
    lines = [[draw.choice(part) for part in parts] for _ in range(count)]
    files = []
    for side in ("en", "de"):
        file = folder / f"{name}.{side}.gz"
        with gzip.open(file, "wt", encoding="utf-8") as stream:
            for line in lines:
                line = [WORDS[word] for word in line] if side == "de" else line
                stream.write(" ".join(line) + ".\n")
        files.append(file)
    return files


def test_translates_averages_and_resumes(tmp_path, monkeypatch, capsys):
    folder = pathlib.Path(__file__).parents[2] / "examples"
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop("train_translation", None)
    script = importlib.import_module("train_translation")
    (source, target), dev = (
        write_pairs(tmp_path, "train", 499, 1),
        write_pairs(tmp_path, "dev", 23, 2),
    )
    output = tmp_path / "out"
    common = (
        f"--source {source} --target {target} --dev-source {dev[0]} --dev-target "
        f"{dev[1]} --output {output} --vocabulary-size 100 --num-layers 1 --hidden-dim "
        "32 --intermediate-dim 64 --dropout 0.1 --tokens-per-batch 256 --longest 24 "
        "--warmup-steps 60 --averaged 2 --num-beams 2 --shown 1"
    ).split()
    script.main([*common, "--epochs", "12"])
    told = capsys.readouterr().out
    assert "499 pairs, left out: {}" in told and "|tok:13a|" in told
    translations = (output / "translations.txt").read_text("utf-8").splitlines()
    references = gzip.open(dev[1], "rt", encoding="utf-8").read().splitlines()
    scores = json.loads((output / "scores.json").read_text())
    expected = sacrebleu.corpus_bleu(translations, [references])
    assert scores["BLEU"] == pytest.approx(expected.score)
    assert scores["BLEU"] > 70, "a dozen words were not learned"
    assert scores["BLEU signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a")
    for picture in ("curves.png", "attention.png"):
        assert (output / picture).read_bytes().startswith(b"\x89PNG")

    # The model that was written is the mean of the last two epochs.
    model = keras.models.load_model(output / "model.keras", compile=False)
    found = model.get_weights()
    states = []
    for epoch in (11, 12):
        model.load_weights(output / f"epoch-{epoch}.weights.h5")
        states.append(model.get_weights())
    for mean, first, second in zip(found, *states, strict=True):
        np.testing.assert_allclose(mean, (first + second) / 2, atol=1e-6)
    assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(*states, strict=True))

    with pytest.raises(SystemExit):
        script.main([*common, "--epochs", "13"])
    assert "add --resume" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="began with --seed 0; now it is 1"):
        script.main([*common, "--epochs", "13", "--resume", "--seed", "1"])
    script.main([*common, "--epochs", "13", "--resume"])
    told = capsys.readouterr().out
    assert "epoch 12/13" not in told and "epoch 13/13" in told
