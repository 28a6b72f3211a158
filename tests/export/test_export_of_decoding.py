"""Models that write text: a step a call in `.tflite`, a whole search in SavedModel."""

import keras
import numpy as np
import pytest

from keras_tformer import export, text
from keras_tformer.models import causal_lm, generate, transformer

litert = pytest.importorskip(
    "ai_edge_litert.interpreter", reason="the files are proved on ai_edge_litert"
)
S, T, V = 11, 13, 61
END = 3
SIZES = {
    "vocabulary_size": V,
    "num_layers": 2,
    "num_heads": 2,
    # 34 x 34: the converter leaves weights of fewer than 1,024 values in float.
    "hidden_dim": 34,
    "intermediate_dim": 38,
}


def make(build, **more):
    """A model whose logits differ as a trained model's do."""
    keras.utils.set_random_seed(7)
    model = build(**SIZES | more)
    draw = np.random.default_rng(7)
    for weight in model.weights:
        weight.assign(weight + draw.normal(0, 0.15, weight.shape))
    return model


@pytest.fixture(scope="module")
def translator():
    return make(transformer)


@pytest.fixture(scope="module")
def pairs():
    """Inputs of the model for 41 pairs of all lengths."""
    draw = np.random.default_rng(3)
    arrays = {}
    for side, length in (("encoder", S), ("decoder", T)):
        lengths = draw.integers(1, length + 1, 41)
        mask = (np.arange(length) < lengths[:, None]).astype("int32")
        ids = draw.integers(4, V, mask.shape).astype("int32")
        arrays |= {f"{side}_token_ids": ids * mask, f"{side}_padding_mask": mask}
    return arrays


def write_alone(file, prompt, source=None):
    """What a file writes on LiteRT, without the code under test."""
    interpreter = litert.Interpreter(model_path=str(file))
    step = interpreter.get_signature_runner("decode_step")
    memory = {}
    if source is not None:
        memory = interpreter.get_signature_runner("encode")(**source)
        memory = {name: value.copy() for name, value in memory.items()}
        memory["encoder_padding_mask"] = source["encoder_padding_mask"]
    state = {
        name: np.zeros(detail["shape"], "float32")
        for name, detail in step.get_input_details().items()
        if name.startswith("self")
    }
    written = list(prompt)
    for position in range(T - 1):
        inputs = {
            "token_ids": np.array([[written[position]]], "int32"),
            "position": np.array([position], "int32"),
        }
        state = {k: v.copy() for k, v in step(**inputs, **memory, **state).items()}
        token = int(state.pop("logits").argmax())
        if position + 1 == len(written):
            written.append(token)
            if token == END:
                break
    return written


def first_sources(pairs, count):
    for row in range(count):
        yield {k: v[row : row + 1] for k, v in pairs.items() if "encoder" in k}


@pytest.mark.slow
@pytest.mark.parametrize("position", ["sinusoidal", "learned"])
def test_file_writes_what_generate_writes(pairs, tmp_path, position):
    more = {"normalize_first": True, "share_embeddings": False, "use_output_bias": True}
    model = make(transformer, position=position, **(more if position[0] == "l" else {}))
    file = tmp_path / "model.tflite"
    export.to_tflite(model, file, sequence_length=S, max_length=T)
    expected = generate(
        model,
        {name: ids for name, ids in pairs.items() if "encoder" in name},
        max_length=T,
        start_token_id=2,
        end_token_id=END,
    )
    for row, source in enumerate(first_sources(pairs, 41)):
        written = write_alone(file, [2], source)
        np.testing.assert_array_equal(written, expected[row, : len(written)])
        assert not expected[row, len(written) :].any()


@pytest.mark.slow
def test_causal_file_writes_what_generate_writes(tmp_path):
    model = make(causal_lm, max_sequence_length=17)
    file = tmp_path / "model.tflite"
    report = export.to_tflite(model, file, max_length=T)
    assert report["signatures"] == ["decode_step"]
    for prompt in ([5, 7, 11], [13], [17, 19, 23, 29, 31]):
        expected = generate(model, [prompt], max_length=T, end_token_id=END)[0]
        written = write_alone(file, prompt)
        np.testing.assert_array_equal(written, expected[: len(written)])


@pytest.mark.slow
@pytest.mark.parametrize(
    "quantization, weight_share, mean_error",
    [
        (None, 1.0, 1e-5),
        ("float16", 0.5, 1e-3),
        ("dynamic_range", 0.25, 0.05),
        ("int8", 0.25, 0.1),
    ],
)
def test_mode_against_keras(
    translator, pairs, tmp_path, quantization, weight_share, mean_error
):
    """Every weight once for both signatures, and the logits of the whole model."""
    report = export.to_tflite(
        translator,
        tmp_path / "model.tflite",
        sequence_length=S,
        max_length=T,
        quantization=quantization,
        representative_data=pairs,
    )
    assert report["signatures"] == ["decode_step", "encode"]
    stored = sum(report["weight_bytes"].values())
    parameters = report["parameters"]
    assert stored < 1.1 * weight_share * 4 * parameters + 4 * T * 34 + 6000
    if quantization == "int8":
        # Into int8 go keys and values, which the caches take, and what GELU reads; not
        # queries, what sums add up and the logits; attention itself is float.
        width, inner = SIZES["hidden_dim"], SIZES["intermediate_dim"]
        macs = {
            "int8": SIZES["num_layers"] * (2 * width + inner) * width,
            "float32*int8": SIZES["num_layers"] * (4 * width + inner) * width
            + V * width,
            "float32": SIZES["num_layers"] * 2 * (T + S) * width,
        }
        assert report["macs_by_dtype"] == macs
    answers = export.predict(report["file"], pairs)["output"]
    expected = translator.predict(pairs, verbose=0)
    kept = pairs["decoder_padding_mask"].astype(bool)
    difference = np.abs(answers - expected)[kept].mean()
    assert difference <= mean_error * expected[kept].std()
    assert report["verification"]["examples"] == 32


@pytest.mark.slow
def test_decoder_alone_in_sixteen_bits(tmp_path):
    model = make(causal_lm)
    draw = np.random.default_rng(3)
    mask = (np.arange(T) < draw.integers(1, T + 1, (41, 1))).astype("int32")
    ids = draw.integers(4, V, mask.shape).astype("int32") * mask
    rows = {"token_ids": ids, "padding_mask": mask}
    report = export.to_tflite(
        model,
        tmp_path / "model.tflite",
        max_length=T,
        quantization="int16x8",
        representative_data=rows,
    )
    assert set(report["macs_by_dtype"]) == {"int16", "int16*int8"}
    answers = export.predict(report["file"], rows)["output"]
    expected = model.predict(rows, verbose=0)
    kept = mask.astype(bool)
    assert np.abs(answers - expected)[kept].mean() < 0.02 * expected[kept].std()


def test_file_that_fails_is_not_left(translator, pairs, tmp_path):
    with pytest.raises(ValueError, match="No file was written"):
        export.to_tflite(
            translator,
            tmp_path / "model.tflite",
            sequence_length=S,
            max_length=T,
            quantization="dynamic_range",
            representative_data=pairs,
            tolerance=1e-7,
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"max_length": 1}, "max_length=1"),
        ({"max_length": 2.5}, "max_length=2.5"),
        ({"sequence_length": (S, 5)}, "one length of sources"),
        ({"class_names": ["a"]}, "no classes"),
        ({"quantization": "int16x8", "representative_data": {}}, "int16x8"),
    ],
)
def test_refused(translator, tmp_path, arguments, message):
    arguments = {"sequence_length": S, "max_length": T, **arguments}
    with pytest.raises(ValueError, match=message):
        export.to_tflite(translator, tmp_path / "model.tflite", **arguments)
    assert not list(tmp_path.iterdir())


def test_refused_beyond_positions(tmp_path):
    model = causal_lm(**SIZES, max_sequence_length=7)
    with pytest.raises(ValueError, match="positions for 7 tokens"):
        export.to_tflite(model, tmp_path / "model.tflite", max_length=T)


# === SavedModel ===

LINES = ["a small model reads the text", "the text is read", "read, read: text!", "a"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["WordPieceTokenizer", "SentencePieceTokenizer"])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_saved_model_translates_strings(tmp_path, kind, num_beams):
    tokenizer = getattr(text, kind).train(LINES * 9, V, show_progress=False)
    model = make(transformer, vocabulary_size=tokenizer.vocabulary_size)
    report = export.to_saved_model(
        model,
        tmp_path / "model",
        tokenizer=tokenizer,
        max_length=T,
        num_beams=num_beams,
    )
    assert set(report["signatures"]) == {"serving_default", "translate"}
    stored = (tmp_path / "model/variables/variables.data-00000-of-00001").stat().st_size
    assert stored < 4 * report["parameters"] + 10_000  # names and shapes of variables
    found = export.predict(
        tmp_path / "model",
        {"texts": LINES},
        signature="translate",
        in_separate_process=True,
    )
    expected = generate(
        model,
        [[*ids, tokenizer.end_id] for ids in tokenizer.encode(LINES)],
        max_length=T,
        num_beams=num_beams,
        start_token_id=tokenizer.start_id,
        end_token_id=tokenizer.end_id,
        pad_token_id=tokenizer.padding_id,
        return_scores=True,
    )
    texts = []
    for ids in expected["token_ids"].tolist():
        end = ids.index(tokenizer.end_id) if tokenizer.end_id in ids else None
        texts.append(tokenizer.decode(ids[:end]))
    assert found["translations"].tolist() == texts
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-4)


def test_translate_refused(translator, tmp_path):
    with pytest.raises(ValueError, match="without a tokenizer"):
        export.to_saved_model(translator, tmp_path / "model", max_length=T)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = text.WordPieceTokenizer([*special, *map(str, range(V - 5))])
    with pytest.raises(ValueError, match="num_beams=0"):
        export.to_saved_model(
            translator,
            tmp_path / "model",
            tokenizer=tokenizer,
            max_length=T,
            num_beams=0,
        )
    with pytest.raises(ValueError, match="62 pieces"):
        export.to_saved_model(
            translator,
            tmp_path / "model",
            tokenizer=text.WordPieceTokenizer([*tokenizer.vocabulary, "a"]),
            max_length=T,
        )
    with pytest.raises(ValueError, match="no encoder"):
        export.to_saved_model(
            causal_lm(**SIZES), tmp_path / "model", tokenizer=tokenizer, max_length=T
        )
    assert not list(tmp_path.iterdir())
