"""Write the files of a data directory from parts of others: what subset and combine share."""

from __future__ import annotations

import heapq
import json
from typing import TYPE_CHECKING, Any

from audiossl.data import kaldi
from audiossl.data.index import Table
from audiossl.data.json_files import read_json_table
from audiossl.data.lines import parse_trial, scan
from audiossl.data.writer import write_speakers

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from audiossl.data.manifest import Manifest

_COUNTS = ("utterances", "labels", "left_out")  # of a units card: the only entries in which the parts may differ


def write_parts(parts: Sequence[Manifest], names: Collection[str], folder: Path) -> None:
    """Write the tables `names`, alignments and trials of the utterances of `parts` into `folder`.

    parts: disjoint, each in C order. Ids are held, everything else is streamed. ValueError where two parts say different things
    of one recording or speaker, or have units of different codebooks.
    """
    for name in sorted(names):
        if name == kaldi.SEGMENTS:
            kaldi.write_sorted_table(folder / name, heapq.merge(*map(_segments, parts)))
        elif name == kaldi.UTT2SPK:
            write_speakers(folder, {key: value for part in parts for key, value in _column(part, name)})
        elif name.startswith(kaldi.UNITS):
            _write_units(parts, name, folder)
        elif kaldi.keyed_by(name) == "utterance":
            kaldi.write_sorted_table(folder / name, heapq.merge(*(_column(part, name) for part in parts)))
        elif name != kaldi.SPK2UTT:
            rows = heapq.merge(*(_shared(part, name) for part in parts))
            kaldi.write_sorted_table(folder / name, _agreed(rows, name))
    ids = [frozenset(part.ids) for part in parts]
    if any((part.path / kaldi.PHONES_CTM).is_file() for part in parts):
        phones = (_phones(part.path / kaldi.PHONES_CTM, known) for part, known in zip(parts, ids, strict=True))
        kaldi.write_sorted_table(folder / kaldi.PHONES_CTM, heapq.merge(*phones, key=lambda row: row[0]))
    if any((part.path / kaldi.TRIALS).is_file() for part in parts):
        with (folder / kaldi.TRIALS).open("w", encoding="utf-8", newline="\n") as file:
            for part, known in zip(parts, ids, strict=True):
                file.writelines(_trials(part.path / kaldi.TRIALS, known))


def _column(part: Manifest, name: str) -> Iterator[tuple[str, str]]:
    """What the column `name` says of each utterance that it knows; a missing `utt2dur` is made up from the audio."""
    if name == kaldi.UTT2DUR and not (part.path / name).is_file():
        for index, utterance in enumerate(part.ids):
            yield utterance, kaldi.seconds(float(part.durations[index]))
        return
    column = part.column(name)
    for index, utterance in enumerate(part.ids):
        if column.has(index):
            yield utterance, column[index]


def _segments(part: Manifest) -> Iterator[tuple[str, str]]:
    path = part.path / kaldi.SEGMENTS
    table = Table(path) if path.is_file() else None
    for index, utterance in enumerate(part.ids):
        if table is None:
            yield utterance, f"{utterance} 0 {kaldi.seconds(float(part.durations[index]))}"
        else:
            yield table.row(part.ids.row(index))


def _shared(part: Manifest, name: str) -> Iterator[tuple[str, str]]:
    """The rows of a table of recordings or speakers that the part's utterances use."""
    path = part.path / name
    if not path.is_file():
        return
    if kaldi.keyed_by(name) == "recording":
        used = {part.recording(index) for index in range(len(part))}
    else:
        used = {speaker for _, speaker in _column(part, kaldi.UTT2SPK)}
    table = Table(path)
    for row in range(len(table)):
        key, value = table.row(row)
        if key not in used:
            continue
        if name == kaldi.WAV_SCP and not kaldi.is_command(value):
            found = kaldi.audio_path(value, part.path)
            # A path from the data directory would lead nowhere from another one.
            value = value if str(found) == value else str(found.absolute())
        yield key, value


def _agreed(rows: Iterator[tuple[str, str]], name: str) -> Iterator[tuple[str, str]]:
    """Sorted rows without doubles; ValueError where two of one key differ."""
    last, said = "", ""
    for key, value in rows:
        if key == last and value != said:
            raise ValueError(
                f"{name}: {key!r} is {said!r} in one directory and {value!r} in another; rename it in one of them"
            )
        if key != last:
            yield key, value
        last, said = key, value


def _phones(path: Path, utterances: Collection[str]) -> Iterator[tuple[str, str]]:
    if not path.is_file():
        return
    last = ""
    for number, key, value in kaldi.read_table(path):
        if key < last:
            raise ValueError(f"{path}:{number}: {key!r} comes after {last!r}; run `audiossl data fix {path.parent}`")
        last = key
        if key in utterances:
            yield key, value


def _trials(path: Path, utterances: Collection[str]) -> Iterator[str]:
    if not path.is_file():
        return
    for line in scan(path):
        pair = None if line.fault else parse_trial(line.key, line.value)
        if pair is None:
            raise ValueError(f"{path}:{line.number}: not a trial; run `audiossl data fix {path.parent}`")
        if pair[0] in utterances and pair[1] in utterances:
            yield f"{line.key} {line.value}\n"


def _write_units(parts: Sequence[Manifest], name: str, folder: Path) -> None:
    """Write the labels `name` and their card, with its counts made anew."""
    (folder / kaldi.UNITS).mkdir(exist_ok=True)
    counts = {"utterances": 0, "labels": 0}

    def counted() -> Iterator[tuple[str, str]]:
        for key, value in heapq.merge(*(_column(part, name) for part in parts)):
            counts["utterances"] += 1
            counts["labels"] += len(value.split())
            yield key, value

    kaldi.write_sorted_table(folder / name, counted())
    cards = [read_card(part.path / f"{name}.json") for part in parts]
    for part, card in zip(parts, cards, strict=True):
        for key in sorted({*card, *cards[0]} - set(_COUNTS)):
            if card.get(key) != cards[0].get(key):
                raise ValueError(
                    f"{part.path / name}.json: {key} is {card.get(key)!r}, in {parts[0].path} {cards[0].get(key)!r}; "
                    "make the units of both with one codebook"
                )
    card = recounted(cards[0], **counts, total=sum(map(len, parts)))
    (folder / f"{name}.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def recounted(card: dict[str, Any], *, utterances: int, labels: int, total: int) -> dict[str, Any]:
    """Return the card of units with those of its counts that it has made anew. total: utterances of the directory."""
    counts = {"utterances": utterances, "labels": labels, "left_out": total - utterances}
    return card | {key: value for key, value in counts.items() if key in card}


def read_card(path: Path) -> dict[str, Any]:
    """Read the card of units; ValueError names what cannot be read."""
    return read_json_table(path, "run `audiossl units apply` again")
