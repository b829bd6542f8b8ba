"""Write a data directory from what a corpus yields: checked, sorted, whole or not at all, the same bytes on every run."""

from __future__ import annotations

import re
import shutil
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from audiossl.data import kaldi
from audiossl.data.audio import AudioError, audio_info
from audiossl.data.threads import in_threads
from audiossl.files import naming, take

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_COLUMN = re.compile(r"text|utt2(?!spk$|dur$)[A-Za-z0-9_]+")
_SPACE = re.compile(r"\s")


@dataclass(frozen=True)
class CorpusUtterance:
    """One utterance of a corpus.

    recording: id of the recording, the utterance's own where it is the whole of it. path: its audio file. start, end: seconds;
    None means the recording's beginning or end. columns: file name (`text`, `utt2lang` ...) -> value. phones: (start, duration,
    phone) in seconds from the utterance's start.
    """

    id: str
    recording: str
    path: Path
    speaker: str
    start: float | None = None
    end: float | None = None
    columns: dict[str, str] = field(default_factory=dict)
    phones: list[tuple[float, float, str]] | None = None


@dataclass
class _Tables:
    """What was gathered: per utterance some 600 bytes of strings and, with a transcript, the transcript."""

    paths: dict[str, Path] = field(default_factory=dict)  # by recording
    speakers: dict[str, str] = field(default_factory=dict)  # by utterance
    places: dict[str, tuple[str, float | None, float | None]] = field(default_factory=dict)
    columns: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    phones: dict[str, str] = field(default_factory=dict)  # lines of phones.ctm


def write_data_dir(utterances: Iterable[CorpusUtterance], out: Path) -> None:
    """Write the data directory `out` through `out.partial`: `wav.scp`, `utt2spk`, `spk2utt`, `utt2dur` and what else is given.

    `segments` is written if any utterance is a part of its recording. Holds ids, paths and columns, about 1 kB per
    utterance with its transcript, until all are sorted. ValueError names the utterance for: an id that comes twice, is empty, has
    white space or does not start with its speaker's id, or ids that do not sort as their speakers do (else Kaldi's tools sort both differently); an empty
    column value; a segment that is none; one recording id for two files; audio that cannot be opened. `out` must not exist.
    """
    with new_directory(Path(out)) as folder:
        tables = _gathered(utterances)
        if not tables.speakers:
            raise ValueError(f"{out}: the corpus yields no utterance; check its folder")
        _write(tables, folder)


def check(utterances: Iterable[CorpusUtterance]) -> None:
    """Raise what `write_data_dir` would for these utterances, but for what their audio says: for a corpus that decodes it first."""
    _gathered(utterances)


@contextmanager
def new_directory(out: Path) -> Iterator[Path]:
    """Give `out.partial` to write into; it becomes `out` if all went well and is removed otherwise.

    ValueError where `out` exists or another run writes it; what a run that was killed left is removed.
    """
    if out.exists():
        raise ValueError(f"{out}: exists; remove it or choose another directory")
    partial, held = out.with_name(out.name + ".partial"), out.with_name(f".{out.name}.lock")
    out.parent.mkdir(parents=True, exist_ok=True)
    with held.open("a+") as lock:
        take(lock, out)
        try:
            if partial.exists():
                shutil.rmtree(partial)
            partial.mkdir()
            try:
                with naming(out):
                    yield partial
            except BaseException:
                shutil.rmtree(partial)
                raise
            partial.rename(out)
        finally:
            held.unlink(missing_ok=True)


def out_of_speaker_order(utt2spk: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield (utterance, its speaker, the speaker before) where the speakers of sorted utterances are not sorted: `ann-a`, `ann-lee-a`, `ann-z`."""
    last = ""
    for utterance in sorted(utt2spk):
        speaker = utt2spk[utterance]
        if speaker < last:
            yield utterance, speaker, last
        last = speaker


def write_speakers(folder: Path, utt2spk: Mapping[str, str]) -> None:
    """Write `utt2spk` and, from it, `spk2utt`."""
    kaldi.write_table(folder / kaldi.UTT2SPK, utt2spk.items())
    utterances: dict[str, list[str]] = defaultdict(list)
    for utterance in sorted(utt2spk):
        utterances[utt2spk[utterance]].append(utterance)
    kaldi.write_table(folder / kaldi.SPK2UTT, ((speaker, " ".join(ids)) for speaker, ids in utterances.items()))


def _gathered(utterances: Iterable[CorpusUtterance]) -> _Tables:
    tables = _Tables()
    for utterance in utterances:
        _check(utterance, tables)
        _gather(utterance, tables)
    for name, speaker, last in out_of_speaker_order(tables.speakers):
        raise ValueError(
            f"utterance {name!r} of {speaker!r} sorts behind those of {last!r}, so that the files of the directory would "
            "sort differently; rename one of these speakers"
        )
    return tables


def _check(utterance: CorpusUtterance, tables: _Tables) -> None:
    name = utterance.id
    for what, value in (("utterance", name), ("recording", utterance.recording), ("speaker", utterance.speaker)):
        if not value or _SPACE.search(value):
            raise ValueError(f"utterance {name!r}: the {what} id {value!r} is empty or has white space; choose another")
    if name in tables.speakers:
        raise ValueError(f"utterance {name!r} comes twice; make the ids unique")
    if not name.startswith(utterance.speaker):
        raise ValueError(
            f"utterance {name!r} does not start with its speaker {utterance.speaker!r}, so that the files of the directory "
            f"would sort differently; call it {utterance.speaker}-{name}"
        )
    known = tables.paths.get(utterance.recording)
    if known is not None and known != Path(utterance.path).absolute():
        raise ValueError(
            f"utterance {name!r}: recording {utterance.recording!r} is {known} and {utterance.path}; use another recording id"
        )
    start, end = utterance.start, utterance.end
    if not (start is None or start >= 0.0) or not (end is None or end > (start or 0.0)):
        raise ValueError(f"utterance {name!r}: no segment from {start} to {end} s; correct the times")
    for column, value in utterance.columns.items():
        _check_column(name, column, value)
    for onset, duration, phone in utterance.phones or []:
        if not (onset >= 0.0 and duration > 0.0) or not phone or _SPACE.search(phone):
            raise ValueError(f"utterance {name!r}: no phone {phone!r} from {onset} s for {duration} s; correct it")


def _check_column(utterance: str, column: str, value: str) -> None:
    if not _COLUMN.fullmatch(column):
        raise ValueError(f"utterance {utterance!r}: {column!r} is not a column; call it text or utt2something")
    if not value.strip():
        raise ValueError(f"utterance {utterance!r}: its {column} is empty; leave the column or the utterance out")
    kaldi.check_row(Path(column), utterance, value)


def _gather(utterance: CorpusUtterance, tables: _Tables) -> None:
    name = utterance.id
    # Not resolved: a corpus may be reached through links that move.
    tables.paths[utterance.recording] = Path(utterance.path).absolute()
    tables.speakers[name] = utterance.speaker
    tables.places[name] = (utterance.recording, utterance.start, utterance.end)
    for column, value in utterance.columns.items():
        tables.columns[column][name] = value.strip()
    if utterance.phones is not None:
        lines = (
            f"{name} 1 {kaldi.seconds(start)} {kaldi.seconds(duration)} {phone}\n"
            for start, duration, phone in sorted(utterance.phones)
        )
        tables.phones[name] = "".join(lines)


def _write(tables: _Tables, folder: Path) -> None:
    places = tables.places
    parts = any(
        recording != name or start is not None or end is not None for name, (recording, start, end) in places.items()
    )
    lengths = _lengths(tables)
    spans = {
        name: (start or 0.0, lengths[recording] if end is None else end)
        for name, (recording, start, end) in places.items()
    }
    for name, (start, end) in spans.items():
        if end <= start:
            raise ValueError(
                f"utterance {name!r}: starts at {start} s, where its recording has ended; correct the times"
            )
    kaldi.write_table(folder / kaldi.WAV_SCP, ((recording, str(path)) for recording, path in tables.paths.items()))
    if parts:
        rows = ((name, f"{places[name][0]} {kaldi.seconds(a)} {kaldi.seconds(b)}") for name, (a, b) in spans.items())
        kaldi.write_table(folder / kaldi.SEGMENTS, rows)
    write_speakers(folder, tables.speakers)
    kaldi.write_table(folder / kaldi.UTT2DUR, ((name, kaldi.seconds(b - a)) for name, (a, b) in spans.items()))
    for column, values in tables.columns.items():
        kaldi.write_table(folder / column, values.items())
    if tables.phones:
        with (folder / kaldi.PHONES_CTM).open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(tables.phones[name] for name in sorted(tables.phones))


def _lengths(tables: _Tables) -> dict[str, float]:
    """Seconds of each recording of which some utterance reaches the end, from their headers."""
    wanted = {recording: name for name, (recording, _, end) in tables.places.items() if end is None}

    def length(recording: str) -> float:
        try:
            return audio_info(tables.paths[recording]).duration
        except AudioError as error:
            raise AudioError(f"utterance {wanted[recording]!r}: {error}") from None

    return dict(in_threads(length, wanted, len(wanted), "reading headers"))
