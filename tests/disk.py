"""A disk that is full, for the tests of what is written."""

from __future__ import annotations

import resource
from contextlib import contextmanager


@contextmanager
def file_limit(size):
    """No file may grow beyond `size` bytes, as by `ulimit -f`; what is longer ends in OSError, as on a full disk."""
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))
