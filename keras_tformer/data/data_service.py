"""Preprocessing on other machines: `tf.data` service in three commands.

On one machine, the dispatcher; on any number of others, workers; then train:

    python -m keras_tformer.data.data_service dispatcher --port 5050
    python -m keras_tformer.data.data_service worker --dispatcher 10.0.0.1:5050

    dataset = from_data_service(dataset, "10.0.0.1:5050")
    model.fit(dataset, ...)

Every worker runs the whole pipeline and must see the files that it reads under the same
paths. Start a new dispatcher for every run: one that remembers workers that are gone
keeps clients waiting.
"""

import argparse

from keras_tformer.data.import_tensorflow import import_tensorflow

SHARDING = ("dynamic", "off")


def from_data_service(dataset, dispatcher, sharding="dynamic", job_name=None):
    """Lets the workers of a dispatcher prepare a data set's batches.

    Args:
        dataset: `tf.data.Dataset`.
        dispatcher: str, such as `"10.0.0.1:5050"`.
        sharding: `"dynamic"` deals the source of the pipeline out to the workers, in
            no fixed order, so that nothing comes twice (what a worker holds that dies
            is lost): the numbers of batches for `sentence_order_dataset` and
            `next_sentence_dataset`, groups of 16 shards for
            `pretraining_records_dataset`, which needs `has_known_length=False` and
            leaves out what is less than a batch on each worker.
            `"off"` lets every worker go through all of it: each batch comes once from
            every worker.
        job_name: str, or None. Clients that name the same job share its batches.

    Returns:
        A `tf.data.Dataset` of the same elements.

    Raises:
        ValueError: if `sharding` is unknown or the address has no port.
    """
    tf = import_tensorflow()
    if sharding not in SHARDING:
        raise ValueError(
            f"sharding is {sharding!r}; expected one of {', '.join(SHARDING)}."
        )
    if ":" not in dispatcher:
        raise ValueError(
            f"dispatcher is {dispatcher!r}; expected an address with a port, such as "
            "'10.0.0.1:5050'."
        )
    service = tf.data.experimental.service
    policy = {
        "dynamic": service.ShardingPolicy.DYNAMIC,
        "off": service.ShardingPolicy.OFF,
    }[sharding]
    return dataset.apply(
        service.distribute(policy, f"grpc://{dispatcher}", job_name=job_name)
    )


def start_dispatcher(port=0):
    """Starts a dispatcher in this process.

    Args:
        port: int, or 0 for any that is free.

    Returns:
        A `tf.data.experimental.service.DispatchServer`; `.target` holds its address.
    """
    tf = import_tensorflow()
    config = tf.data.experimental.service.DispatcherConfig(port=port)
    return tf.data.experimental.service.DispatchServer(config)


def start_worker(dispatcher, port=0, worker_address=None):
    """Starts a worker in this process.

    Args:
        dispatcher: str. Address of the dispatcher.
        port: int, or 0 for any that is free.
        worker_address: str, or None. Address under which clients reach it, with
            `%port%` for the port; by default `localhost`, which is right on one
            machine only.

    Returns:
        A `tf.data.experimental.service.WorkerServer`.
    """
    tf = import_tensorflow()
    try:
        # Its operations must be known before a pipeline that tokenizes arrives.
        import tensorflow_text  # noqa: F401
    except ImportError:
        pass
    config = tf.data.experimental.service.WorkerConfig(
        dispatcher_address=dispatcher, port=port, worker_address=worker_address
    )
    return tf.data.experimental.service.WorkerServer(config)


def main(arguments=None):
    """Runs a dispatcher or a worker until it is stopped."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    dispatcher = commands.add_parser("dispatcher", help="tells clients of the workers")
    dispatcher.add_argument("--port", type=int, default=5050)
    worker = commands.add_parser("worker", help="prepares batches")
    worker.add_argument("--dispatcher", required=True, help="host:port")
    worker.add_argument("--port", type=int, default=0, help="0 for any that is free")
    worker.add_argument("--address", help="host under which clients reach this worker")
    options = parser.parse_args(arguments)
    if options.command == "dispatcher":
        server = start_dispatcher(options.port)
    else:
        address = f"{options.address}:%port%" if options.address else None
        server = start_worker(options.dispatcher, options.port, address)
    print(f"{options.command} is running", flush=True)
    server.join()


if __name__ == "__main__":
    main()
