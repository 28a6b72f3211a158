"""What is inside a `.tflite` file, as a dict, a table and a picture."""

import math
import os
import tempfile

from keras_tformer.export.files import file_target, gzip_size, replaced_files
from keras_tformer.export.flatbuffer import inspect_file, reached, read_model
from keras_tformer.export.packing import pack
from keras_tformer.export.prediction import make_interpreter


def report(file, show=True, picture=None):
    """Read a `.tflite` file and say what it holds.

    Args:
        file: path of a `.tflite` file.
        show: print it as well, as a table where `rich` is installed.
        picture: path of an image to draw it into, too (needs matplotlib).

    Returns:
        A dict: `file`, `size_bytes`, `gzip_bytes`, `signatures` (names), `inputs` and
        `outputs` (`{name: {"shape", "dtype"}}`), `num_operators`, `operators`
        (`{type: {dtype: count}}`, what is in a loop once), `macs`
        (multiply-accumulates of one call, all rounds of a loop), `macs_by_dtype`,
        `int8_macs_share`, all of `serving_default`; `weight_bytes` (by dtype), `zeros`
        (share of zeros in the rank-2 constants, the kernels and tables),
        `activation_bytes` (the most bytes of activations alive at once, the least that
        the runtime's arena must hold) and `delegate_partitions` (pieces that XNNPACK
        takes over here; None where LiteRT is missing or does not load the file). A
        dtype such as `float32*int8` is that of activations and weights where they
        differ.

    Raises:
        ValueError: no such file, or not a TFLite file; or the picture cannot be
            written.

    Example:
        >>> import keras, tempfile
        >>> from keras_tformer.export import to_tflite
        >>> x = keras.Input((5,), name="x")
        >>> model = keras.Model({"x": x}, keras.layers.Dense(3)(x))
        >>> file = tempfile.mkdtemp() + "/model.tflite"
        >>> _ = to_tflite(model, file)
        >>> result = report(file, show=False)
        >>> result["operators"], result["macs"]
        ({'FULLY_CONNECTED': {'float32': 1}}, 15)
    """
    if picture is not None:
        picture = file_target(picture)
    result = inspect_file(file)
    result["gzip_bytes"] = gzip_size(file)
    result["delegate_partitions"] = count_partitions(file)
    if show:
        show_report(result)
    if picture is not None:
        draw_report(result, picture)
    return result


def count_partitions(file):
    """Pieces of a file's graph, loops included, that XNNPACK takes over, or None.

    None is for a file that does not load: custom operators, or a wrong one.
    """
    try:
        pieces = _pieces(os.fspath(file))
        # The runtime tells of its first graph only: those of loops are looked at alone.
        model = read_model(os.fspath(file))
        for graph, _ in reached(model, 0)[1:]:
            model.subgraphs, model.signatureDefs = [graph], None
            with tempfile.NamedTemporaryFile(suffix=".tflite") as alone:
                alone.write(pack(model))
                alone.flush()
                pieces += _pieces(alone.name)
    except ValueError:
        return None
    return pieces


def _pieces(path):
    interpreter, _ = make_interpreter(path)
    operators = getattr(interpreter, "_get_ops_details", list)()
    return sum(operator["op_name"] == "DELEGATE" for operator in operators)


def show_report(result):
    """Print a report, as a table where `rich` is installed, else as plain lines."""
    rounded_by_row = result["macs_by_dtype"].get("float32*int8", 0)
    rounded_by_row /= max(result["macs"], 1)
    rows = [
        ("file", result["file"]),
        ("size", f"{result['size_bytes']:,} bytes"),
        ("gzip", f"{result['gzip_bytes']:,} bytes"),
        ("operators", f"{result['num_operators']:,}"),
        ("multiply-accumulates", f"{result['macs']:,}"),
        ("of them in int8", f"{result['int8_macs_share']:.1%}"),
        ("of them in float32*int8", f"{rounded_by_row:.1%}"),
        ("activations alive at once", f"{result['activation_bytes']:,} bytes"),
        ("zeros in kernels and tables", f"{result['zeros']:.1%}"),
        ("pieces that XNNPACK takes", f"{result['delegate_partitions']}"),
    ]
    if result.get("process_bytes"):
        size = f"{result['process_bytes']:,} bytes"
        rows.append(("memory of a process that runs it", size))
    if len(result["signatures"]) > 1:
        rows.append(("signatures", ", ".join(result["signatures"])))
    for threads, times in result.get("latency", {}).items():
        median, p90 = digits(times["median_ms"]), digits(times["p90_ms"])
        text = f"median {median} ms, p90 {p90} ms"
        rows.append((f"latency, {threads} thread(s)", text))
    for kind in ("inputs", "outputs"):
        for name, spec in result[kind].items():
            rows.append((f"{kind[:-1]} {name}", f"{spec['dtype']} {spec['shape']}"))
    for name, dtypes in result["operators"].items():
        counts = ", ".join(f"{count} {dtype}" for dtype, count in dtypes.items())
        rows.append((name, counts))
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        width = max(len(left) for left, _ in rows)
        print("\n".join(f"{left:<{width}}  {right}" for left, right in rows))
        return
    table = Table(show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def digits(value):
    """A number with three digits that say something, and all before the point."""
    if abs(value) >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.{2 - math.floor(math.log10(abs(value)))}f}"


def draw_report(result, picture):
    """Draw a report: operators by type, products and weights by dtype, latencies.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: the picture cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "A picture needs matplotlib: pip install 'keras_tformer[plots]'."
        ) from error
    dtypes = sorted(
        {kind for counts in result["operators"].values() for kind in counts}
    )
    colours = {dtype: f"C{index}" for index, dtype in enumerate(dtypes)}
    latency = result.get("latency", {})
    figure = Figure(figsize=(11, 1.8 + 0.28 * max(8, len(result["operators"]))))
    left, *right = figure.subplot_mosaic(
        [
            ["operators", name]
            for name in ("macs", "weights", *["latency"] * bool(latency))
        ],
        width_ratios=(3, 2),
    ).values()
    names = sorted(
        result["operators"], key=lambda x: sum(result["operators"][x].values())
    )
    _stack(left, {name: result["operators"][name] for name in names}, colours)
    left.set_xlabel("operators")
    left.legend(loc="lower right", title="dtype")
    millions = {k: n / 1e6 for k, n in result["macs_by_dtype"].items()}
    _bars(right[0], millions, colours, "million multiply-accumulates a call")
    kilobytes = {k: n / 1000 for k, n in result["weight_bytes"].items()}
    _bars(right[1], kilobytes, colours, "kB of constants")
    if latency:
        medians = {f"{n} thread(s)": part["median_ms"] for n, part in latency.items()}
        ends = [part["p90_ms"] for part in latency.values()]
        label = "ms a call, line to the 90th percentile"
        _bars(right[2], medians, colours, label, ends)
    figure.suptitle(
        f"{os.path.basename(result['file'])}: {result['size_bytes'] / 1000:,.0f} kB "
        f"({result['gzip_bytes'] / 1000:,.0f} kB gzipped), "
        f"{result['num_operators']} operators"
    )
    figure.tight_layout()
    with replaced_files(picture) as stage:
        kind = os.path.splitext(picture)[1][1:] or "png"
        figure.savefig(stage(picture), dpi=120, format=kind)


def _stack(axes, rows, colours):
    for row, counts in enumerate(rows.values()):
        start = 0
        for dtype, count in sorted(counts.items()):
            known = axes.get_legend_handles_labels()[1]
            label = None if dtype in known else dtype
            axes.barh(row, count, left=start, color=colours[dtype], label=label)
            start += count
        axes.text(start, row, f" {start}", va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), list(rows), fontsize=8)
    axes.margins(x=0.1)


def _bars(axes, values, colours, label, ends=None):
    for row, (name, value) in enumerate(values.items()):
        end = value if ends is None else ends[row]
        axes.barh(row, value, color=colours.get(name, "grey"))
        axes.plot([value, end], [row, row], color="black")
        axes.text(end, row, f" {digits(value)}", va="center", fontsize=8)
    axes.set_yticks(range(len(values)), list(values), fontsize=8)
    axes.set_xlabel(label)
    axes.locator_params(axis="x", nbins=5)
    axes.margins(x=0.35)
