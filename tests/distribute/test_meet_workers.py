import socket
import threading
import time

import pytest

import keras_tformer.distribute.meet_workers as module
from keras_tformer.distribute.meet_workers import meet_workers


def free_addresses(number):
    sockets = [socket.create_server(("localhost", 0)) for _ in range(number)]
    addresses = [f"localhost:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return addresses


def meet(*workers, timeout_seconds=20):
    """Lets `(addresses, index)` meet, each in a thread; gives what each one said."""
    said = [None] * len(workers)

    def one(number, addresses, index):
        try:
            meet_workers(addresses, index, timeout_seconds)
        except ValueError as error:
            said[number] = str(error)

    threads = [
        threading.Thread(target=one, args=(number, *worker), name=str(number))
        for number, worker in enumerate(workers)
    ]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    return said


def test_three_workers_meet_in_any_order_and_leave_their_ports():
    addresses = free_addresses(3)
    for _ in range(2):
        workers = [(addresses, index) for index in (2, 0, 1)]
        assert meet(*workers) == [None, None, None]


def test_a_worker_that_does_not_come_is_named_in_time():
    here, there = free_addresses(2)
    start = time.monotonic()
    (said,) = meet(([here, there], 0), timeout_seconds=1)
    assert f"nothing answered at {there} for 1 s" in said
    assert time.monotonic() - start < 10


def test_clusters_of_other_sizes():
    addresses = free_addresses(3)
    small, large = meet((addresses[:2], 0), (addresses, 1))
    assert f"worker 1 was given the cluster {addresses}" in small
    assert f"worker 0 was given the cluster {addresses[:2]}" in large


def test_one_index_twice_on_one_machine():
    addresses = free_addresses(2)
    first, second = meet((addresses, 0), (addresses, 0), timeout_seconds=2)
    assert "nothing answered" in first
    assert "cannot listen" in second and "second worker with this index" in second


def test_one_index_twice_on_different_machines(monkeypatch):
    """The second worker 1 listens elsewhere, as if its machine were another."""
    addresses, (elsewhere,) = free_addresses(3), free_addresses(1)
    listen = module._server

    def server(address, index):
        is_second = threading.current_thread().name == "2"
        return listen(elsewhere if is_second else address, index)

    monkeypatch.setattr(module, "_server", server)
    # Worker 2 never comes, so that nobody has met all before the second one is there.
    first, _, second = meet(
        (addresses, 0), (addresses, 1), (addresses, 1), timeout_seconds=2
    )
    assert "two processes are worker 1" in first
    assert second is not None


def test_something_else_at_the_address_is_not_a_worker():
    with socket.create_server(("localhost", 0)) as other:
        there = f"localhost:{other.getsockname()[1]}"
        (here,) = free_addresses(1)
        (said,) = meet(([here, there], 0), timeout_seconds=1)
    assert "nothing answered" in said


def test_an_address_twice():
    with pytest.raises(ValueError, match="Expected each address once"):
        meet_workers(["localhost:5", "localhost:5"], 0, 1)
