"""How far the outputs of an artefact lie from those of its model."""

import numpy as np

from keras_tformer.export.fixed_rows import joined
from keras_tformer.export.token_outputs import mask_name, token_outputs

NEAR_TIE = 0.5  # standard deviations of an output between two of its values
FEWEST_ROWS = 8  # from which on a column has a mean of its own


def kept_positions(batches, theirs, model):
    """`{output: (B, T) booleans or None}`, not None where it has a value a token."""
    kept = dict.fromkeys(theirs)
    name = mask_name(model)
    if name is None:
        return kept
    mask = joined([batch[name] for batch in batches]).astype(bool)  # (B, T)
    return kept | dict.fromkeys(token_outputs(model, name, mask.shape[1]), mask)


def compare_all(ours, theirs, kept, runtime, setting):
    """All outputs of one setting; `ours` may have the first rows only."""
    compared = {name: _compare(ours[name], theirs[name], kept[name]) for name in theirs}
    worst = {
        key: max(part[key] for part in compared.values())
        for key in (
            "largest_difference",
            "mean_difference",
            "relative_difference",
            "centred_difference",
        )
    }
    for key in ("agreement", "clear_agreement"):
        shares = [part[key] for part in compared.values() if part[key] is not None]
        worst[key] = min(shares) if shares else None
    return {
        "runtime": runtime,
        "num_threads": setting[0],
        "use_default_delegate": setting[1],
        "examples": len(next(iter(ours.values()))),
        **worst,
        "outputs": compared,
    }


def _compare(ours, theirs, kept):
    known = theirs if kept is None else theirs[kept]
    scale = float(np.abs(known).max())
    least = max(1e-3 * scale, 1e-12)
    spread = max(float(np.std(known)), least)
    centred = max(_spread_in_classes(known), least)
    rows = len(ours)
    theirs = theirs[:rows]
    kept = None if kept is None else kept[:rows]
    agreement = clear_agreement = None
    if theirs.ndim > 1 and theirs.shape[-1] > 1:
        chosen = ours.argmax(-1)[..., None]
        equal = chosen[..., 0] == theirs.argmax(-1)
        short = theirs.max(-1) - np.take_along_axis(theirs, chosen, -1)[..., 0]
        if kept is not None and equal.shape == kept.shape:
            equal, short = equal[kept], short[kept]
        agreement = float(np.mean(equal))
        clear_agreement = float(np.mean(equal | (short < NEAR_TIE * spread)))
    if kept is not None:
        ours, theirs = ours[kept], theirs[kept]
    difference = np.abs(ours.astype("float64") - theirs)
    return {
        "largest_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
        "relative_difference": float(difference.mean() / spread),
        "centred_difference": float(difference.mean() / centred),
        "largest_output": scale,
        "agreement": agreement,
        "clear_agreement": clear_agreement,
    }


def _spread_in_classes(values):
    """How far values lie from the mean of their class, or place in the last axis.

    What classes differ in without any input, as by their biases, is left out: around
    the mean of all of them it would hide how far the answers of two models are apart.
    """
    rows = values.reshape(len(values), -1) if values.ndim < 2 else values
    rows = rows.reshape(-1, rows.shape[-1]).astype("float64")  # (rows, classes)
    if len(rows) < FEWEST_ROWS:
        return float(np.std(rows))
    squares = np.square(rows - rows.mean(axis=0)).sum()
    return float(np.sqrt(squares / (len(rows) - 1) / rows.shape[1]))
