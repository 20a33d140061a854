"""The exceptions a user may meet, each with the exit code it ends in.

    TonnageError
    |-- BadInput            2   the request, a file or a key is wrong
    |   `-- Unusable        2   and no other instance would change that
    |-- InvalidMeasurement  3   the measurement cannot be trusted
    `-- Infrastructure      4   Ray, HAProxy, Locust or the kernel did not do its part

A failed request is data, never an exception; so is a measurement with faults.
The text of each tells the user which file, key or flag to change.
"""

from __future__ import annotations


class TonnageError(Exception):
    """Base of everything Tonnage raises on purpose."""

    exit_code = 4


class BadInput(TonnageError):
    """The user gave something that cannot be used; the text says what to change."""

    exit_code = 2


class Unusable(BadInput):
    """What the user gave cannot be used on any instance: a larger one would not help."""


class InvalidMeasurement(TonnageError):
    """A measurement was made, and must not be believed."""

    exit_code = 3


class Infrastructure(TonnageError):
    """A part below us (Ray, HAProxy, Locust, the kernel) failed."""

    exit_code = 4
