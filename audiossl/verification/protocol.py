"""Which trials an outcome was chosen or fitted on, kept beside it, so that no list is development and test at once unnoticed.

`audiossl select` keeps its list in the experiment; `embed` copies what it finds there to the embeddings and `verify` to the scores:
`selection.json` and, of a trial list, `selection.trials`. A calibration keeps its own beside its file.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from audiossl.data.json_files import read_json_table, write_json
from audiossl.files import whole_file
from audiossl.interop.checkpoint import best_step, chosen_checkpoint, step_of
from audiossl.interop.encoder import CONFIG, RANDOM, UPSTREAM, find_source, open_source
from audiossl.verification.trials import read_trials

if TYPE_CHECKING:
    from audiossl.verification.trials import Trials

NONE, TEST, UNKNOWN = "none", "test", "unknown"
KEPT = "selection.trials"
_RECORD = "selection.json"


@dataclass(frozen=True)
class Selection:
    """How a checkpoint was chosen among several.

    by: the trial list, or the development data of a fine-tuning; `none` where the newest was taken; `unknown` where nothing says.
    trials: our copy of that list.
    """

    by: str
    trials: Path | None = None


def selection_of(source: str) -> Selection:
    """Say how the checkpoint was chosen that a source means (see `interop.encoder`); one that is named itself was chosen by hand."""
    if source.startswith((RANDOM, UPSTREAM)) or Path(source).is_file():
        return Selection(NONE)
    path = find_source(source)
    if (path / "config.json").is_file() and not (path / CONFIG).is_file():  # of another package
        return Selection(NONE)
    experiment = path if (path / CONFIG).is_file() else path.parent.parent
    best = best_step(experiment)
    if best != step_of(chosen_checkpoint(experiment) if path == experiment else path):
        return Selection(NONE if path == experiment else UNKNOWN)
    said = read_json_table(experiment / "best.json", "select again")
    if "trials" in said:
        return Selection(str(said["trials"]), experiment / KEPT)
    return Selection(str(open_source(experiment)[1].get("run", {}).get("dev", UNKNOWN)))


def keep_selection(selection: Selection, folder: Path) -> None:
    """Write a selection into a folder, or remove the one that is there if nothing is known."""
    for name in (_RECORD, KEPT):
        if selection.trials != folder / name:
            (folder / name).unlink(missing_ok=True)
    if selection.trials is not None:
        keep_list(selection.trials, folder / KEPT)
    if selection.by != UNKNOWN:
        write_json(folder / _RECORD, {"selection": selection.by})


def kept_selection(folder: Path) -> Selection:
    """Read what `keep_selection` wrote."""
    if not (folder / _RECORD).is_file():
        return Selection(UNKNOWN)
    said: Any = read_json_table(folder / _RECORD, "extract the embeddings again").get("selection", UNKNOWN)
    return Selection(str(said), folder / KEPT if (folder / KEPT).is_file() else None)


def keep_list(source: Path, place: Path) -> None:
    """Copy a trial list to `place`."""
    if source.resolve() != place.resolve():
        with whole_file(place) as partial:
            shutil.copyfile(source, partial)


def judge_list(used: Path | None, name: str, scored: Trials, *, what: str, allowed: bool) -> str:
    """Return `test` where the scored trials are those that were used to choose or to fit, else `name`; ValueError unless that is allowed.

    They are the same where more than half of either list's trials are in the other, or more than half of either list's utterances. used:
    that list, or None where it is not known. what: was done with it, for the message.
    """
    if used is None:
        return name
    other = read_trials(used)
    if max(shared_trials(scored, other) / len(scored), shared_trials(other, scored) / len(other)) > 0.5:
        alike = "these trials"
    elif shared_utterances(scored, other) / min(len(scored.names), len(other.names)) > 0.5:
        alike = "trials of these utterances"
    else:
        return name
    if not allowed:
        raise ValueError(
            f"{scored.path}: {what} on {alike} ({name}), so that their scores flatter; give other development trials, or add "
            "--select-on-test, which results.json will say"
        )
    return TEST


def shared_utterances(one: Trials, other: Trials) -> int:
    """Count the utterances that are in both lists."""
    return len(set(one.names).intersection(other.names))


def shared_trials(one: Trials, other: Trials) -> int:
    """Count the trials of `one` whose two utterances are also a trial of `other`, in either order."""
    count = len(one.names)
    number = dict(zip(one.names, range(count), strict=True))
    known = np.fromiter(map(number.get, other.names, repeat(-1)), np.int64, len(other.names))
    sides = known[other.enrol], known[other.test]
    low, high = np.minimum(*sides), np.maximum(*sides)
    return int(np.isin(one.pairs, np.where(low >= 0, low * count + high, -1)).sum())
