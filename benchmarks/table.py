"""``python -m benchmarks.table [FILE...]``: the table over all models, from what is published.

With files it only checks them, as a contributor does before handing one in.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.__main__ import ROOT
from reports.all_models import read_rows, table_of
from reports.contributed import read_submission
from reports.markdown import render_table
from serving.errors import TonnageError

PUBLISHED = ROOT / "reports" / "published"
TABLE = PUBLISHED / "all_models.md"


def main(files: Sequence[str]) -> None:
    """Check the files given; without any, check all and write the table."""
    try:
        for name in files:
            made = read_submission(Path(name))
            print(f"{name}: fine, {len(made.result)} results on {made.model}")
        if not files:
            write()
    except TonnageError as error:
        sys.exit(str(error))


def write() -> None:
    """The table, from the files in reports/published."""
    TABLE.write_text(rendered())
    print(TABLE)


def rendered() -> str:
    """The table as Markdown."""
    return render_table(table_of(read_rows(PUBLISHED))) + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])
