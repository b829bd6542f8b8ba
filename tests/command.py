"""The command itself, run in the process of the test."""

from __future__ import annotations

import contextlib
import io
import signal

import pytest

from audiossl.cli.main import main


def audiossl(*words):
    """Run it; returns (status, stdout, stderr)."""
    out, err = io.StringIO(), io.StringIO()
    # An interrupted command ignores further interrupts until it ends; this process goes on.
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stop:
            main([*map(str, words)])
    finally:
        signal.signal(signal.SIGINT, interrupt)
    return stop.value.code, out.getvalue(), err.getvalue()


def succeed(*words):
    """Run it to status 0; returns (stdout, stderr)."""
    status, out, err = audiossl(*words)
    assert status == 0, err
    return out, err


def fails(*words):
    """Run it to status 1 without a traceback or anything printed; returns the last line that it says."""
    status, out, err = audiossl(*words)
    assert (status, out) == (1, "")
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith("audiossl: ")
    return last


def complains(*words, status=1):
    """Run it to that status with one line on stderr and nothing printed; returns the line."""
    found, out, err = audiossl(*words)
    assert (found, out, err.count("\n")) == (status, "", 1), err
    return err
