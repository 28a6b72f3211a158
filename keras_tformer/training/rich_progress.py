"""One line that says how far a training is."""

import sys
import time

import keras

BAR_WIDTH = 20


class RichProgress(keras.callbacks.Callback):
    """Shows one line for a whole `fit`: a bar, the step, the time to go and the logs.

    In a terminal the line is redrawn in place. Elsewhere (a file, a notebook, a CI log)
    a line is printed every `interval` seconds. Either way the last line stays, with the
    final logs. Use it with `fit(verbose=0, callbacks=[RichProgress("pretraining")])`.

    Args:
        title: str. What is being trained, in a word or two.
        interval: float > 0. Seconds between printed lines where there is no terminal.
        stream: where to write, a text file; standard output if None.
        tokens_per_step: int, or None. Adds the tokens a second.
        flops_per_step: int, or None. Floating point operations of a step, as
            `training_flops` counts them; with `peak_flops` adds the MFU.
        peak_flops: float, or None. Operations a second that the machine can do.

    Example:
        >>> inputs = keras.Input((3,))
        >>> model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
        >>> model.compile("sgd", "mse")
        >>> x, y = np.zeros((5, 3)), np.zeros((5, 2))
        >>> progress = kt.training.RichProgress("toy model")
        >>> _ = model.fit(x, y, epochs=2, verbose=0, callbacks=[progress])
        toy model: epoch 2/2, 2 steps in 0:00:..., loss 0.0000
    """

    def __init__(
        self,
        title="training",
        interval=15.0,
        stream=None,
        tokens_per_step=None,
        flops_per_step=None,
        peak_flops=None,
    ):
        super().__init__()
        if not interval > 0:
            raise ValueError(
                f"Received interval={interval}. Expected seconds > 0. 15 is the "
                "default."
            )
        self.title = title
        self.interval = interval
        self.stream = stream
        self.tokens_per_step = tokens_per_step
        self.flops_per_step = flops_per_step
        self.peak_flops = peak_flops

    def on_train_begin(self, logs=None):
        self._out = self.stream or sys.stdout
        self._start = self._last_shown = time.monotonic()
        self._epoch = self.model._initial_epoch or 0
        self._steps = self.params.get("steps")
        self._step = self._done = 0
        # From where the pace counts: the first step is mostly compilation.
        self._paced_from = None
        self._logs = {}
        self._bar = self._make_bar() if self._out.isatty() else None

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._step = epoch, 0

    def on_train_batch_end(self, batch, logs=None):
        # With several steps an execution, `batch` is the last of them.
        self._done += batch + 1 - self._step
        self._step = batch + 1
        self._last_step = time.monotonic()
        if self._paced_from is None:
            self._paced_from = self._done, self._last_step
        wait = 0.2 if self._bar else self.interval
        if time.monotonic() - self._last_shown >= wait:
            self._logs = dict(logs or {})
            self._show()

    def on_epoch_end(self, epoch, logs=None):
        # Unknown before the end of the first epoch of a dataset without a length.
        self._steps = self._step
        self._logs = dict(logs or {})
        if self._bar:
            self._show()

    def on_train_end(self, logs=None):
        if self._bar:
            self._bar.stop()
        if self._done == 0:
            text = "nothing left to train"
        else:
            text = (
                f"epoch {self._epoch + 1}/{self.params['epochs']}, {self._done} steps "
                f"in {_clock(time.monotonic() - self._start)}{self._speed_text()}"
                f"{self._logs_text()}"
            )
        print(f"{self.title}: {text}", file=self._out, flush=True)

    def _logs_text(self):
        return "".join(
            f", {name} {_number(value)}" for name, value in self._logs.items()
        )

    def _pace(self):
        """Seconds a step so far, without the first; None while that is unknown."""
        if self._paced_from is None or self._done == self._paced_from[0]:
            return None
        steps, start = self._paced_from
        return (self._last_step - start) / (self._done - steps)

    def _speed_text(self):
        pace = self._pace()
        if not pace:
            return ""
        text = ""
        if self.tokens_per_step:
            text += f", {self.tokens_per_step / pace:,.0f} tokens/s"
        if self.flops_per_step and self.peak_flops:
            text += f", MFU {self.flops_per_step / pace / self.peak_flops:.0%}"
        return text

    def _seconds_to_go(self):
        """The rest at the pace so far; None while that is unknown."""
        pace = self._pace()
        if not self._steps or pace is None:
            return None
        rest = (self.params["epochs"] - self._epoch) * self._steps - self._step
        return rest * pace

    def _show(self):
        self._last_shown = time.monotonic()
        to_go = self._seconds_to_go()
        epoch = f"epoch {self._epoch + 1}/{self.params['epochs']}"
        step = f"step {self._step}/{self._steps or '?'}"
        rest = "" if to_go is None else f", {_clock(to_go)} to go"
        text = f"{epoch}, {step}{rest}{self._speed_text()}{self._logs_text()}"
        if self._bar is None:
            print(f"{self.title}: {text}", file=self._out, flush=True)
            return
        total = self._steps and self.params["epochs"] * self._steps
        done = self._epoch * (self._steps or 0) + self._step
        # A narrow terminal loses the end of the logs; rich would drop the bar.
        room = self._bar.console.width - len(self.title) - BAR_WIDTH - 3
        text = text if len(text) <= room else text[: max(0, room - 1)] + "…"
        self._bar.update(0, total=total, completed=done, text=text, refresh=True)

    def _make_bar(self):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        bar = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=BAR_WIDTH),
            TextColumn("{task.fields[text]}", table_column=Column(no_wrap=True)),
            console=Console(file=self._out),
            # `fit` may end by an exception, of which a callback hears nothing: nothing
            # may stay behind, no thread, no replaced stdout, no hidden cursor.
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            transient=True,
        )
        bar.add_task(self.title, total=None, text="")
        bar.start()
        bar.console.show_cursor(True)
        return bar


def _clock(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def _number(value):
    value = float(value)
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.3e}"
