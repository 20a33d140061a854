"""Time one variant in a process of its own: THREADS VARIANT."""

import sys

from benchmarks.credit import time_one

if __name__ == "__main__":
    print(time_one(sys.argv[2], int(sys.argv[1])))
