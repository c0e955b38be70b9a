"""Start one implementation in a process of its own and take its first steps.

    KERAS_BACKEND=torch python benchmarks/fresh.py '{"name": "ours", ...}'

`compare.py --case start` runs this. It prints a JSON line: seconds from
`begin`, when the process was asked for, to the end of the first step, and the
most memory that the process has held, in MiB, after a few more steps.
"""

import json
import re
import sys
import time
from pathlib import Path

from comparison.implementation import Unavailable, build
from comparison.network import Network


def main(name, network, batch_size, steps, begin):
    """Build the implementation and train."""
    for key in ("depths", "widths"):
        network[key] = tuple(network[key])
    network = Network(**network)
    images, labels = network.random_batches(batch_size * steps)
    first = images[:batch_size], labels[:batch_size]
    try:
        implementation = build(name, network, network.draw())
        implementation.train(*first, batch_size)
    except Unavailable as error:
        return {"left_out": str(error)}
    after = time.perf_counter() - implementation.finished
    first_step = time.time() - after - begin
    implementation.train(images, labels, batch_size)
    # `resource.getrusage` would do, if Linux did not let a new process begin
    # with the peak of the one that started it.
    status = Path("/proc/self/status").read_text("utf-8")
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return {"first_step": first_step, "peak_memory": int(kib) / 1024}


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))))
