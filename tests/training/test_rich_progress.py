import io
import re

import keras
import numpy as np
import pytest

from keras_tformer.training import ResumeFromCheckpoint, RichProgress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def fit(*callbacks, **arguments):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    model.compile("sgd", "mse")
    x, y = np.ones((35, 3)), np.ones((35, 2))
    model.fit(
        x, y, batch_size=5, epochs=2, verbose=0, callbacks=list(callbacks), **arguments
    )


def test_prints_one_line_at_the_end_where_there_is_no_terminal():
    out = io.StringIO()
    fit(RichProgress("toy", stream=out))
    assert re.fullmatch(
        r"toy: epoch 2/2, 14 steps in 0:00:\d\d, loss \S+\n", out.getvalue()
    )


def test_prints_lines_at_intervals_where_there_is_no_terminal():
    out = io.StringIO()
    fit(RichProgress("toy", stream=out, interval=1e-9))
    lines = out.getvalue().splitlines()
    assert len(lines) == 15
    assert re.fullmatch(
        r"toy: epoch 1/2, step 3/7, 0:00:\d\d to go, loss \S+", lines[2]
    )
    assert "step 7/7, 0:00:00 to go" in lines[13]


def test_redraws_a_line_in_a_terminal_and_leaves_the_cursor_visible(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    fit(
        RichProgress("toy", stream=out),
        validation_data=(np.ones((5, 3)), np.ones((5, 2))),
    )
    text = out.getvalue()
    assert "epoch 2/2, step 7/7" in text
    assert "val_loss" in text.splitlines()[-1]
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")


def test_counts_the_steps_of_a_dataset_without_a_length():
    out = io.StringIO()
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    model.compile("sgd", "mse", steps_per_execution=2)

    def batches():
        for _ in range(6):
            yield np.ones((5, 3)), np.ones((5, 2))

    model.fit(batches(), verbose=0, callbacks=[RichProgress("toy", 1e-9, stream=out)])
    assert "step 2/?" in out.getvalue()
    assert "epoch 1/1, 6 steps" in out.getvalue().splitlines()[-1]


@pytest.mark.parametrize("resumes_first", [True, False])
def test_says_after_which_epoch_nothing_was_left(tmp_path, resumes_first):
    for line in (r"toy: epoch 2/2, 14 steps.*", "toy: nothing left to train"):
        out = io.StringIO()
        callbacks = [ResumeFromCheckpoint(tmp_path), RichProgress("toy", stream=out)]
        fit(*(callbacks if resumes_first else reversed(callbacks)))
        assert re.fullmatch(line + "\n", out.getvalue())


def test_interval_of_zero_is_refused():
    with pytest.raises(ValueError, match="interval=0"):
        RichProgress(interval=0)


def test_says_tokens_a_second_and_utilization(monkeypatch):
    """A clock of one second a call: 2 of them pass a step, the first not counted."""
    out = io.StringIO()
    progress = RichProgress(
        "toy",
        interval=1e9,
        stream=out,
        tokens_per_step=3000,
        flops_per_step=500,
        peak_flops=1000.0,
    )
    seconds = iter(range(10_000))
    clock = type("Clock", (), {"monotonic": staticmethod(lambda: next(seconds))})
    monkeypatch.setattr("keras_tformer.training.rich_progress.time", clock)
    fit(progress)
    assert ", 1,500 tokens/s, MFU 25%, loss" in out.getvalue()
