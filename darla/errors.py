"""Every error that a user of the project can meet, under one root.

The command line prints the message of a `DarlaError` as one line and exits with status 2; anything
else is a defect. A message says what was given, what is allowed and what to type instead.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DarlaError(Exception):
    """Root of the errors that a user can cause and mend."""


class ConfigError(DarlaError):
    """A configuration that cannot be used; the message lists every fault at once."""


class DomainError(DarlaError):
    """An unknown factor, value, domain or suite, or a suite that breaks its own rules."""


class RunDirectoryError(DarlaError):
    """A run directory that belongs to another configuration, or that cannot be read or written."""


class CorruptFileError(DarlaError):
    """A checkpoint, shard or table that is truncated or does not hold what its name says."""


class MissingFileError(DarlaError):
    """A file or a finished stage that a command needs and that is not there."""


class FingerprintError(DarlaError):
    """A policy was asked to act on a perception that it was not trained on."""


class DivergenceError(DarlaError):
    """A training whose loss is no number any more, so that nothing good comes of going on."""


class DependencyError(DarlaError):
    """A package, system library or device that a command needs and this machine lacks."""


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """Returns ` (did you mean 'x'?)` for the nearest allowed name, or the empty string."""
    matches = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.5)
    return f" (did you mean '{matches[0]}'?)" if matches else ""
