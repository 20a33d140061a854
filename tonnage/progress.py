"""Progress on stderr: a bar on a terminal, one line per step elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Steps:
    """Progress of a study, in estimated seconds. A context manager."""

    def __init__(self, total_s: float, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True)
        self._quiet = quiet
        self._total_s = total_s
        self._done_s = 0.0
        self._step_s = 0.0
        self._started = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        if self._console.is_terminal and not quiet:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task("starting", total=total_s)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if self._bar is not None and self._task is not None:
            if kind is None:
                self._bar.update(self._task, completed=self._total_s, description="done")
            self._bar.stop()

    def step(self, description: str, estimate_s: float) -> None:
        """The step before is done; this one begins and is thought to take so long."""
        self._done_s += self._step_s
        self._step_s = estimate_s
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done_s, description=description)
        elif not self._quiet:
            elapsed = time.monotonic() - self._started
            sys.stderr.write(f"[{elapsed:5.0f} s] {description}\n")
            sys.stderr.flush()

    def expect(self, left_s: float) -> None:
        """Better known by now: what comes after this step takes so long."""
        self._total_s = self._done_s + self._step_s + left_s
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, total=self._total_s)

    def elapsed_s(self) -> float:
        """Seconds since the study began."""
        return time.monotonic() - self._started

    def say(self, line: str) -> None:
        """A line that stays."""
        if not self._quiet:
            (self._bar.console if self._bar else self._console).print(
                line, highlight=False, soft_wrap=True, markup=False
            )
