"""What `distill.py` prints at its end."""

import numpy as np
from rich.console import Console
from rich.table import Table


def report(hits, weights):
    """Prints accuracies and the gain; its error is that of a mean over the dev rows."""
    table = Table("model", "weights", "dev accuracy %", "of each seed")
    for role, rows in hits.items():
        mean, *seeds = (f"{100 * x:.1f}" for x in (np.mean(rows), *map(np.mean, rows)))
        table.add_row(role, f"{weights[role]:,}", mean, " ".join(seeds))
    Console().print(table)
    gains = 100 * (np.mean(hits["distilled"], axis=0) - np.mean(hits["alone"], axis=0))
    error = gains.std(ddof=1) / np.sqrt(len(gains))
    print(f"distillation gains {gains.mean():+.1f} points, standard error {error:.1f}")
