# SPDX-License-Identifier: Apache-2.0
"""The errors hubsep raises: every message says what was wrong, with the value, and the way out.

All of them are `ValueError`s as well, so code that only knows the standard library can catch them.
"""

from __future__ import annotations


class HubsepError(Exception):
    """Base of every error raised on purpose by hubsep."""


class AudioError(HubsepError, ValueError):
    """A recording that cannot be read, written or processed as asked."""


class CheckpointError(HubsepError, ValueError):
    """A model folder or configuration that is broken, incomplete or hostile."""


class ConversionError(HubsepError, ValueError):
    """A published checkpoint that does not fit the layout it claims to have."""


class QueryError(HubsepError, ValueError):
    """A query that is missing, empty or of the wrong kind."""


class DataError(HubsepError, ValueError):
    """A data folder or its `metadata.csv` that does not keep the dataset contract."""


__all__ = ["AudioError", "CheckpointError", "ConversionError", "DataError", "HubsepError", "QueryError"]
