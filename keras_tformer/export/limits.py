"""How far an artefact may be from its model, and what is said of one that is not."""

import math
import numbers
import os

from keras_tformer.export.flatbuffer import inspect_file
from keras_tformer.export.tracing import leaf_layers

# Of every kind of artefact: the largest difference in units of the largest output (of 1
# where that is less), and the mean one in units of the output's spread. As far as
# `to_tflite` lets its files go, and closer where the runtime computes in float32: its
# mean differences are a ten-thousandth of the spread, other weights' a hundredth.
TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "quantized": None}
RELATIVE_TOLERANCES = {"float32": 0.01, "float16": 0.05, "quantized": 0.15}
MINIMUM_CLEAR_AGREEMENT = 0.9
# An answer that is the same for all inputs lies 0.8 of the spread around the mean of
# each class off; right files of random weights, whose answers hardly differ, up to 0.6.
MOST_CENTRED = 0.75


class Limits:
    """What a caller of `verify` allows.

    Args:
        tolerance, relative_tolerance: numbers from 0 on, or None.
        minimum_agreement, minimum_clear_agreement: shares from 0 to 1, or None.

    Raises:
        ValueError: a limit is no such number.
    """

    def __init__(
        self,
        tolerance,
        relative_tolerance,
        minimum_agreement,
        minimum_clear_agreement,
    ):
        self.tolerance = _limit("tolerance", tolerance, math.inf)
        self.relative_tolerance = _limit(
            "relative_tolerance", relative_tolerance, math.inf
        )
        self.minimum_shares = {
            "": _limit("minimum_agreement", minimum_agreement, 1),
            "clear_": _limit("minimum_clear_agreement", minimum_clear_agreement, 1),
        }

    @property
    def are_open(self):
        """Whether no limit of the numbers is given.

        Shares alone would let pass any file whose outputs have one value.
        """
        return self.tolerance is None and self.relative_tolerance is None

    def suit(self, kind):
        """Take what holds for a kind of artefact; for the shares where none is given.

        Args:
            kind: `"float32"`, `"float16"` or `"quantized"`.
        """
        self.tolerance = TOLERANCES[kind]
        self.relative_tolerance = RELATIVE_TOLERANCES[kind]
        if set(self.minimum_shares.values()) == {None}:
            self.minimum_shares["clear_"] = MINIMUM_CLEAR_AGREEMENT

    def complaints(self, result, is_first=True):
        """What is wrong in one setting, as sentences."""
        complaints = []
        if not math.isfinite(result["mean_difference"]):
            complaints.append("its outputs are not finite numbers")
        for name, part in result["outputs"].items():
            complaints += [f"{name}: {text}" for text in self._of_numbers(part)]
            # Of few rows, one may differ.
            most = 1 if is_first else 1 - 1 / result["examples"]
            complaints += [f"{name}: {text}" for text in self._of_shares(part, most)]
        delegate = "on" if result["use_default_delegate"] else "off"
        where = f" with {result['num_threads']} thread(s), delegate {delegate}"
        return [complaint + where for complaint in complaints]

    def _of_numbers(self, part):
        scale = max(1.0, part["largest_output"])
        largest, relative = part["largest_difference"], part["relative_difference"]
        if self.tolerance is not None and largest > self.tolerance * scale:
            yield (
                f"largest difference {largest:.3g} "
                f"(allowed {self.tolerance * scale:.3g})"
            )
        allowed = self.relative_tolerance
        if allowed is not None and relative > allowed:
            yield (
                f"mean difference is {relative:.3g} of the output's standard "
                f"deviation (allowed {allowed:.3g})"
            )
        centred = part["centred_difference"]
        if allowed is not None and centred > _centred(allowed):
            yield (
                f"mean difference is {centred:.3g} of the standard deviation around "
                f"each class's mean (allowed {_centred(allowed):.3g})"
            )

    def _of_shares(self, part, most):
        for kind, least in self.minimum_shares.items():
            share = part[f"{kind}agreement"]
            if least is not None and share is not None and share < min(least, most):
                aside = ", near ties aside" if kind else ""
                yield (
                    f"{share:.1%} of the predictions are equal{aside} "
                    f"(at least {min(least, most):.1%} expected)"
                )

    def check_shares(self, result):
        """Refuse to prove nothing: shares alone, of outputs that predict no class."""
        allowed = (self.tolerance, self.relative_tolerance)
        is_open = all(limit in (None, math.inf) for limit in allowed)
        asked = [share for share in self.minimum_shares.values() if share is not None]
        if is_open and any(asked) and result["agreement"] is None:
            raise ValueError(
                "The outputs have one value each, so there are no predictions to agree "
                "on, and no other limit is given: nothing would be proved. Give "
                "tolerance=... or relative_tolerance=..., or leave both out."
            )


def _centred(allowed):
    """5 to 7.5 times a relative tolerance, and of quantized files `MOST_CENTRED`."""
    return min(7.5 * allowed, max(MOST_CENTRED, 5 * allowed))


def kind_of(artefact, model, runner):
    """Which limits suit an artefact: `"float32"`, `"float16"` or `"quantized"`."""
    if any(x.compute_dtype not in ("float32", None) for x in leaf_layers(model)):
        return "quantized"  # half precision rounds otherwise in every graph
    if os.path.isdir(artefact):
        # One different rounding is a step of the quantized model.
        return "quantized" if runner.is_fake_quantized else "float32"
    stored = set(inspect_file(artefact)["weight_bytes"])
    if stored & {"int4", "int8", "int16"}:
        return "quantized"
    return "float16" if "float16" in stored else "float32"


def _limit(name, value, largest):
    if value is None:
        return None
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= largest:  # NaN is refused, too
        expected = "from 0 to 1" if largest == 1 else "from 0 on"
        raise ValueError(
            f"Received {name}={value!r}, expected a number {expected}, or None for "
            "what suits the artefact."
        )
    return float(value)
