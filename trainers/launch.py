"""Trains on several processes of this machine, each a worker.

    python -m trainers.launch --workers=2 -- --epochs=10 --workdir=runs/two

What follows `--` are flags of `trainers.train`. When a worker dies, all are
ended; started again, the run goes on from its last checkpoint, bit for bit as
if nothing had happened. On several machines their scheduler starts the workers:
see `docs/devices.md`.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from collections.abc import Sequence

from absl import app
from absl import flags

_WORKERS = flags.DEFINE_integer(
    "workers", 2, "Number of processes.", lower_bound=2
)
# How often to look whether a worker has died, in seconds.
_PERIOD = 0.1


def cluster(num_workers: int) -> list[str]:
    """Returns an address for each worker that nobody uses.

    Args:
        num_workers: How many.

    Returns:
        Addresses on this machine alone, such as `"127.0.0.1:36231"`.
    """
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.socket()) for _ in range(num_workers)
        ]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


def launch(num_workers: int, arguments: Sequence[str]) -> str | None:
    """Runs `trainers.train` on several workers, until all have ended.

    Args:
        num_workers: How many.
        arguments: Flags of `trainers.train`.

    Returns:
        What went wrong, one sentence, or `None`.
    """
    addresses = cluster(num_workers)
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(_worker(addresses, index, arguments))
            for index in range(num_workers)
        ]
        while True:
            statuses = [worker.poll() for worker in workers]
            for index, status in enumerate(statuses):
                if status:
                    return (
                        f"worker {index} ended with status {status}, so all "
                        "were ended. Started again with the same flags, the "
                        "run goes on from its last checkpoint."
                    )
            if None not in statuses:
                return None
            time.sleep(_PERIOD)


@contextlib.contextmanager
def _worker(
    addresses: list[str], index: int, arguments: Sequence[str]
) -> Iterator[subprocess.Popen[str]]:
    """Starts a worker, which does not outlast the context."""
    config = {
        "cluster": {"worker": addresses},
        "task": {"type": "worker", "index": index},
    }
    process = subprocess.Popen(
        [
            sys.executable,
            *("-m", "trainers.train", *arguments, "--strategy=multi_worker"),
        ],
        env=os.environ | {"TF_CONFIG": json.dumps(config)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    reader = threading.Thread(target=_show, args=(process, index), daemon=True)
    reader.start()
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        reader.join()


def _show(process: subprocess.Popen[str], index: int) -> None:
    """Prints what a worker prints, line by line, and who it was."""
    for line in process.stdout or ():
        print(f"[worker {index}] {line}", end="", flush=True)


def main(arguments: Sequence[str]) -> None:
    """Starts the workers.

    Args:
        arguments: The command line without the flags of this program.
    """
    problem = launch(_WORKERS.value, arguments[1:])
    if problem:
        sys.exit(f"error: {problem}")


if __name__ == "__main__":
    app.run(main)
