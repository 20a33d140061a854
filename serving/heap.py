"""The C library's heap: whether freed memory stays with the process."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 << 20  # glibc accepts no more
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Ask glibc not to give freed memory back to the kernel after every call.

    PyTorch allocates its activations anew in each call. By default large ones are returned
    to the kernel when freed and faulted in again, page by page, in the next call, which can
    cost more than the arithmetic (``docs/design.md``, "Findings"). Elsewhere than on glibc
    nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        mallopt(_TRIM_THRESHOLD, _NEVER)
