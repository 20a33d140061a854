"""Start one Locust master and N workers, and become the master.

Workers are children of this process, so that they end with it; its stdin and stdout
are the master's. Standard library only, executed by path: LAUNCHER PORT WORKERS.
"""

import os
import subprocess
import sys
from pathlib import Path

PROCESS = Path(__file__).with_name("locust_process.py")


def main() -> None:
    """Spawn the workers, then exec the master in this process."""
    port, workers = sys.argv[1], int(sys.argv[2])
    python = [sys.executable, "-P", str(PROCESS)]
    started = [
        subprocess.Popen(
            [*python, "worker", port, str(index)], stdin=subprocess.DEVNULL, stdout=sys.stderr
        )
        for index in range(workers)
    ]
    # As their parent, the master sees at once what becomes of them.
    pids = ",".join(str(process.pid) for process in started)
    os.execve(
        sys.executable, [*python, "master", port], {**os.environ, "TONNAGE_WORKER_PIDS": pids}
    )


if __name__ == "__main__":
    main()
