"""A replica's way into its instance, and what it notes on the way; groups are plain files here."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from serving.ray_host import enter_instance
from serving.slots import outside_s, read_slots, slots_in

# What Ray does: start, work, and become what the runtime environment names.
STARTED = """
import os, sys, time
while time.process_time() < float(sys.argv[1]): pass
os.execv(sys.executable, [sys.executable, "-I", *sys.argv[2:]])
"""


def started(slots: Path, used_s: float) -> int:
    """Enter an instance after ``used_s`` seconds of CPU; the id of the process, which has ended."""
    command = [sys.executable, "-c", STARTED, str(used_s), enter_instance.__file__, str(slots)]
    with subprocess.Popen([*command, "--", "true"]) as process:
        assert process.wait() == 0
        return process.pid


def test_a_replica_notes_what_it_used_before_it_entered(tmp_path: Path) -> None:
    """Across the exec; its successor takes the slot of the one that ended, with its own figure."""
    group, slots = tmp_path / "procs", tmp_path / "slots-a.json"
    empty = {"procs": [str(group)], "cpus": sorted(os.sched_getaffinity(0))}
    slots.write_text(json.dumps([empty, empty]))
    for used_s in (0.5, 0.1):
        pid = started(slots, used_s)
        first, second = read_slots(slots)
        assert (first["pid"], group.read_text()) == (pid, str(pid))
        assert used_s <= first["outside_s"] < used_s + 0.4
        assert second == empty
        assert outside_s(slots_in(tmp_path)) == {pid: first["outside_s"]}


def test_slots_without_the_figure_say_nothing() -> None:
    """Not claimed, or claimed by a replica of before it was noted."""
    assert outside_s([{"procs": []}, {"pid": 7}, {"pid": 8, "outside_s": 0.5}]) == {8: 0.5}


def test_a_slot_that_is_being_claimed_is_waited_for(tmp_path: Path) -> None:
    """The file is emptied and written again under the lock: nobody reads it half-way."""
    path = tmp_path / "slots-a.json"
    found: list[object] = []
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        reader = threading.Thread(target=lambda: found.extend(read_slots(path)))
        reader.start()
        reader.join(0.1)
        assert reader.is_alive()
        json.dump([{"pid": 7}], stream)
    reader.join(5)
    assert found == [{"pid": 7}]
