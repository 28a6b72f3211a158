"""`python -m keras_tformer.export inspect FILE`: what is in a `.tflite` file."""

import argparse
import json


def main(arguments=None):
    """Print a report of a file, as a table or as JSON; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m keras_tformer.export", description=__doc__
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser(
        "inspect", help="operators, sizes and latency"
    ).add_argument
    add("file", help="a .tflite file")
    add("--latency", action="store_true", help="time it with 1 and 2 threads, too")
    add("--picture", help="draw it into this image as well")
    add("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)

    from keras_tformer.export import benchmark, report

    measure = benchmark if options.latency else report
    try:
        result = measure(options.file, show=not options.json, picture=options.picture)
    except (ValueError, ImportError) as error:
        parser.exit(2, f"{error}\n")
    if options.json:
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
