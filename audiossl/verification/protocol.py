"""Which trials an outcome was chosen or fitted on, kept beside it, so that no list is development and test at once unnoticed.

`audiossl select` keeps its list in the experiment; `embed` copies what it finds there, and in the experiments that this one was started from, to the
embeddings and `verify` to the scores: `selection.json` and, of trial lists, `selection.trials`, `selection_1.trials` ... A calibration keeps its own beside
its file.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from audiossl.data.json_files import read_json_table, write_json
from audiossl.files import whole_file
from audiossl.interop.checkpoint import best_mark, chosen_checkpoint, step_of
from audiossl.interop.encoder import CONFIG, OWN, RANDOM, UPSTREAM, experiment_tables, find_source, is_foreign
from audiossl.verification.trials import read_trials

if TYPE_CHECKING:
    from collections.abc import Iterator

    from audiossl.verification.trials import Trials

NONE, TEST, UNKNOWN = "none", "test", "unknown"
KEPT = "selection.trials"
_KEPT = re.compile(r"selection(_[1-9]\d*)?\.trials")
_RECORD = "selection.json"
_PUBLISHED = re.compile(r"trials_[oeh](_cleaned)?")
"""What the lists of VoxCeleb1 are called; those of other corpora lie in a folder `test`."""


@dataclass(frozen=True)
class Selection:
    """How a checkpoint was chosen among several.

    by: the trial list, or the development data of a fine-tuning; `none` where the newest was taken; `unknown` where nothing says.
    trials: our copy of that list. earlier: the same of the checkpoints that this one was started from, where there was a choice.
    """

    by: str
    trials: Path | None = None
    earlier: tuple[Selection, ...] = ()


def selection_of(source: str) -> Selection:
    """Say how the checkpoint was chosen that a source means (see `interop.encoder`), and those that it was started from.

    One that is named itself was chosen by hand.
    """
    first, *others = _selections(source)
    return replace(first, earlier=tuple(other for other in dict.fromkeys(others) if other.by != NONE))


def _selections(source: str, followed: frozenset[Path] = frozenset()) -> Iterator[Selection]:
    """Yield how a source was chosen, then what it was started from: as a whole (`run.init`), or for the encoder inside it (`encoder.init`).

    followed: experiments that led here; one of them, which has the name of another that is gone, leads nowhere.
    """
    elsewhere = source.startswith((RANDOM, UPSTREAM)) or OWN.fullmatch(source) or is_foreign(Path(source))
    path = None if elsewhere else find_source(source)
    if path is None or is_foreign(path):
        yield Selection(NONE)
        return
    experiment = path if (path / CONFIG).is_file() else path.parent.parent
    if experiment.resolve() in followed:
        yield Selection(UNKNOWN)
        return
    tables = experiment_tables(experiment)
    yield _selection(path, experiment, tables)
    for table in ("run", "encoder"):
        if init := tables.get(table, {}).get("init"):
            try:
                yield from _selections(init, followed | {experiment.resolve()})
            except ValueError:  # what it was started from is no longer there
                yield Selection(UNKNOWN)


def _selection(path: Path, experiment: Path, tables: dict[str, Any]) -> Selection:
    said = best_mark(experiment)
    if said.get("step") != step_of(chosen_checkpoint(experiment) if path == experiment else path):
        return Selection(NONE if path == experiment else UNKNOWN)
    if "trials" in said:
        return Selection(str(said["trials"]), experiment / KEPT)
    return Selection(str(tables.get("run", {}).get("dev", UNKNOWN)))


def keep_selection(selection: Selection, folder: Path) -> None:
    """Write a selection into a folder, or remove the one that is there if nothing is known."""
    lists = {
        _kept(folder, number): one.trials
        for number, one in enumerate((selection, *selection.earlier))
        if one.trials is not None
    }
    for path in (folder / _RECORD, *kept_lists(folder)):
        if path not in lists.values():
            path.unlink(missing_ok=True)
    for path, trials in lists.items():
        keep_list(trials, path)
    if selection.by != UNKNOWN or selection.earlier:
        earlier = {"earlier": [one.by for one in selection.earlier]} if selection.earlier else {}
        write_json(folder / _RECORD, {"selection": selection.by, **earlier})


def kept_selection(folder: Path) -> Selection:
    """Read what `keep_selection` wrote."""
    if not (folder / _RECORD).is_file():
        return Selection(UNKNOWN)
    said = read_json_table(folder / _RECORD, "extract the embeddings again")
    lists = kept_lists(folder)

    def at(number: int, by: Any) -> Selection:
        path = _kept(folder, number)
        return Selection(str(by), path if path in lists else None)

    earlier = tuple(at(number, by) for number, by in enumerate(said.get("earlier", ()), start=1))
    return replace(at(0, said.get("selection", UNKNOWN)), earlier=earlier)


def kept_lists(folder: Path) -> list[Path]:
    """Return the trial lists that `keep_selection` wrote."""
    return [path for path in folder.glob("selection*.trials") if _KEPT.fullmatch(path.name) and path.is_file()]


def _kept(folder: Path, number: int) -> Path:
    return folder / (f"selection_{number}.trials" if number else KEPT)


def keep_list(source: Path, place: Path) -> None:
    """Copy a trial list to `place`."""
    if source.resolve() != place.resolve():
        with whole_file(place) as partial:
            shutil.copyfile(source, partial)


def is_test_list(trials: Path) -> bool:
    """Whether a list is one that a corpus of ours writes for testing: by its name, or by the name of its folder, `test`."""
    places = trials.absolute(), trials.resolve()
    return any(_PUBLISHED.fullmatch(place.name) or place.parent.name == "test" for place in places)


def judge_selection(selection: Selection, scored: Trials, *, allowed: bool) -> str:
    """Return the lists by which the checkpoint and those that it was started from were chosen, `none`, or `test`; see `judge_list`."""
    found = [judge_list(selection.trials, selection.by, scored, what="the checkpoint was selected", allowed=allowed)]
    what = "a checkpoint that this one was started from was selected"
    found += [judge_list(one.trials, one.by, scored, what=what, allowed=allowed) for one in selection.earlier]
    if TEST in found:
        return TEST
    return ", ".join(dict.fromkeys(name for name in found if name != NONE)) or NONE


def judge_list(used: Path | None, name: str, scored: Trials, *, what: str, allowed: bool) -> str:
    """Return `test` where the scored trials are those that were used to choose or to fit, else `name`; ValueError unless that is allowed.

    They are the same where more than half of either list's trials are in the other, or more than half of either list's utterances, for
    models of `scored` those that they are means of. used: that list, or None where it is not known. what: was done with it, for the message.
    """
    if used is None:
        return name
    other = read_trials(used, scored.models)
    if max(shared_trials(scored, other) / len(scored), shared_trials(other, scored) / len(other)) > 0.5:
        alike = "these trials"
    elif shared_utterances(scored, other) / min(len(scored.utterances), len(other.utterances)) > 0.5:
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
    return len(set(one.utterances).intersection(other.utterances))


def shared_trials(one: Trials, other: Trials) -> int:
    """Count the trials of `one` whose two utterances are also a trial of `other`, in either order."""
    count = len(one.names)
    number = dict(zip(one.names, range(count), strict=True))
    known = np.fromiter(map(number.get, other.names, repeat(-1)), np.int64, len(other.names))
    sides = known[other.enrol], known[other.test]
    low, high = np.minimum(*sides), np.maximum(*sides)
    return int(np.isin(one.pairs, np.where(low >= 0, low * count + high, -1)).sum())
