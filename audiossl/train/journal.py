"""What a run says: metrics.jsonl, TensorBoard, a log file, and a line or a bar on the terminal."""

from __future__ import annotations

import json
import math
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

from audiossl.files import naming, whole_file

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType


class Journal:
    """The records of one experiment, written by the main process only.

    Every training step is a line of `metrics.jsonl`; a resumed run first drops the lines after its checkpoint, so that the file reads
    as if nothing had happened. Messages go to `log/train.log` and to stderr.
    """

    def __init__(self, experiment: Path, *, total_steps: int, resumed_at: int, tensorboard: bool, speaks: bool) -> None:
        self.speaks = speaks
        self.total_steps = total_steps
        self._started = time.monotonic()
        self._first_step = resumed_at
        self._bar: Any = None
        if not speaks:
            return
        (experiment / "log").mkdir(parents=True, exist_ok=True)
        metrics = experiment / "metrics.jsonl"
        if metrics.exists():
            _forget_after(metrics, resumed_at)
        self._path, self._log_path = metrics, experiment / "log" / "train.log"
        self._metrics = metrics.open("a", encoding="utf-8")
        self._log = self._log_path.open("a", encoding="utf-8")
        self._tensorboard = _tensorboard(experiment, resumed_at) if tensorboard else None
        if sys.stderr.isatty():
            self._bar = _progress_bar(total_steps, resumed_at)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.speaks:
            return
        if self._bar is not None:
            self._bar[0].stop()
        if self._tensorboard is not None:
            self._tensorboard.close()
        with naming(self._path), self._metrics, naming(self._log_path), self._log:
            if error is not None:
                self._log.write(f"stopped: {error}\n")

    def holds(self, step: int, kind: str) -> bool:
        """Whether metrics.jsonl has a line of this kind for a step; False in processes that do not write it."""
        if not self.speaks:
            return False
        with self._path.open(encoding="utf-8", errors="replace") as lines:
            return any((row.get("step"), row.get("kind")) == (step, kind) for row in map(_row, lines))

    def record(self, step: int, kind: str, values: dict[str, float]) -> None:
        """Add a line to metrics.jsonl, flushed."""
        if not self.speaks:
            return
        with naming(self._path):
            self._metrics.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
            self._metrics.flush()
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(f"{kind}/{name}", value, step)

    def advance(self, step: int, values: dict[str, float], *, announce: bool) -> None:
        """Move the progress bar; write a line to the log (and to stderr where there is no bar) when `announce`."""
        if not self.speaks:
            return
        text = _summary(values)
        if self._bar is not None:
            self._bar[0].update(self._bar[1], completed=step, note=text)
        if announce:
            left = (self.total_steps - step) * (time.monotonic() - self._started) / max(1, step - self._first_step)
            line = f"step {step}/{self.total_steps} {text} left {timedelta(seconds=round(left))}"
            self._write(line)
            if self._bar is None:
                print(line, file=sys.stderr, flush=True)

    def say(self, message: str) -> None:
        """Write a message to the log and the terminal."""
        if not self.speaks:
            return
        self._write(message)
        if self._bar is not None:
            self._bar[0].console.print(message, highlight=False, markup=False)
        else:
            print(message, file=sys.stderr, flush=True)

    def _write(self, line: str) -> None:
        with naming(self._log_path):
            self._log.write(line + "\n")
            self._log.flush()


def _summary(values: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in values.items())


def _forget_after(path: Path, step: int) -> None:
    with (
        path.open(encoding="utf-8", errors="replace") as lines,
        whole_file(path) as partial,
        partial.open("w", encoding="utf-8") as kept,
    ):
        for line in lines:
            # A kill may have cut the last line short.
            if line.endswith("\n") and _row(line).get("step", math.inf) <= step:
                kept.write(line)


def _row(line: str) -> dict[str, Any]:
    """Read a line of metrics.jsonl; nothing of one that a kill or a power cut has damaged."""
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def _tensorboard(experiment: Path, resumed_at: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(experiment / "tensorboard"), purge_step=resumed_at + 1)


def _progress_bar(total: int, completed: int) -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )  # fmt: skip
    task = bar.add_task("train", total=total, completed=completed, note="")
    bar.start()
    return bar, task
