"""Put this process into its instance, then become the Ray worker it was meant to be.

Runs as the ``py_executable`` of a replica, before Python imports anything of Ray, so
that every thread and every byte of the replica belongs to the instance. Standard
library only, executed by path.

    enter_instance.py SLOTS.json WORKER_SCRIPT ARGS...
    enter_instance.py SLOTS.json -- COMMAND ARGS...     any command, in the place of a worker

SLOTS.json lists one slot per replica: ``{"procs": [...], "cpus": [...]}``. A replica
claims the first slot whose owner is not alive, under a lock. It notes there its id (``pid``)
and the CPU time that it has used so far (``outside_s``): Ray's start, which an exec does not reset
and which the group, being entered only now, will never count.
"""

import fcntl
import json
import os
import sys
import time


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def main() -> None:
    """Claim a slot, enter it, and exec."""
    path, rest = sys.argv[1], sys.argv[2:]
    with open(path, "r+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        slots = json.load(stream)
        free = [slot for slot in slots if not _alive(slot.get("pid") or -1)]
        if not free:
            sys.exit(f"{path}: more replicas than slots")
        slot = free[0]
        slot["pid"], slot["outside_s"] = os.getpid(), time.process_time()
        for procs in slot["procs"]:
            with open(procs, "w") as group:
                group.write(str(os.getpid()))
        os.sched_setaffinity(0, slot["cpus"])
        stream.seek(0)
        stream.truncate()
        json.dump(slots, stream)
    if rest[0] == "--":
        os.execvp(rest[1], rest[1:])
    os.execv(sys.executable, [sys.executable, *rest])


if __name__ == "__main__":
    main()
