"""Find every fault of a data directory, with file, line and cure.

Ids and the small tables are held (about 300 bytes per utterance); transcripts, units and alignments are streamed.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from audiossl.data import kaldi
from audiossl.data.alignments import AGAIN, duration_fits, phone_faults, trial_faults, turn_faults, unit_faults
from audiossl.data.audio import OVERSHOOT, AudioError, AudioInfo, PartError, audio_info
from audiossl.data.lines import (
    CLIPPED,
    EMPTY_LINE,
    Fault,
    absence,
    file_fault,
    has_mark,
    says_otherwise,
    scan,
    value_fault,
)
from audiossl.data.manifest import Manifest
from audiossl.data.threads import in_threads
from audiossl.data.turns import UTT2TURNS
from audiossl.data.writer import out_of_speaker_order

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterator, Mapping


class Row(NamedTuple):
    """A sound line of a table that is held."""

    line: int
    value: str


def faults(directory: Path | str, *, allow_commands: bool = False, check_audio: bool = False) -> Iterator[Fault]:
    """Yield every fault of a data directory.

    allow_commands: entries `cmd |` of `wav.scp` are no fault. check_audio: decode every utterance, which also finds silence,
    NaN and damage behind a sound header; otherwise headers alone are read.
    """
    directory = Path(directory)
    table = directory / kaldi.WAV_SCP
    if not table.is_file():
        yield Fault(table, 0, absence(table), "give a data directory, or make one with `audiossl prep`")
        return
    yield from _Check(directory, allow_commands=allow_commands).run(check_audio=check_audio)


def late_segment(utterance: str, recording: str, start: float, end: float, length: float) -> str:
    """Say that a segment lies beyond the end of its recording of `length` seconds."""
    place = f"starts at {start:g} s" if end == math.inf else f"ends at {end:g} s"
    return f"{utterance!r} {place}, its recording {recording!r} ends at {kaldi.seconds(length)} s"


def headers(directory: Path, entries: Mapping[str, str]) -> Iterator[tuple[str, AudioInfo | AudioError]]:
    """Yield each recording (id -> file of `wav.scp`) with what its header says, or with what is wrong with it."""

    def measure(recording: str) -> AudioInfo | AudioError:
        try:
            return audio_info(kaldi.audio_path(entries[recording], directory))
        except AudioError as error:
            return error

    return in_threads(measure, entries, len(entries), f"{directory}: reading headers")


def audio_faults(manifest: Manifest, utterances: Collection[str]) -> Iterator[tuple[int, AudioError]]:
    """Decode those of a manifest's utterances that are in `utterances`, as training would; yield what cannot be used."""

    def read(index: int) -> AudioError | None:
        try:
            manifest.audio(index, sample_rate=16000)
        except AudioError as error:
            return error
        return None

    wanted = (index for index, utterance in enumerate(manifest.ids) if utterance in utterances)
    for index, error in in_threads(read, wanted, len(utterances), f"{manifest.path}: decoding"):
        if error is not None:
            yield index, error


class _Check:
    def __init__(self, directory: Path, *, allow_commands: bool) -> None:
        self.directory, self.allow_commands = directory, allow_commands
        self.fix = f"run `audiossl data fix {directory}`"
        self.leave_out = f"{self.fix} to leave it out"
        self.lengths: dict[str, float | None] = {}  # by recording, None where unknown
        self.channels: dict[str, int] = {}  # by recording, where known
        self.durations: dict[str, float | None] = {}  # by utterance
        self.segment_lines: dict[str, int] = {}  # by utterance
        self.decodable: set[str] = set()  # recordings, then utterances

    def run(self, *, check_audio: bool) -> Iterator[Fault]:
        """Yield the faults of all files, those that others depend on first."""
        names = kaldi.table_names(self.directory)
        yield from self.strays()
        others = [name for name in (kaldi.PHONES_CTM, kaldi.TRIALS) if (self.directory / name).is_file()]
        unreadable = yield from self.unreadable([*names, *others])
        if unreadable & {kaldi.WAV_SCP, kaldi.SEGMENTS}:
            return  # nothing else can be held against them
        if kaldi.UTT2SPK in unreadable or kaldi.UTT2SPK not in names:
            unreadable |= {name for name in names if kaldi.keyed_by(name) == "speaker"}
        recordings = yield from self.recordings()
        if kaldi.SEGMENTS in names:
            yield from self.segments(recordings)
        else:
            self.durations = dict(self.lengths)
        speakers: dict[str, str] = {}
        if kaldi.UTT2SPK not in unreadable:
            speakers = yield from self.speakers()
        held = {kaldi.WAV_SCP, kaldi.SEGMENTS, kaldi.UTT2SPK, kaldi.SPK2UTT}
        known: dict[str, Collection[str]] = {
            "utterance": self.durations,
            "recording": recordings,
            "speaker": set(speakers.values()),
        }
        for name in (name for name in names if name not in unreadable):
            if name == kaldi.UTT2DUR:
                yield from self.utterance_durations()
            elif name not in held:
                kind = kaldi.keyed_by(name) or ""
                rows = yield from self.table(name)
                yield from self.compare(name, rows, known[kind], kind)
            if name.startswith(kaldi.UNITS):
                yield from unit_faults(self.directory / name, self.durations)
            elif name == UTT2TURNS:
                yield from turn_faults(self.directory / name, self.durations)
        if kaldi.PHONES_CTM in {*others} - unreadable:
            yield from phone_faults(self.directory / kaldi.PHONES_CTM, self.durations, self.fix)
        if kaldi.TRIALS in {*others} - unreadable:
            yield from trial_faults(self.directory / kaldi.TRIALS, self.durations, self.fix)
        if check_audio:
            yield from self.audio(recordings)

    def unreadable(self, names: list[str]) -> Generator[Fault, None, set[str]]:
        """Yield the faults of files as a whole; returns those of which no line can be used."""
        found = set()
        for name in names:
            wrong = file_fault(self.directory / name, name)
            if wrong:
                found.add(name)
                yield Fault(self.directory / name, 0, *wrong)
            elif has_mark(self.directory / name):
                yield Fault(self.directory / name, 1, "a byte order mark before the first id", self.fix)
        return found

    def strays(self) -> Iterator[Fault]:
        """Yield what is called like a table but is no file, and cards of units without their labels."""
        units = self.directory / kaldi.UNITS
        inside = sorted(units.iterdir()) if units.is_dir() else []
        for path in [*sorted(self.directory.iterdir()), *inside]:
            name = path.relative_to(self.directory).as_posix()
            known = kaldi.keyed_by(name) is not None or name in {kaldi.PHONES_CTM, kaldi.TRIALS}
            if known and name not in {kaldi.UTT2SPK, kaldi.SPK2UTT} and not path.is_file():
                yield Fault(path, 0, absence(path), "restore the table, or remove this")
            elif path.parent == units and path.suffix == ".json":
                labels = path.with_suffix("")
                if not labels.exists() and not labels.is_symlink():
                    yield Fault(path, 0, f"no labels {labels.name} beside it", f"{AGAIN}, or remove it")

    def drops(self, name: str) -> bool:
        """Whether `fix` leaves an utterance out of all files where this table has no sound line for it."""
        return name == kaldi.WAV_SCP or (kaldi.keyed_by(name) == "utterance" and name != kaldi.UTT2DUR)

    def table(self, name: str, *, keep: bool = False) -> Generator[Fault, None, dict[str, Row]]:
        """Check a table line by line; returns the rows whose key can be read, with their values only if `keep`."""
        path, rows, last = self.directory / name, dict[str, Row](), ""
        offsets: dict[str, int] = {}
        for line in scan(path):
            if line.fault:
                loses = line.fault != EMPTY_LINE and self.drops(name)
                first = "convert the file with iconv" if line.fault.startswith("not UTF-8") else "correct the line"
                yield Fault(path, line.number, line.fault, f"{first}, or {self.leave_out}" if loses else self.fix)
                continue
            if line.key in rows:
                other = says_otherwise(path, offsets[line.key], line)
                what = (
                    f"{line.key!r} was in line {rows[line.key].line} already{', with another value' if other else ''}"
                )
                keep_first = f"delete the wrong one, or {self.fix} to keep the first sound one"
                yield Fault(path, line.number, what, keep_first if other else self.fix)
                continue
            offsets[line.key] = line.offset
            if line.key < last:
                yield Fault(path, line.number, f"{line.key!r} comes after {last!r}: not in C order", self.fix)
            last = line.key
            wrong = value_fault(name, line.value)
            if wrong:
                cure = f"correct the line, or {self.leave_out}" if self.drops(name) else self.fix
                yield Fault(path, line.number, f"{line.key!r}: {wrong}", cure)
            rows[line.key] = Row(line.number, line.value if keep else "")
        return rows

    def compare(self, name: str, rows: Mapping[str, Row], known: Collection[str], kind: str) -> Iterator[Fault]:
        """Name the keys of a table that are too many or missing."""
        path = self.directory / name
        cure = f"{AGAIN if name.startswith(kaldi.UNITS) else 'add it'}, or {self.leave_out}"
        for key, row in rows.items():
            if key not in known:
                yield Fault(path, row.line, f"unknown {kind} {key!r}", self.fix)
        for key in known if kind == "utterance" else ():  # what is said of recordings and speakers may leave some out
            if key not in rows:
                yield Fault(path, 0, f"no line for {kind} {key!r}", cure if self.drops(name) else self.fix)

    def recordings(self) -> Generator[Fault, None, dict[str, Row]]:
        """Yield the faults of `wav.scp`; returns its rows."""
        path = self.directory / kaldi.WAV_SCP
        rows = yield from self.table(kaldi.WAV_SCP, keep=True)
        if not rows:
            yield Fault(path, 0, "no recording is listed", "give a data directory that holds some")
        files: dict[str, str] = {}
        for recording, (line, entry) in rows.items():
            self.lengths[recording] = None
            if not entry:
                continue  # `table` has named it
            wrong = kaldi.audio_fault(entry)
            if wrong:
                yield Fault(path, line, f"{recording!r}: {wrong[0]}", wrong[1])
            elif not kaldi.is_command(entry):
                files[recording] = entry
            elif self.allow_commands:
                self.decodable.add(recording)
            else:
                yield Fault(path, line, f"{recording!r}: a program to run ({entry})", "give --allow-commands to run it")
        for recording, header in headers(self.directory, files):
            if isinstance(header, AudioError):
                yield self.unusable(path, rows[recording].line, recording, header)
            else:
                self.lengths[recording], self.channels[recording] = header.duration, header.num_channels
                self.decodable.add(recording)
        return rows

    def unusable(self, path: Path, line: int, name: str, error: AudioError) -> Fault:
        """Return the fault of an audio file that cannot be used."""
        what, _, cure = str(error).rpartition("; ")
        return Fault(path, line, f"{name!r}: {what}", f"{cure}, or {self.leave_out}")

    def segments(self, recordings: Mapping[str, Row]) -> Iterator[Fault]:
        """Yield segments without a recording, out of order or outside of it."""
        path, used, decodable = self.directory / kaldi.SEGMENTS, set[str](), set[str]()
        rows = yield from self.table(kaldi.SEGMENTS, keep=True)
        for utterance, (line, value) in rows.items():
            parsed = kaldi.parse_segment(value)
            self.durations[utterance], self.segment_lines[utterance] = None, line
            if parsed is None or value_fault(kaldi.SEGMENTS, value):
                continue
            recording, start, end, channel = parsed
            used.add(recording)
            length, channels = self.lengths.get(recording), self.channels.get(recording)
            last = length if end == math.inf else end
            beyond = length is not None and last is not None and (start >= length or last > length + CLIPPED)
            self.durations[utterance] = None if last is None or beyond else last - start
            correct = f"correct the line, or {self.leave_out}"
            if recording not in recordings:
                yield Fault(path, line, f"{utterance!r}: unknown recording {recording!r}", correct)
            elif length is not None and (beyond or length + OVERSHOOT < end < math.inf):
                what = late_segment(utterance, recording, start, end, length)
                yield Fault(path, line, what, correct if beyond else self.fix)
            elif channel is not None and channels is not None and not 0 <= channel < channels:
                what = f"{utterance!r}: no channel {channel} among the {channels} of {recording!r}, counted from 0"
                yield Fault(path, line, what, correct)
            elif recording in self.decodable:
                decodable.add(utterance)
        self.decodable = decodable
        for recording, row in recordings.items():
            if recording not in used:
                what = f"recording {recording!r} has no segment"
                yield Fault(self.directory / kaldi.WAV_SCP, row.line, what, self.fix)

    def speakers(self) -> Generator[Fault, None, dict[str, str]]:
        """Check `utt2spk` and `spk2utt`; returns the speaker of each utterance."""
        path = self.directory / kaldi.UTT2SPK
        if not path.is_file():
            yield Fault(
                path,
                0,
                absence(path),
                "write `utterance speaker` lines; unknown speakers are the utterances themselves",
            )
            return {}
        rows = yield from self.table(kaldi.UTT2SPK, keep=True)
        yield from self.compare(kaldi.UTT2SPK, rows, self.durations, "utterance")
        for utterance, (line, speaker) in rows.items():
            if not utterance.startswith(speaker):
                what = f"{utterance!r} does not start with its speaker {speaker!r}: Kaldi's tools would sort them differently"
                yield Fault(path, line, what, "rename the utterances")
        speakers = {utterance: row.value for utterance, row in rows.items()}
        begun = {utterance: speaker for utterance, speaker in speakers.items() if utterance.startswith(speaker)}
        for utterance, speaker, last in out_of_speaker_order(begun):
            what = f"{utterance!r} of {speaker!r} sorts behind those of {last!r}: Kaldi's tools would sort them differently"
            yield Fault(path, rows[utterance].line, what, "rename the utterances")
        yield from self.speaker_lists(speakers)
        return speakers

    def speaker_lists(self, speakers: Mapping[str, str]) -> Iterator[Fault]:
        """Yield where `spk2utt` differs from what `utt2spk` says."""
        path = self.directory / kaldi.SPK2UTT
        if not path.is_file():
            yield Fault(path, 0, absence(path), self.fix)
            return
        expected: dict[str, list[str]] = {}
        for utterance in sorted(speakers):
            expected.setdefault(speakers[utterance], []).append(utterance)
        rows = yield from self.table(kaldi.SPK2UTT, keep=True)
        yield from self.compare(kaldi.SPK2UTT, rows, expected, "speaker")
        for speaker in expected.keys() - rows.keys():
            yield Fault(path, 0, f"no line for speaker {speaker!r}", self.fix)
        for speaker, (line, value) in rows.items():
            if speaker in expected and value.split() != expected[speaker]:
                odd = sorted(set(value.split()) ^ set(expected[speaker]))
                which = f"about {odd[0]!r}" if odd else "in order or number"
                yield Fault(path, line, f"{speaker!r}: differs from utt2spk {which}", self.fix)

    def utterance_durations(self) -> Iterator[Fault]:
        """Yield the faults of `utt2dur`."""
        path = self.directory / kaldi.UTT2DUR
        rows = yield from self.table(kaldi.UTT2DUR, keep=True)
        yield from self.compare(kaldi.UTT2DUR, rows, self.durations, "utterance")
        for utterance, (line, value) in rows.items():
            listed, true = kaldi.parse_seconds(value), self.durations.get(utterance)
            if true is None:
                if utterance in self.durations and listed > 0.0:
                    self.durations[utterance] = listed  # of a program's output, which is not run for this
            elif not (math.isnan(listed) or duration_fits(listed, true)):
                yield Fault(
                    path, line, f"{utterance!r} is said to last {value} s, but lasts {kaldi.seconds(true)} s", self.fix
                )

    def audio(self, recordings: Mapping[str, Row]) -> Iterator[Fault]:
        """Decode the utterances in which no fault was found yet."""
        try:
            manifest = Manifest.open(self.directory, allow_commands=self.allow_commands)
        except ValueError:
            return  # ids that come twice or lines that cannot be read, all named above
        for index, error in audio_faults(manifest, self.decodable):
            name, utterance = kaldi.WAV_SCP, manifest.ids[index]
            line = recordings[manifest.recording(index)].line
            if isinstance(error, PartError):
                name, line = kaldi.SEGMENTS, self.segment_lines[utterance]
            yield self.unusable(self.directory / name, line, utterance, error)
