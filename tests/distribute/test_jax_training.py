"""Training on eight virtual JAX devices ends where one device ends."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_tformer  # noqa: F401 (registers the layers that saved models have)

pytest.importorskip("jax", reason="needs the [reference] extra")

SCRIPT = pathlib.Path(__file__).with_name("jax_training.py")
# A projection into heads or units holds an eighth or a quarter of its columns, one back
# a part of its rows; the table of 40 tokens is split by rows, that of 37 by columns.
HYBRID_SHARDS = {
    "bert_pretrainer": {
        "token_embedding/embeddings": [10, 16],
        "embeddings/position_embedding/embeddings": [7, 4],
        "encoder_layer_0/self_attention/query/kernel": [16, 4],
        "encoder_layer_0/self_attention/query/bias": [4],
        "encoder_layer_0/self_attention/attention_output/kernel": [4, 16],
        "encoder_layer_0/self_attention/attention_output/bias": [16],
        "encoder_layer_0/feed_forward/intermediate/kernel": [16, 6],
        "encoder_layer_0/feed_forward/output/kernel": [6, 16],
        "pooler/dense/kernel": [16, 4],
        "masked_lm_head/dense/kernel": [16, 4],
        "masked_lm_head/bias/bias": [10],
        "next_sentence/kernel": [16, 2],
    },
    "masked_lm": {
        "token_embedding/embeddings": [37, 4],
        "masked_lm_head/bias/bias": [37],
        "encoder_layer_0/self_attention/query/kernel": [16, 4],
    },
    "albert_pretrainer": {
        "token_embedding/embeddings": [10, 8],
        "embeddings/projection/kernel": [8, 4],
        "encoder_group_0_layer_0/self_attention/value/kernel": [16, 4],
    },
    "transformer": {
        "decoder_layer_0/cross_attention/key/kernel": [16, 4],
        "decoder_layer_0/feed_forward/output/kernel": [6, 16],
    },
    "causal_lm": {"decoder_layer_0/self_attention/key/bias": [4]},
}


def start(*arguments, devices=8):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        env={
            **os.environ,
            "KERAS_BACKEND": "jax",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            # Threads to spare, without which XLA's sums over devices can wait for ever.
            "NPROC": str(2 * devices),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    try:
        output, errors = process.communicate(timeout=840)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    return json.loads(output.splitlines()[-1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("jax")


@pytest.fixture(scope="module")
def report(folder):
    return finish(start("compare", folder))


@pytest.mark.slow
def test_data_model_and_hybrid_parallel_end_where_one_device_ends(report):
    runs = {name: run for name, run in report.items() if name != "reloaded"}
    assert len(runs) == 4 + 4 * 2
    for name, run in runs.items():
        assert run["difference"] <= 1e-5, name
        assert run["loss_difference"] <= 1e-5, name
        assert run["moved"] > 0.01, name


@pytest.mark.slow
def test_weights_and_slots_are_split_as_told(report):
    for task, shards in HYBRID_SHARDS.items():
        run = report[f"{task} hybrid"]
        assert shards.items() <= run["shards"].items(), task
        assert run["expected"].items() <= run["shards"].items(), task
        for path, shard in run["expected"].items():
            if "seed_generator" not in path:
                for slot in ("momentum", "velocity"):
                    assert run["slots"][f"{path.replace('/', '_')}_{slot}"] == shard
    whole = report["bert_pretrainer data"]["shards"]
    assert whole == report["bert_pretrainer one_device"]["shards"]
    eighths = report["bert_pretrainer model"]["shards"]
    assert eighths["encoder_layer_0/self_attention/query/kernel"] == [16, 2]


@pytest.mark.slow
def test_a_model_saved_in_parts_loads_whole(report, folder):
    assert report["reloaded"] == {"equal": True, "devices": 1}
    # and on this process' backend, where it would be exported
    model = keras.saving.load_model(folder / "sharded.keras", compile=False)
    with np.load(folder / "sharded.npz") as weights:
        for ours, name in zip(model.weights, weights.files, strict=True):
            np.testing.assert_array_equal(
                keras.ops.convert_to_numpy(ours), weights[name]
            )


@pytest.mark.slow
def test_two_processes_end_where_one_ends(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    workers = [start("worker", tmp_path, rank, address, devices=4) for rank in range(2)]
    try:
        together = [finish(worker) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    alone = finish(start("alone", tmp_path))
    for name, loss in alone.items():
        assert together[0][name] == pytest.approx(loss, abs=1e-5)
        assert together[1][name] == pytest.approx(loss, abs=1e-5)
        expected, *results = (
            np.load(tmp_path / f"{who}_{name}.npz")
            for who in ("alone", "worker_0", "worker_1")
        )
        assert len(expected.files) > 20
        for result in results:
            assert result.files == expected.files
            for key in expected.files:
                np.testing.assert_allclose(result[key], expected[key], atol=1e-5)


@pytest.mark.slow
def test_wrong_requests_say_what_to_do():
    told = finish(start("refuse"))
    expected = {
        "devices": ["model_dim=3 for 8 devices", "[1, 2, 4, 8]"],
        "needless": ["model_dim=2 for 'data_parallel'"],
        "data_batch": ["batch of 7 for 8 copies", "drop_remainder=True"],
        "hybrid_batch": ["batch of 7 for 2 copies", "drop_remainder=True"],
        "late_data": ["made before the distribution was set", "build the model again"],
        "late_model": ["made before the distribution was set", "build the model again"],
        "heads": ["'encoder_layer_0/self_attention/query/kernel'", "(20, 20)", "heads"],
        "intermediate": ["feed_forward/intermediate/kernel'", "intermediate_dim"],
        "vocabulary": ["'token_embedding/embeddings'", "(37, 6)", "vocabulary_size"],
    }
    assert told.keys() == expected.keys()
    for name, parts in expected.items():
        for part in parts:
            assert part in told[name], name
