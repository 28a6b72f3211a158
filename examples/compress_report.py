"""The compression ladder's last page: a table and a picture."""

import json

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import matplotlib.ticker
from rich.console import Console
from rich.table import Table

COLUMNS = {
    "rung": "{rung}",
    "file": "{kind}",
    "dev score %": "{score:.1f}",
    "vs. dense": "{difference:+.1f}",
    "zeros": "{zeros:.0%}",
    "kB": "{kilobytes:,.0f}",
    "gzip kB": "{gzip_kilobytes:,.0f}",
    "1 thread ms": "{milliseconds:.2f}",
    "M MACs": "{millions:.1f}",
    "int8 MACs": "{int8_macs_share:.1%}",
    "as Keras": "{equal:.1%}",
}
MARKERS = {"float32": "o", "int8, post-training": "v", "int8, QAT": "s"}


def write_report(folder, rows, title, rungs):
    """Prints the table and leaves it, with a picture, in the output folder."""
    table = Table(*COLUMNS, title=title)
    lines = ["| " + " | ".join(COLUMNS) + " |", "| --- | --- |" + " ---: |" * 9]
    for row in rows:
        row["difference"] = row["score"] - rows[0]["score"]
        row["kilobytes"] = row["size_bytes"] / 1000
        row["gzip_kilobytes"] = row["gzip_bytes"] / 1000
        if "macs" in row:
            row["millions"] = row["macs"] / 1e6
        cells = [cell(text, row) for text in COLUMNS.values()]
        table.add_row(*cells)
        lines.append("| " + " | ".join(cells) + " |")
    console = Console()
    if not console.is_terminal:
        console = Console(width=150)
    console.print(table)
    (folder / "results.md").write_text("\n".join(lines) + "\n")
    (folder / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    draw(folder / "results.png", rows, title, rungs)
    print(f"Table and picture: {folder / 'results.md'}, {folder / 'results.png'}")


def cell(text, row):
    """A value as text; "-" for what a row has not."""
    try:
        return text.format(**row)
    except KeyError:
        return "-"


def draw(file, rows, title, rungs):
    """Score against compressed size; a colour for a rung, a marker for a kind."""
    figure, axes = plt.subplots(figsize=(10, 6))
    colours = plt.get_cmap("tab20", len(rungs))
    for row in rows:
        if row["kind"] in MARKERS:
            axes.plot(
                row["gzip_kilobytes"],
                row["score"],
                MARKERS[row["kind"]],
                color=colours(rungs.index(row["rung"])),
                label=f"{row['rung']} ({row['kind']})",
            )
    axes.axhline(rows[0]["score"], color="grey", ls=":")
    axes.set(title=title, xlabel="gzip size, kB", ylabel="dev score, %", xscale="log")
    sizes = matplotlib.ticker.StrMethodFormatter("{x:,.0f}")  # not 5 x 10^2
    axes.xaxis.set_major_formatter(sizes)
    axes.xaxis.set_minor_locator(matplotlib.ticker.LogLocator(subs=(2, 5)))
    axes.xaxis.set_minor_formatter(sizes)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)
