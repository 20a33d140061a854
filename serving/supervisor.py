"""Run one command; when it, or whoever asked for it, is gone, leave nothing behind.

A subreaper: whatever the command starts, daemons included, stays findable below this
process and is killed at the end; then control groups and private folders are removed.
Standard library only, executed by path:

    supervisor.py LIFELINE_FD SETTINGS

The lifeline is the read end of a pipe whose write end the caller holds. The kernel
closes it however the caller dies, SIGKILL included; that is the signal to clean up.
SETTINGS is JSON: ``{"command": [...], "remove": [folders], "groups": [cgroup folders],
"grace_s": 10, "cpus": [0], "linger": false}``; ``cpus`` empty means all. With ``linger`` a
command that ends and leaves processes behind (a daemon) is waited for until they end, too.
"""

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def descendants(root: int, proc: str = "/proc") -> list[int]:
    """Ids of all living processes below ``root``, zombies included."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir(proc):
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"{proc}/{entry}/stat") as stream:
                parent = int(stream.read().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry))
    found: list[int] = []
    queue = list(children.get(root, ()))
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue.extend(children.get(pid, ()))
    return found


def reap() -> None:
    """Collect every finished child, adopted ones too."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def kill_all(timeout_s: float = 10.0) -> None:
    """SIGKILL everything below this process until nothing is left."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        left = descendants(os.getpid())
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
        reap()


def remove_groups(bases: list[str]) -> None:
    """Remove control group folders bottom-up; the kernel needs a moment after a kill."""
    for base in bases:
        deadline = time.monotonic() + 3
        while os.path.isdir(base) and time.monotonic() < deadline:
            for folder, _, _ in os.walk(base, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
            time.sleep(0.02)


def main() -> int:
    """Run, watch, clean up; returns the command's exit code."""
    lifeline = int(sys.argv[1])
    settings = json.loads(sys.argv[2])
    if settings["cpus"]:
        os.sched_setaffinity(0, settings["cpus"])
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    stop: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda signum, _: stop.append(signum))

    def die_with_supervisor() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    child = subprocess.Popen(
        settings["command"],
        start_new_session=True,
        preexec_fn=die_with_supervisor,
    )
    # Only the child may hold the caller's pipes: else their end never shows.
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)

    def over() -> bool:
        if child.poll() is None:
            return False
        if not settings["linger"]:
            return True
        reap()
        return not descendants(os.getpid())

    while not stop and not over():
        ready, _, _ = select.select([lifeline], [], [], 0.2)
        if ready:
            break
    deadline = time.monotonic() + settings["grace_s"]
    if not over():
        for pid in descendants(os.getpid()) if settings["linger"] else [child.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        while not over() and time.monotonic() < deadline:
            time.sleep(0.02)
    kill_all()
    remove_groups(settings["groups"])
    for folder in settings["remove"]:
        shutil.rmtree(folder, ignore_errors=True)
    if child.returncode is None:
        return 1
    return child.returncode if child.returncode >= 0 else 128 - child.returncode  # as a shell


if __name__ == "__main__":
    sys.exit(main())
