"""The runner of a file that translates, on a toy: letters for letters."""

import importlib.util
import pathlib
import re

import keras
import numpy as np
import pytest

from keras_tformer import data, export, models, text, training

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "translate_on_device.py"

pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert")


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("translate_on_device", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model that writes each letter as the next one, and what it learned from."""
    keras.utils.set_random_seed(1)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    settings = {"strip_accents": False, "never_split": ("[MASK]",)}
    tokenizer = text.WordPieceTokenizer([*special, *"abcdefghijk"], **settings)
    draw = np.random.default_rng(1)
    rows = [draw.integers(0, 11, draw.integers(2, 6)) for _ in range(2048)]
    sources, targets = (
        [" ".join("abcdefghijk"[(i + shift) % 11] for i in row) for row in rows]
        for shift in (0, 1)
    )
    task = data.translation_task(
        sources,
        targets,
        tokenizer,
        tokens_per_batch=448,
        bucket_lengths=(7,),
        shuffle=True,
        drop_remainder=True,
    )
    model = models.transformer(
        vocabulary_size=tokenizer.vocabulary_size,
        num_layers=1,
        num_heads=2,
        hidden_dim=64,
        intermediate_dim=64,
        dropout=0.0,
    )
    model.compile(
        keras.optimizers.Adam(3e-3, beta_2=0.98),
        **training.compile_arguments("transformer"),
        jit_compile=True,
    )
    model.fit(task.dataset, epochs=9, shuffle=False, verbose=0)
    folder = tmp_path_factory.mktemp("translation")
    model.save(folder / "model.keras")
    return model, tokenizer, next(iter(task.dataset))[0], sources, targets, folder


@pytest.mark.slow
@pytest.mark.parametrize("quantization", [None, "dynamic_range", "int8"])
def test_writes_what_the_model_writes(example, trained, capsys, quantization):
    model, tokenizer, pairs, sources, targets, folder = trained
    report = export.to_tflite(
        model,
        folder / f"{quantization}.tflite",
        sequence_length=7,
        max_length=7,
        quantization=quantization,
        representative_data=pairs,
        tokenizer=tokenizer,
    )
    card = ["--model", report["card"]]
    read = example.Translator(pathlib.Path(report["card"])).read
    assert read("a [MASK] é")[:3] == [5, 4, 1]  # as its settings say, not "e"
    example.main([*card, *sources[:61]])
    written = capsys.readouterr().out.splitlines()[:-1]
    assert sum(a == b for a, b in zip(written, targets, strict=False)) >= 59
    lines = folder / "lines.txt"
    lines.write_text("\n".join(sources[:97]))
    example.main([*card, "--lines", str(lines), "--compare", f"{folder}/model.keras"])
    equal = int(re.search(r"(\d+) of 97 lines", capsys.readouterr().out)[1])
    assert equal == 97 if quantization is None else equal >= 94
