"""Starts one side in a process of its own and takes its first steps.

    KERAS_BACKEND=torch python benchmarks/fresh.py '{"side": "ours", ...}'

`compare.py --work start` runs this. Prints a JSON line: seconds from `begin`,
when the process was asked for, to the end of the first step, and the most
memory that the process has held, in MiB, after a few more.
"""

import json
import re
import sys
import time
from pathlib import Path


def peak_memory():
    """Returns the most memory that this process has held, in MiB.

    `resource.getrusage` would do, if Linux did not let a new process begin
    with the peak of the one that started it.
    """
    status = Path("/proc/self/status").read_text("utf-8")
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(kib) / 1024


def main(side, network, batch_size, steps, begin):
    """Builds the side and trains."""
    import sides
    from sides.network import Network

    for name in ("depths", "widths"):
        network[name] = tuple(network[name])
    network = Network(**network)
    images, labels = network.random_batches(batch_size * steps)
    try:
        side = sides.build(side, network, network.draw())
        side.train(images[:batch_size], labels[:batch_size], batch_size)
    except sides.Unavailable as error:
        return {"left_out": str(error)}
    after = time.perf_counter() - side.finished
    first = time.time() - after - begin
    side.train(images, labels, batch_size)
    return {"first_step": first, "peak_memory": peak_memory()}


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))))
