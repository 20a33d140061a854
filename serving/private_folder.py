"""Folders private to one process: sockets, token, settings. They go when it goes."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from pathlib import Path

# Ray and HAProxy put Unix sockets some 85 bytes below it, and a socket's path ends at 107.
_LONGEST_BASE = 8


def private_base() -> Path:
    """The temporary folder, or /tmp where that has too long a name for sockets."""
    base = tempfile.gettempdir()
    return Path(base if len(base) <= _LONGEST_BASE else "/tmp")  # noqa: S108 - 0700 below


def new_name() -> str:
    """A name that tells whose it is: ``tonnage-<pid>-<random>``."""
    return f"tonnage-{os.getpid()}-{secrets.token_hex(3)}"


def remove_stale_folders() -> None:
    """Remove private folders of Tonnage processes that no longer live."""
    for folder in private_base().glob("tonnage-*-*"):
        owner = folder.name.split("-")[1]
        mine = folder.is_dir() and folder.stat().st_uid == os.getuid()
        if mine and owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(folder, ignore_errors=True)
