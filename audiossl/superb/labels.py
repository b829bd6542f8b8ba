"""What a task is asked about its data: which directories and files a score depends on, whether they are there, and their identity."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from audiossl.data.excerpts import file_excerpt, spread
from audiossl.data.kaldi import SEGMENTS, keyed_by
from audiossl.data.manifest import Manifest

_SEARCHED = ("documents", "queries_dev", "queries_eval")
_SPLIT = ("train", "dev", "test")
_IN_TURN = ("all",)


@dataclass(frozen=True)
class Labels:
    """Labels of a task: its class, and the tables `[task]` and `[superb]`.

    The class says `label_files(task_config, part)`: names of files of a directory, or paths; columns hold a line for each utterance. `check_labels` and
    `looked_up`, where it has them, are as in `nn.task.Task`; `cures`, where it has them, say what makes a column that is missing; `file_columns(task_config)`,
    where it has it, says which columns name recordings, of which the digest is, wherever they lie.
    """

    task_class: Any
    task_config: Any
    config: Any

    @property
    def parts(self) -> tuple[str, ...]:
        """Directories that the task has."""
        if self.task_class.runner == "search":
            return _SEARCHED
        return _IN_TURN if getattr(self.config, "folds", None) else _SPLIT

    def names(self, part: str) -> tuple[str, ...]:
        """Files of a directory that the score depends on, beside the audio; columns that divide it among them."""
        dividing = [getattr(self.config, key, None) for key in ("folds", "groups")]
        further = [name for name in dividing if isinstance(name, str) and keyed_by(name) == "utterance"]
        return tuple(dict.fromkeys((*self.task_class.label_files(self.task_config, part), *further)))

    @property
    def file_columns(self) -> tuple[str, ...]:
        """Columns that name recordings."""
        found = getattr(self.task_class, "file_columns", None)
        return () if found is None else tuple(found(self.task_config))

    def check(self, data: Path) -> None:
        """Raise ValueError for a directory or a file of labels that is not there, and for labels by which it could not be scored, before anything is computed.

        What cannot be labelled of DIR/train is left to the runner.
        """
        for part in self.parts:
            if part == "dev" and self.task_class.runner == "frames" and not (data / part).is_dir():
                continue  # one rate without dev may do: `frames.py` knows
            manifest = Manifest.open(data / part)
            for name in self.names(part):
                if keyed_by(name) == "utterance":
                    cure = getattr(self.task_class, "cures", {}).get(name)
                    if cure and name not in manifest.column_names():
                        raise ValueError(f"{data / part / name}: no such file; {cure}")
                    column = manifest.column(name)
                    for _ in column if part != "train" else ():
                        pass
                elif name not in getattr(self.task_class, "optional_files", ()) and not (data / part / name).is_file():
                    raise ValueError(f"{data / part / name}: no such file, and this task is scored by it; write it")
            if part != "train" and hasattr(self.task_class, "check_labels"):
                self.task_class.check_labels(self.task_config, manifest)

    def digest(self, data: Path) -> str:
        """SHA-256 of all directories; where they and their recordings lie does not matter."""
        return hashlib.sha256("".join(self.part_digests(data, self.parts).values()).encode()).hexdigest()

    def part_digests(self, data: Path, parts: tuple[str, ...]) -> dict[str, str]:
        """SHA-256 of the ids, lengths, labels and some recordings of those of some directories that are there, by their names."""
        return {part: self._digest(data / part, part) for part in parts if (data / part).is_dir()}

    def _digest(self, directory: Path, part: str) -> str:
        manifest = Manifest.open(directory)
        digest = hashlib.sha256(f"{part} {len(manifest)}\n".encode())
        digest.update("\n".join(manifest.ids).encode())
        digest.update(np.ascontiguousarray(manifest.durations, dtype=np.float64).tobytes())
        for row in spread(len(manifest)):
            digest.update(manifest.excerpt(row))
        known = manifest.column_names()
        for name in (*self.names(part), SEGMENTS):
            if name in known:
                column = manifest.column(name)
                files = name in self.file_columns
                told = _placeless if files else str
                values = (told(column[row]) if column.has(row) else "" for row in range(len(manifest)))
                digest.update(f"\n{name}\n".encode() + "\n".join(values).encode())
                for target in (column[row] for row in spread(len(manifest)) if files and column.has(row)):
                    digest.update(file_excerpt(Path(target)) if target.startswith("/") else b"")
            elif not PurePath(name).is_absolute() and (directory / name).is_file():
                digest.update(f"\n{name}\n".encode() + (directory / name).read_bytes())
        if hasattr(self.task_class, "looked_up"):
            for value in self.task_class.looked_up(self.task_config, manifest):
                digest.update(f"\n{value}".encode())
        return digest.hexdigest()


def _placeless(value: str) -> str:
    """Of a recording's path its name and folder, `s1/x.wav`: corpora tell clean from noisy and voice from voice by these, and may be moved."""
    return "/".join(PurePath(value).parts[-2:]) if value.startswith("/") else value
