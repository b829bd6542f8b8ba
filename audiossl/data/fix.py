"""Mend what can be mended in a data directory: order, doubles, lines that cannot be read, utterances that not all files know.

Nothing is invented: what is mended is put in order, left out, or computed from the audio. Wrong labels, programs in `wav.scp`,
missing files and, without `utt2spk`, tables of speakers stay as they are. Each file is replaced whole, and a run that was killed is finished by the next one.
"""

from __future__ import annotations

import filecmp
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from audiossl.data import kaldi
from audiossl.data.alignments import duration_fits
from audiossl.data.audio import OVERSHOOT, AudioError
from audiossl.data.json_files import write_json
from audiossl.data.lines import (
    CLIPPED,
    Line,
    file_fault,
    has_mark,
    parse_phone,
    parse_trial,
    says_otherwise,
    scan,
    value_fault,
)
from audiossl.data.manifest import Manifest
from audiossl.data.parts import read_card, recounted
from audiossl.data.validate import audio_faults, headers, late_segment
from audiossl.files import whole_file

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

BACKUP = ".backup"


def fix(directory: Path | str, *, allow_commands: bool = False, check_audio: bool = False) -> list[str]:
    """Mend a data directory and say in a line each what was done; an empty list means that nothing had to be.

    Originals of changed files are kept in `.backup/` (`text`, next time `text.1` ...). An utterance stays only if each of `wav.scp`,
    `segments`, `utt2spk`, `text`, any `utt2X` and `units/<name>` that is there has a sound line for it and its recording opens;
    `utt2dur` and the counts in `units/<name>.json` are written anew where they are wrong. check_audio: leave out what cannot be decoded or is silent, too.
    allow_commands: with it, run the programs that `wav.scp` names. ValueError, and nothing is changed, if no utterance would be left or
    a file cannot be read at all, as one in UTF-16.
    """
    directory = Path(directory)
    if not (directory / kaldi.WAV_SCP).is_file():
        raise ValueError(
            f"{directory / kaldi.WAV_SCP}: no such file, so that nothing can be mended; give a data directory"
        )
    done = _Fix(directory, set()).run()
    if check_audio:
        manifest = Manifest.open(directory, allow_commands=allow_commands)
        decodable = manifest.ids if allow_commands else _without_commands(manifest, directory)
        bad = {manifest.ids[index]: error for index, error in audio_faults(manifest, frozenset(decodable))}
        if len(bad) == len(manifest.ids):
            utterance, error = next(iter(bad.items()))
            raise ValueError(
                f"{directory}: none of its {len(bad)} utterances can be used, such as {utterance!r}: {error}"
            )
        if bad:
            done += [f"left out {utterance!r}: {error}" for utterance, error in bad.items()]
            done += _Fix(directory, set(bad)).run()
    return done


def _without_commands(manifest: Manifest, directory: Path) -> Iterator[str]:
    commands = {key for _, key, entry in kaldi.read_table(directory / kaldi.WAV_SCP) if kaldi.is_command(entry)}
    return (utterance for index, utterance in enumerate(manifest.ids) if manifest.recording(index) not in commands)


class _Fix:
    def __init__(self, directory: Path, leave_out: set[str]) -> None:
        self.directory, self.leave_out = directory, leave_out
        self.names = kaldi.table_names(directory)
        self.done: list[str] = []
        self.lengths: dict[str, float | None] = {}  # by recording; None for a program's output
        self.channels: dict[str, int] = {}  # by recording, where known
        self.segments: dict[str, tuple[str, float, float, int | None]] = {}
        self.chosen: dict[str, int] = {}  # offset of the segment to keep, by utterance
        self.changed: dict[str, dict[str, str]] = {kaldi.SEGMENTS: {}}  # by table and key

    def run(self) -> list[str]:
        """Mend all files; returns a line for each thing that was done."""
        for name in (*self.names, kaldi.PHONES_CTM, kaldi.TRIALS):
            path = self.directory / name
            wrong = file_fault(path, name) if path.is_file() else None
            if wrong:
                raise ValueError(f"{path}: {wrong[0]}; {wrong[1]}")
        self.recordings()
        utterances = self.utterances()
        recordings = {self.segments[name][0] for name in utterances} if self.segments else utterances
        kept = {"utterance": utterances, "recording": recordings}
        if kaldi.UTT2SPK in self.names:
            kept["speaker"] = self.speakers(utterances)
        for name in self.names:
            kind = kaldi.keyed_by(name)
            if name not in {kaldi.UTT2DUR, kaldi.SPK2UTT} and kind in kept:
                self.table(name, kept[kind])
            if name.startswith(kaldi.UNITS):
                self.card(name)
        self.speaker_lists()
        self.durations(utterances)
        self.phones(utterances)
        self.trials(utterances)
        return self.done

    def recordings(self) -> None:
        """Find the recordings that open, and their lengths."""
        rows = {line.key: line.value for line in _sound(self.directory / kaldi.WAV_SCP, kaldi.WAV_SCP)}
        opaque = {key for key, entry in rows.items() if kaldi.is_command(entry) or kaldi.audio_fault(entry)}
        self.lengths = dict.fromkeys(opaque)
        files = {key: entry for key, entry in rows.items() if key not in opaque}
        for recording, header in headers(self.directory, files):
            if isinstance(header, AudioError):
                self.done.append(f"left out recording {recording!r}: {header}")
            else:
                self.lengths[recording], self.channels[recording] = header.duration, header.num_channels
        if files and not self.lengths:
            what = self.done[0].removeprefix("left out recording ").rpartition("; ")[0]
            raise ValueError(
                f"{self.directory / kaldi.WAV_SCP}: none of its {len(files)} recordings opens, such as {what}; "
                "are its paths relative to another folder?"
            )

    def utterances(self) -> set[str]:
        """The utterances that every file knows."""
        utterances = self.clipped_segments() if kaldi.SEGMENTS in self.names else set(self.lengths)
        before = len(utterances)
        utterances -= self.leave_out
        scarce = kaldi.WAV_SCP
        for name in self.names:
            if kaldi.keyed_by(name) == "utterance" and name not in {kaldi.SEGMENTS, kaldi.UTT2DUR}:
                known = {line.key for line in _sound(self.directory / name, name)}
                scarce = name if utterances and not utterances & known else scarce
                utterances &= known
        if not utterances:
            cure = "restore it" if scarce == kaldi.WAV_SCP else "restore it or remove it"
            raise ValueError(f"{self.directory / scarce}: shares no sound utterance with the other files; {cure}")
        if before > len(utterances):
            self.done.append(
                f"left out {before - len(utterances)} of {before} utterances that not all files know or that failed"
            )
        return utterances

    def clipped_segments(self) -> set[str]:
        """Read the segments of sound recordings; one that ends a little too late ends with its recording, others are left out by name."""
        beyond: dict[str, str] = {}
        for line in scan(self.directory / kaldi.SEGMENTS):
            parsed = kaldi.parse_segment(line.value)
            if line.fault or line.key in self.segments or parsed is None or parsed[0] not in self.lengths:
                continue
            recording, start, end, channel = parsed
            length = self.lengths[recording]
            exists = channel is None or recording not in self.channels or 0 <= channel < self.channels[recording]
            if not (exists and 0.0 <= start < end):
                continue
            late = length is not None and length + OVERSHOOT < end < math.inf
            if length is not None and (start >= length or length + CLIPPED < end < math.inf):
                beyond[line.key] = late_segment(line.key, recording, start, end, length)
                continue
            end = length if late and length is not None else end
            self.segments[line.key] = (recording, start, end, channel)
            self.chosen[line.key] = line.offset
            if late:
                value = f"{recording} {kaldi.seconds(start)} {kaldi.seconds(end)}"
                self.changed[kaldi.SEGMENTS][line.key] = value if channel is None else f"{value} {channel}"
        said = [what for utterance, what in beyond.items() if utterance not in self.segments]
        self.done += [f"{kaldi.SEGMENTS}: left out, for {what}" for what in said]
        if self.changed[kaldi.SEGMENTS]:
            self.done.append(f"{kaldi.SEGMENTS}: {len(self.changed[kaldi.SEGMENTS])} now end with their recording")
        return set(self.segments)

    def speakers(self, utterances: Collection[str]) -> set[str]:
        rows = _sound(self.directory / kaldi.UTT2SPK, kaldi.UTT2SPK)
        return {line.value for line in rows if line.key in utterances}

    def table(self, name: str, kept: Collection[str]) -> None:
        """Write a table anew with the first sound line of each of the keys `kept`, or the chosen segment, sorted."""
        path, changed = self.directory / name, self.changed.get(name, {})
        chosen = self.chosen if name == kaldi.SEGMENTS else {}
        offsets: dict[str, int] = {}
        dropped = Counter[str]({"byte order mark": 1} if has_mark(path) else {})
        for line in scan(path):
            why = line.fault or (line.key not in changed and value_fault(name, line.value))
            if why or line.key not in kept:
                dropped["unreadable" if why else "unknown or left out"] += 1
            elif line.key in offsets or chosen.get(line.key, line.offset) != line.offset:
                dropped["double"] += 1
                if line.key in offsets and says_otherwise(path, offsets[line.key], line):
                    self.done.append(
                        f"{name}: {line.key!r} came twice with different values, of which the first is kept"
                    )
            else:
                offsets[line.key] = line.offset

        def rows() -> Iterator[tuple[str, str]]:
            with path.open("rb") as file:
                for key in sorted(offsets):
                    file.seek(offsets[key])
                    yield key, changed.get(key) or kaldi.split_line(file.readline(), path, 0)[1]

        said = ", ".join(f"{count} {why}" for why, count in sorted(dropped.items()))
        self.replace(name, rows(), f"dropped {said}" if said else "put in order")

    def card(self, name: str) -> None:
        """Count the units `name` again for their card; one that cannot be read stays as it is."""
        path = self.directory / f"{name}.json"
        try:
            card = read_card(path)
        except (OSError, ValueError):
            return
        counts = [len(value.split()) for _, _, value in kaldi.read_table(self.directory / name)]
        new = recounted(card, utterances=len(counts), labels=sum(counts), total=len(counts))
        if new != card:
            self.back_up(f"{name}.json")
            write_json(path, new)
            self.done.append(f"{name}.json: counted again")

    def replace(self, name: str, rows: Iterable[tuple[str, str]], what: str) -> None:
        """Replace a table if that changes it; its original goes to the backup."""
        path = self.directory / name
        new = path.with_name(path.name + ".new.partial")
        try:
            kaldi.write_sorted_table(new, rows)
            if path.is_file() and filecmp.cmp(new, path, shallow=False):
                return
            if path.is_file():
                self.back_up(name)
            new.replace(path)
            self.done.append(f"{name}: {what}")
        finally:
            new.unlink(missing_ok=True)

    def back_up(self, name: str) -> None:
        """Keep the file as it is, under a name that is free."""
        target = self.directory / BACKUP / name
        target.parent.mkdir(parents=True, exist_ok=True)
        number = 0
        while target.exists():
            number += 1
            target = target.with_name(f"{Path(name).name}.{number}")
        with whole_file(target) as partial:
            shutil.copy2(self.directory / name, partial)

    def speaker_lists(self) -> None:
        """Write `spk2utt` again where it differs from `utt2spk`."""
        if kaldi.UTT2SPK not in self.names:
            return
        lists: dict[str, list[str]] = {}
        for _, utterance, speaker in kaldi.read_table(self.directory / kaldi.UTT2SPK):
            lists.setdefault(speaker, []).append(utterance)
        self.replace(
            kaldi.SPK2UTT, ((key, " ".join(lists[key])) for key in sorted(lists)), f"made from {kaldi.UTT2SPK}"
        )

    def durations(self, utterances: Collection[str]) -> None:
        """Write `utt2dur` from segments and headers; what it says is kept where that is right or cannot be known."""
        path = self.directory / kaldi.UTT2DUR
        listed = {line.key: line.value for line in _sound(path, kaldi.UTT2DUR)} if path.is_file() else {}
        rows: list[tuple[str, str]] = []
        for utterance in sorted(utterances):
            recording, start, end, _ = self.segments.get(utterance, (utterance, 0.0, math.inf, None))
            last = self.lengths[recording] if end == math.inf else end
            length = None if last is None else last - start
            said = listed.get(utterance)
            if said is not None and (length is None or duration_fits(float(said), length)):
                rows.append((utterance, said))
            elif length is not None:
                rows.append((utterance, kaldi.seconds(length)))
        if path.is_file() or len(rows) == len(utterances):
            self.replace(kaldi.UTT2DUR, rows, "made from the audio")

    def phones(self, utterances: Collection[str]) -> None:
        """Put `phones.ctm` in order of utterance and start, without utterances that are gone."""
        path = self.directory / kaldi.PHONES_CTM
        if not path.is_file():
            return
        order: list[tuple[str, float, int]] = []
        last, in_order = ("", 0.0), True
        for line in scan(path):
            if not line.fault and line.key in utterances:
                phone = parse_phone(line.value)
                place = (line.key, phone.start if phone else -1.0)
                in_order = in_order and last <= place
                last = place
                order.append((*place, line.offset))
        if not in_order:
            order.sort()

        def rows() -> Iterator[tuple[str, str]]:
            with path.open("rb") as file:
                for _, _, offset in order:
                    file.seek(offset)
                    yield kaldi.split_line(file.readline(), path, 0)

        self.replace(kaldi.PHONES_CTM, rows(), "put in order, lines of other utterances dropped")

    def trials(self, utterances: Collection[str]) -> None:
        """Leave out trials of utterances that are gone."""
        path = self.directory / kaldi.TRIALS
        if not path.is_file():
            return
        known = frozenset(utterances)
        dropped = sum(not _is_trial_of(line, known) for line in scan(path))
        if not dropped and not has_mark(path):
            return
        self.back_up(kaldi.TRIALS)
        with whole_file(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{line.key} {line.value}\n" for line in scan(path) if _is_trial_of(line, known))
        what = f"dropped {dropped} that name unknown utterances or cannot be read"
        self.done.append(f"{kaldi.TRIALS}: {what if dropped else 'dropped 1 byte order mark'}")


def _is_trial_of(line: Line, utterances: frozenset[str]) -> bool:
    pair = None if line.fault else parse_trial(line.key, line.value)
    return pair is not None and utterances.issuperset(pair)


def _sound(path: Path, name: str) -> Iterator[Line]:
    """The first line of each key whose value is sound, too."""
    seen: set[str] = set()
    for line in scan(path):
        if not line.fault and line.key not in seen and not value_fault(name, line.value):
            seen.add(line.key)
            yield line
