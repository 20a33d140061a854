"""What the options of ``tonnage measure`` ask for, and which of them cannot be carried out."""

from __future__ import annotations

import pytest

from serving.errors import BadInput
from tonnage.load import Options, load_of


def test_more_users_than_the_workers_have_are_refused() -> None:
    """A worker has 128 users, and users that do not divide among the workers are all one's."""
    for users, workers in ((128, 1), (256, 2), (127, 2)):
        assert load_of(Options(users=users, workers=workers)).run.users == users
    for users, workers in ((129, 1), (258, 2), (129, 2)):
        with pytest.raises(BadInput, match=f"--users {users}: a worker has 128"):
            load_of(Options(users=users, workers=workers))
