"""Recorded traffic in a file, CSV or Parquet: one row a request."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from loadtests.arrivals import Recorded, Trace, busiest_second_rps
from serving.errors import BadInput
from serving.records import sha256_of

if TYPE_CHECKING:
    import pandas as pd

DUE, BATCH = "timestamp", "batch"
"""The columns that are looked for unless others are named."""

# Numbers from here on are dates (2001 to 5138), not distances from the start: counted since 1970,
# in the unit of which a second has so many.
_EPOCHS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3), (1e9, 1.0))
_EPOCH_S = 1e9


def read_trace(
    path: Path,
    time_scale: float = 1.0,
    *,
    time_column: str = DUE,
    batch_column: str | None = None,
) -> Trace:
    """Read due times, and batch sizes where the file has them.

    ``time_column`` holds seconds from the start of the run, or dates: ISO 8601 text, a
    date column of Parquet, or seconds, ms, us or ns since 1970, told apart by their size;
    dates are counted from the first row. ``batch_column`` None is ``batch`` if there is one.
    Times are multiplied by ``time_scale``: 0.5 plays the trace at twice its speed.

    Raises BadInput in one line that names the file, the column and what to change.
    """
    if not 0 < time_scale < float("inf"):
        raise BadInput(f"{path}: time_scale = {time_scale:g}: give a number above 0")
    table = _read_table(path)
    for option, name in (("due", time_column), ("batch", batch_column)):
        if name is not None and name not in table.columns:
            have = ", ".join(str(column) for column in table.columns)
            raise BadInput(
                f"{path}: no column '{name}' (it has: {have}); rename one, or, to replay it, name "
                f"the one to use: tonnage measure --trace-columns {option}=NAME"
            )
    if not len(table):
        raise BadInput(f"{path}: no rows; give a trace with at least one request")
    due = _seconds(table[time_column], f"{path}: column '{time_column}'") * time_scale
    batches = None
    if batch_column is None and BATCH in table.columns:
        batch_column = BATCH
    if batch_column is not None:
        batches = _batches(table[batch_column], f"{path}: column '{batch_column}'")
    source = Recorded(
        file=path.name,
        sha256=sha256_of(path),
        time_scale=time_scale,
        time_column=time_column,
        batch_column=batch_column,
        requests=len(due),
        mean_batch=None if batches is None else float(batches.mean()),
        peak_rps=busiest_second_rps(due),
    )
    return Trace(due, batches, source)


def _read_table(path: Path) -> pd.DataFrame:
    """All columns of a CSV or Parquet file; pandas is loaded here, not in every worker."""
    import pandas as pd

    if not path.is_file():
        raise BadInput(f"{path}: no such file; give the path of a CSV or Parquet trace")
    try:
        if path.suffix == ".csv":
            return pd.read_csv(path)
        if path.suffix in (".parquet", ".pq"):
            return pd.read_parquet(path)
    except ImportError as error:
        raise BadInput(f"{path}: reading Parquet needs pyarrow; install it, or give CSV") from error
    except (ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(f"{path}: not a readable {path.suffix[1:]} file ({reason})") from error
    raise BadInput(f"{path}: traces are .csv or .parquet files; convert it, or rename it")


def _seconds(column: pd.Series, where: str) -> np.ndarray:
    """Seconds from the start, checked: finite, not negative, in order."""
    import pandas as pd

    if pd.api.types.is_numeric_dtype(column):
        times = column.to_numpy(dtype=float)
        second = next((second for begin, second in _EPOCHS if times[0] >= begin), None)
        dates = second is not None
        if second is not None:
            # Whole numbers are subtracted as such: floats of that size are 256 ns apart.
            exact = column.astype("int64") if pd.api.types.is_integer_dtype(column) else column
            times = (exact - exact.iloc[0]).to_numpy(dtype=float) / second
        elif len(late := np.flatnonzero(times >= _EPOCH_S)):
            raise BadInput(
                f"{where}: row {late[0] + 1} is {times[late[0]]:g}, a date, and row 1 is none; "
                "give seconds from the start, or dates, in all rows"
            )
    else:
        try:
            stamps = pd.to_datetime(column, format="ISO8601", utc=True)
        except (ValueError, TypeError) as error:
            raise BadInput(f"{where}: neither seconds nor ISO 8601 dates; convert it") from error
        start = pd.Timestamp(0, tz="UTC")
        times, dates = ((stamps - start) / pd.Timedelta(seconds=1)).to_numpy(dtype=float), True
    if not np.all(np.isfinite(times)):
        row = int(np.flatnonzero(~np.isfinite(times))[0])
        raise BadInput(f"{where}: row {row + 1} has no time; remove that row")
    if dates:
        times = times - times[0]
    back = np.flatnonzero(np.diff(times) < 0)
    if len(back):
        raise BadInput(f"{where}: row {back[0] + 2} is earlier than the row before; sort the file")
    if times[0] < 0:
        raise BadInput(f"{where}: row 1 is at {times[0]:g} s; times count from 0, so shift them")
    return np.asarray(times)


def _batches(column: pd.Series, where: str) -> np.ndarray:
    """Batch sizes, checked: whole numbers from 1."""
    import pandas as pd

    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=float)
    wrong = np.flatnonzero(~((values >= 1) & (values % 1 == 0)))
    if len(wrong):
        raise BadInput(
            f"{where}: row {wrong[0] + 1} is no whole number from 1; correct it, or drop the column"
        )
    return np.asarray(values.astype(int))
