"""Speak sentences with espeak-ng: the same samples for the same request, with exact phone boundaries.

The engine is GPL-3, so it is no dependency of the core: it comes with the wheel `espeakng-loader` (the extra `synth`), which is fetched into the
user's cache folder where it is not installed, and runs in a process of its own (`_espeak_server.py` says why). About 700 times faster than
real time per process.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from audiossl.files import cache_folder

if TYPE_CHECKING:
    from types import TracebackType

_SERVER = Path(__file__).with_name("_espeak_server.py")
_WHEEL = "espeakng-loader==0.2.4"  # whatever is fetched is the same, so that the corpora are
_STRESS = str.maketrans("", "", "ˈˌ")


@dataclass(frozen=True)
class Request:
    """What to say and how: `voice` as in `en+f2`, `pitch` and its `range` 0-100, `rate` in words per minute (80-450)."""

    text: str
    voice: str
    pitch: int = 50
    rate: int = 175
    range: int = 50


@dataclass
class Speech:
    """samples: (sample,) int16 at `sample_rate` Hz. phones: (first sample, IPA without stress), "" where nothing is said."""

    samples: np.ndarray
    sample_rate: int
    phones: list[tuple[int, str]]


class Synthesiser:
    """One espeak-ng process, to be used by one thread at a time, in a `with` statement."""

    def __init__(self) -> None:
        library, data = _engine()
        self._variants = {path.name for path in (data / "voices" / "!v").iterdir()}
        self._process = _start(library, data)
        self._sample_rate: int = self._receive()["sample_rate"]

    def speak(self, request: Request) -> Speech:
        """Synthesise one sentence; ValueError where espeak-ng cannot."""
        _, plus, variant = request.voice.partition("+")
        if plus and variant not in self._variants:  # espeak-ng would take the plain voice
            raise ValueError(f"espeak-ng has no voice variant {variant!r}; known: {', '.join(sorted(self._variants))}")
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(request)).encode() + b"\n")
        self._process.stdin.flush()
        header = self._receive()
        assert self._process.stdout is not None
        sound = self._process.stdout.read(2 * header["samples"])
        phones = [(int(sample), phone.translate(_STRESS)) for sample, phone in header["phones"]]
        return Speech(np.frombuffer(sound, dtype="<i2"), self._sample_rate, phones)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ValueError("the espeak-ng process ended without an answer; `audiossl doctor` says what is missing")
        header: dict[str, Any] = json.loads(line)
        if "error" in header:
            raise ValueError(header["error"])
        return header


def _engine() -> tuple[Path, Path]:
    """Return the library and its data folder."""
    if not hasattr(os, "fork"):
        raise ValueError(f"espeak-ng is driven by fork, which {sys.platform} lacks; use Linux, macOS or WSL")
    installed = importlib.util.find_spec("espeakng_loader")
    package = Path(installed.origin).parent if installed and installed.origin else _fetched() / "espeakng_loader"
    return package / f"libespeak-ng.{'dylib' if sys.platform == 'darwin' else 'so'}", package / "espeak-ng-data"


def _fetched() -> Path:
    """Return a folder that holds the wheel; pip fetches it the first time, and no package is installed."""
    folder = cache_folder() / _WHEEL
    if folder.is_dir():
        return folder
    print(f"espeak-ng is not installed: pip fetches {_WHEEL} (GPL-3) into {folder}", file=sys.stderr)
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(partial), _WHEEL]
    try:
        pip = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (no word of it is a user's)
        if pip.returncode:
            reason = (pip.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise ValueError(
                f"espeak-ng is not installed, and pip cannot fetch {_WHEEL}: {reason}; where there is a package index, pip install "
                "'.[synth]' in a checkout or 'audiossl[synth]' elsewhere"
            )
        if not folder.is_dir():  # another process may have been faster
            partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _start(library: Path, data: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I", str(_SERVER), str(library), str(data)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603 (our own file)
