"""The workers of a cluster find each other before TensorFlow waits for them."""

import json
import socket
import threading
import time
import uuid


def meet_workers(addresses, index, timeout_seconds):
    """Waits until every worker has been reached, and has reached this one.

    Each listens at its own address, tells every other one which cluster it believes in
    and which worker it is, and hears the same of them. TensorFlow's own start waits for
    ever for a worker that does not come, and connects those that do not fit.

    Args:
        addresses: list of str `"host:port"`, all workers.
        index: int, which of them this process is.
        timeout_seconds: float, how long to wait for the others.

    Raises:
        ValueError: if an address is listed twice or taken, a worker believes in another
            cluster, two processes have one index, or a worker does not come in time.

    Example:
        >>> meet_workers(["localhost:0"], 0, timeout_seconds=1)  # nobody to wait for
    """
    if len(set(addresses)) < len(addresses):
        raise ValueError(
            f"Received the workers {addresses} in TF_CONFIG. Expected each address "
            "once. Give workers on one machine different ports."
        )
    me = {"cluster": addresses, "index": index, "process": uuid.uuid4().hex}
    deadline = time.monotonic() + timeout_seconds
    others = [number for number in range(len(addresses)) if number != index]
    reached, heard, problems = set(), {}, []

    def judge(other):
        """Notes what does not fit; says whether the other is of this cluster."""
        if other["cluster"] != addresses:
            problems.append(
                f"worker {other['index']} was given the cluster {other['cluster']}, "
                f"this one {addresses}. Give all workers the same list"
            )
        elif other["index"] == index and other["process"] != me["process"]:
            problems.append(f"another process is worker {index} too")
        elif heard.get(other["index"], other["process"]) != other["process"]:
            problems.append(f"two processes are worker {other['index']}")
        return not problems

    def answer(connection):
        with connection:
            other = _exchange(connection, me)
        if other and judge(other):
            heard[other["index"]] = other["process"]

    def listen(server):
        while True:
            try:
                connection, _ = server.accept()
            except OSError:  # closed: all have met
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    with _server(addresses[index], index) as server:
        threading.Thread(target=listen, args=(server,), daemon=True).start()
        while not problems and (len(reached) < len(others) or len(heard) < len(others)):
            if time.monotonic() > deadline:
                problems.append(
                    _who_is_missing(addresses, others, reached, heard, timeout_seconds)
                )
                break
            for number in others:
                if number not in reached:
                    other = _call(addresses[number], me)
                    if other and judge(other) and other["index"] == number:
                        reached.add(number)
            time.sleep(0.05)
        server.shutdown(socket.SHUT_RDWR)  # wakes `listen`
    if problems:
        raise ValueError(
            f"Worker {index} of TF_CONFIG cannot start: {problems[0]}. Expected "
            f"{len(addresses)} processes with the indices 0 to {len(addresses) - 1}."
        )


def _server(address, index):
    port = int(address.rsplit(":", 1)[1])
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        return socket.create_server(("", port), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise ValueError(
            f"Worker {index} of TF_CONFIG cannot listen at {address} ({error}). "
            "Expected a free port of this machine. End the process that has it, an "
            "earlier run or a second worker with this index, or choose another port."
        ) from error


def _call(address, me):
    """Exchanges names with the worker at an address; None while it does not answer."""
    host, port = address.rsplit(":", 1)
    try:
        with socket.create_connection((host.strip("[]"), int(port)), 1) as connection:
            return _exchange(connection, me)
    except OSError:
        return None


def _exchange(connection, me):
    """Sends who this is and reads who the other is; None if it is something else."""
    connection.settimeout(2)
    try:
        with connection.makefile("rw", encoding="utf-8", newline="\n") as lines:
            lines.write(json.dumps(me) + "\n")
            lines.flush()
            other = json.loads(lines.readline(1 << 20))
        return other if isinstance(other, dict) and set(other) == set(me) else None
    except (OSError, ValueError):  # such as TensorFlow's own server of an earlier run
        return None


def _who_is_missing(addresses, others, reached, heard, timeout_seconds):
    silent = [addresses[number] for number in others if number not in reached]
    if silent:
        return (
            f"nothing answered at {', '.join(silent)} for {timeout_seconds:g} s. Start "
            "these workers, or correct the addresses and firewalls"
        )
    lost = [addresses[number] for number in others if number not in heard]
    return (
        f"the workers at {', '.join(lost)} answer, but did not reach this one in "
        f"{timeout_seconds:g} s. Correct its address, or end the other process that "
        "has its index"
    )
