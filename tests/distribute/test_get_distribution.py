"""Runs JAX with eight virtual devices in processes of its own."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("jax", reason="needs the [reference] extra")

TRAIN = """
import json, sys
import keras, numpy as np
import keras_tformer as kt
name, model_dim = sys.argv[1], json.loads(sys.argv[2])
if name != "none":
    keras.distribution.set_distribution(
        kt.distribute.get_distribution(name, model_dim=model_dim)
    )
keras.utils.set_random_seed(0)
encoder = kt.models.bert_encoder(
    vocabulary_size=24, num_layers=2, num_heads=4, hidden_dim=8, intermediate_dim=12,
    max_sequence_length=5, dropout=0.0,
)
model = kt.models.masked_lm(encoder)
model.compile(
    kt.training.adamw(0.01, epsilon=1e-2), **kt.training.compile_arguments("masked_lm")
)
random = np.random.default_rng(0)
x = {
    "token_ids": random.integers(0, 24, (24, 5)),
    "segment_ids": np.zeros((24, 5), int),
    "padding_mask": np.ones((24, 5), int),
    "mask_positions": random.integers(0, 5, (24, 3)),
}
y = {"masked_lm": random.integers(0, 24, (24, 3))}
weights = {"masked_lm": (random.random((24, 3)) < 0.4).astype("float32")}
losses = model.fit(
    x, y, sample_weight=weights, batch_size=8, epochs=2, shuffle=False, verbose=0
).history["loss"]
shards = {
    w.path: list(w.value.sharding.shard_shape(w.value.shape)) for w in model.weights
}
np.savez(sys.argv[3], *[np.asarray(w.value) for w in model.weights])
print(json.dumps({"losses": losses, "shards": shards}))
"""


def train(tmp_path, name, model_dim=None):
    file = tmp_path / f"{name}.npz"
    process = subprocess.run(
        [sys.executable, "-c", TRAIN, name, json.dumps(model_dim), str(file)],
        env={
            **os.environ,
            "KERAS_BACKEND": "jax",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    return process, file


@pytest.mark.slow
def test_both_distributions_train_as_one_device(tmp_path):
    import numpy as np

    results = {}
    for name, model_dim in (
        ("none", None),
        ("data_parallel", None),
        ("model_parallel", 4),
    ):
        process, file = train(tmp_path, name, model_dim)
        assert process.returncode == 0, process.stderr
        with np.load(file) as weights:
            weights = [weights[key] for key in weights.files]
        results[name] = json.loads(process.stdout.splitlines()[-1]), weights

    expected, expected_weights = results["none"]
    for name in ("data_parallel", "model_parallel"):
        report, weights = results[name]
        assert report["losses"] == pytest.approx(expected["losses"], rel=1e-5)
        for ours, theirs in zip(weights, expected_weights, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)

    whole = results["data_parallel"][0]["shards"]
    parts = results["model_parallel"][0]["shards"]
    split = {
        path.split("/", 1)[-1]: parts[path]
        for path in whole
        if parts[path] != whole[path]
    }
    assert split == {
        "embeddings": [6, 8],
        "self_attention/query/kernel": [8, 2],
        "self_attention/query/bias": [2],
        "self_attention/key/kernel": [8, 2],
        "self_attention/key/bias": [2],
        "self_attention/value/kernel": [8, 2],
        "self_attention/value/bias": [2],
        "self_attention/attention_output/kernel": [2, 8],
        "feed_forward/intermediate/kernel": [8, 3],
        "feed_forward/intermediate/bias": [3],
        "feed_forward/output/kernel": [3, 8],
    }


@pytest.mark.slow
def test_model_dim_must_divide_the_devices(tmp_path):
    process, _ = train(tmp_path, "model_parallel", 3)
    assert "Received model_dim=3 for 8 devices" in process.stderr
    assert "[1, 2, 4, 8]" in process.stderr
