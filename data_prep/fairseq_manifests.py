"""Manifests of fairseq: recordings listed in `train.tsv`, `valid.tsv` ..., with their transcripts and HuBERT's k-means labels.

Layout, as wav2vec_manifest.py, libri_labels.py and dump_km_label.py of fairseq write it: `SPLIT.tsv`, whose first line is the root of the recordings
and each other one `path<TAB>number of samples`; and files with a line for each of these: `SPLIT.wrd` (words), `SPLIT.ltr` (letters, `|` after each
word), `SPLIT.phn` (phones), and unit labels such as `SPLIT.km` (whole numbers, or codes such as `12-45` of
vq-wav2vec, which are numbered in the order of their dictionary) with `dict.km.txt` (`unit count`).

Writes one data directory per split: `text` from `.wrd`, else from `.ltr`; `utt2phones` from `.phn`; and `units/NAME` of each unit-label file that is named,
as it is in fairseq: `--prep.labels '["km"]' --prep.label_rate 50` makes `units/km`, for `audiossl pretrain` with `--objective.labels '["km"]'
--objective.label_rate 50`. Labels of one name, rate and size count as those of one codebook, as of `audiossl units import`; call other ones otherwise.
`--prep.root DIR` takes the place of a root that has moved. The id is the path without suffix, `/` as `-` and white space as `_`; speakers
are not known, so each utterance is its own. A recording that cannot be opened, or has another length than its line says, is named and left out with its
labels; more of them than `--prep.max_bad_fraction` is an error. Slices of archives (`a.zip:123:456`) are not read. Licence and source: the user's own.
"""

from __future__ import annotations

import logging
import re
from bisect import bisect_left
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from audiossl.config import to_table
from audiossl.data.alignments import labels_fit
from audiossl.data.audio import AudioError, AudioInfo, audio_info
from audiossl.data.corpus import check_fraction, identifier, listed, published, without_bad, write_imitation
from audiossl.data.json_files import write_json
from audiossl.data.kaldi import audio_path
from audiossl.data.manifest import Manifest
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.files import whole_set
from audiossl.units.guards import LabelGuard
from audiossl.units.import_codes import CodesFormat
from audiossl.units.labels import IMPORTED, LabelWriter, card_path, labels_path

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

_log = logging.getLogger(__name__)

_TRANSCRIPTS = ("wrd", "ltr", "phn")
_SLICE = re.compile(r"(:\d+){1,2}$")
_UNFIT = re.compile(r"[\0\r]|[ \v\f|]$")  # for a line of wav.scp, where a bar at the end makes a program
_GROUPED = re.compile(r"\d+(-\d+)+", re.ASCII)  # codes of several codebooks, as fairseq writes those of vq-wav2vec
_PADDING = re.compile(r"madeupword\d+")  # what fairseq fills its dictionaries up with


@dataclass(frozen=True)
class Config:
    """splits: manifests to take; none named, every `.tsv`. root: the folder that the paths count from, in the place of the first lines'.

    labels: suffixes of unit-label files; label_rate: their labels per second, one number for all or a list. label_dir: where files beside the
    manifests are looked for first. max_bad_fraction: of a split.
    """

    splits: tuple[str, ...] = ()
    root: Path | None = None
    labels: tuple[str, ...] = ()
    label_rate: float | tuple[float, ...] | None = None
    label_dir: Path | None = None
    max_bad_fraction: float = 0.01

    def __post_init__(self) -> None:
        check_fraction(self.max_bad_fraction)
        for name in self.labels:
            if name in _TRANSCRIPTS:
                raise ValueError(f"prep.labels: {name!r} is a transcript, which is taken anyway; name unit labels only")
            labels_path(Path(), name)
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"prep.labels: {list(self.labels)} must name each once")
        if self.labels and self.label_rate is None:
            raise ValueError("prep.label_rate: is not given; fairseq's labels are 100 per second of MFCC, 50 of HuBERT")
        if not self.labels and self.label_rate is not None:
            raise ValueError("prep.label_rate: is given without prep.labels; name the suffixes too, such as '[\"km\"]'")
        if isinstance(self.label_rate, tuple) and len(self.label_rate) != len(self.labels):
            raise ValueError(
                f"prep.label_rate: {len(self.label_rate)} rates for {len(self.labels)} prep.labels; give one for each, or one number"
            )
        for rate in self.rates.values():
            if not rate > 0.0:
                raise ValueError(f"prep.label_rate: {rate:g} is not positive; give labels per second, such as 50")

    @property
    def rates(self) -> dict[str, float]:
        """Labels per second of each of `labels`."""
        rates = self.label_rate if isinstance(self.label_rate, tuple) else (self.label_rate or 0.0,) * len(self.labels)
        return dict(zip(self.labels, rates, strict=True))


@dataclass(frozen=True)
class _Split:
    """A manifest, the folder that its paths count from, how many it lists, and the files of as many lines, by suffix."""

    manifest: Path
    root: Path
    total: int
    files: dict[str, Path]


@dataclass(frozen=True)
class _Row:
    """A line of a manifest. place: `FILE:LINE`. columns: what the transcripts say."""

    place: str
    id: str
    path: Path
    samples: int
    columns: dict[str, str]


def prepare(corpus: Path | None, out: Path, config: Config | None = None) -> None:
    """Write a data directory per manifest under `out`; nothing is copied."""
    config = config or Config()
    corpus = published(corpus, *(f"{split}.tsv" for split in config.splits))
    names = config.splits or tuple(path.stem for path in listed(corpus, "*.tsv"))
    if not names:
        raise ValueError(f"{corpus}: holds no .tsv; --corpus must be the folder of fairseq's manifests")
    folders = [corpus] if config.label_dir is None else [config.label_dir, corpus]
    if not folders[0].is_dir():
        raise ValueError(f"prep.label_dir: {folders[0]} is no folder; give the one that holds the labels")
    splits = {name: _split(name, corpus, folders, config) for name in names}
    codebooks = {label: _codebook(label, folders) for label in config.labels}
    for label in config.labels:
        if not any(label in split.files for split in splits.values()):
            raise ValueError(
                f"{folders[0] / f'{names[0]}.{label}'}: not found; correct --prep.labels or --prep.label_dir"
            )
    for name, split in splits.items():
        write_data_dir(_utterances(split, config), out / name)
        for label, rate in config.rates.items():
            if label in split.files:
                size, numbers = codebooks[label]
                _write_units(out / name, split, CodesFormat(rate, size, codec=label), numbers)
            else:
                _log.warning("%s: has no .%s, so no units/%s", split.manifest, label, label)


def fake(root: Path) -> None:
    """Write a tiny imitation: two splits of four recordings, two of one name; words in one, letters and phones in the other; units of two rates."""
    rng = np.random.default_rng(0)
    words, phones = ("HE HOPED", "IT'S LATE", "STEW", "I AM"), ("HH IY", "IH T S", "S T UW", "AY AE M")
    for split in ("train", "valid"):
        manifest = ["recordings"]  # relative, so that the folder may move
        labels: dict[str, list[str]] = {"km": [], "mfcc": []}
        for number, path in enumerate(("one/a.flac", "one/b b.flac", "two/a.flac", "two/c.flac")):
            seconds = 0.6 + 0.2 * number
            write_imitation(root / "recordings" / split / path, rng, duration=seconds, sample_rate=16_000)
            manifest.append(f"{split}/{path}\t{round(16_000 * seconds)}")
            for name, rate, size in (("km", 50, 5), ("mfcc", 100, 8)):
                units = rng.integers(0, size, round(seconds * rate) - 1)
                labels[name].append(" ".join(map(str, units.tolist())))
        _write_lines(root / f"{split}.tsv", manifest)
        for name, lines in labels.items():
            _write_lines(root / f"{split}.{name}", lines)
    _write_lines(root / "train.wrd", list(words))
    _write_lines(root / "valid.ltr", [" ".join(text.replace(" ", "|")) + " |" for text in words])
    _write_lines(root / "valid.phn", list(phones))
    for name, size in (("km", 5), ("mfcc", 8)):
        _write_lines(root / f"dict.{name}.txt", [f"{unit} 1" for unit in range(size)])


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _split(name: str, corpus: Path, folders: list[Path], config: Config) -> _Split:
    """Look for what belongs to a manifest, and count its lines before any recording is opened."""
    manifest = corpus / f"{name}.tsv"
    first = next(_lines(manifest), "").strip()
    if not first or "\t" in first:
        raise ValueError(
            f"{manifest}:1: {first!r} is no root of recordings, so this is no manifest of fairseq; name those with --prep.splits"
        )
    root = audio_path(first, corpus) if config.root is None else config.root
    if not root.is_dir():
        place = f"{manifest}:1: the root {first!r}" if config.root is None else f"prep.root: {config.root}"
        raise ValueError(f"{place} is no folder here; give the folder of the recordings with --prep.root")
    total = _count(manifest) - 1
    if not total:
        raise ValueError(f"{manifest}: lists no recording; remove it, or name the others with --prep.splits")
    files = {suffix: path for suffix in (*_TRANSCRIPTS, *config.labels) if (path := _beside(name, suffix, folders))}
    for path in files.values():
        if (count := _count(path)) != total:
            raise ValueError(
                f"{path}: {count} lines, where {manifest} lists {total} recordings; "
                "join all of its shards in order, or make it again of this manifest"
            )
    beside = [path.name.removeprefix(f"{name}.") for folder in folders for path in folder.glob(f"{name}.*")]
    for suffix in sorted({*beside} - {*_TRANSCRIPTS, *config.labels}):
        if _beside("dict", f"{suffix}.txt", folders):  # so these are unit labels
            _log.warning("%s.%s: not taken; give --prep.labels '[\"%s\"]' and --prep.label_rate", name, suffix, suffix)
    return _Split(manifest, root, total, files)


def _beside(split: str, suffix: str, folders: list[Path]) -> Path | None:
    return next((path for folder in folders if (path := folder / f"{split}.{suffix}").is_file()), None)


def _codebook(label: str, folders: list[Path]) -> tuple[int, dict[str, int]]:
    """How many units the dictionary of a label set tells of and, of codes such as `12-45`, the number of each.

    Of whole numbers, one more than the highest, as it may lack what no recording has.
    """
    path, size = _beside("dict", f"{label}.txt", folders), 0
    numbers: dict[str, int] = {}
    if path is None:
        raise ValueError(
            f"{folders[0]}/dict.{label}.txt: not found, so the number of units is not known; "
            f"write it, as for 500: for i in $(seq 0 499); do echo $i 1; done > dict.{label}.txt"
        )
    for number, line in enumerate(_lines(path), start=1):
        unit = line.split(" ")[0]
        if unit.isascii() and unit.isdigit():
            size = max(size, int(unit) + 1)
        elif _GROUPED.fullmatch(unit):
            numbers.setdefault(unit, len(numbers))
        elif not _PADDING.fullmatch(unit):
            raise ValueError(
                f"{path}:{number}: {unit!r} is no whole number; units are numbered from 0: correct --prep.labels"
            )
    if size and numbers:
        raise ValueError(
            f"{path}: holds whole numbers and codes such as {next(iter(numbers))!r}; keep those of one kind"
        )
    size = size or len(numbers)
    if size < 2:
        raise ValueError(f"{path}: tells of {size} units; write a line `unit count` for each")
    return size, numbers


def _lines(path: Path) -> Generator[str]:
    """Yield the lines of a file; only LF ends one."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield line.decode().rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}:{number}: not UTF-8 ({error.reason}); convert the file with iconv") from None


def _count(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _rows(split: _Split) -> Iterator[_Row]:
    """Yield what a manifest lists, with transcripts; ids are held, to find those that come twice."""
    seen: dict[str, int] = {}
    with (  # closed at a fault too
        closing(_lines(split.manifest)) as lines,
        closing(_transcripts(split, "text")) as texts,
        closing(_transcripts(split, "utt2phones")) as phones,
    ):
        next(lines)
        for number, (line, *values) in enumerate(zip(lines, texts, phones, strict=True), start=2):
            place = f"{split.manifest}:{number}"
            path, samples = _entry(line, place)
            name = identifier(path.removesuffix(Path(path).suffix).strip("/"))
            if name in seen:
                raise ValueError(
                    f"{place}: {path!r} gives the id {name!r}, as does line {seen[name]}; remove the line from all files, or rename the recording"
                )
            seen[name] = number
            told = zip(("text", "utt2phones"), values, strict=True)
            columns = {column: value for column, value in told if value is not None}
            yield _Row(place, name, split.root / path, samples, columns)


def _entry(line: str, place: str) -> tuple[str, int]:
    """Path and number of samples of a line of a manifest."""
    path, _, samples = line.partition("\t")
    samples = samples.strip()
    if not path or not (samples.isascii() and samples.isdigit()):
        raise ValueError(f"{place}: {line!r} is not `path<TAB>number of samples`; restore the line")
    if _SLICE.search(path):
        raise ValueError(
            f"{place}: {path!r} is a slice of an archive; unpack the archive and list its recordings, in this order"
        )
    if _UNFIT.search(path):
        raise ValueError(f"{place}: {path!r} cannot stand in wav.scp; rename the recording, here too")
    return path, int(samples)


def _transcripts(split: _Split, column: str) -> Generator[str | None]:
    """Yield the value of a column for each line of a manifest, None where no file tells it."""
    wanted = ("wrd", "ltr") if column == "text" else ("phn",)
    suffix = next((suffix for suffix in wanted if suffix in split.files), None)
    if suffix is None:
        for _ in range(split.total):
            yield None
        return
    for number, line in enumerate(_lines(split.files[suffix]), start=1):
        if suffix == "ltr":
            line = "".join(line.split()).replace("|", " ")
        value = " ".join(line.split())
        if not value:
            raise ValueError(
                f"{split.files[suffix]}:{number}: is empty; transcribe the recording, remove its line from all files, or move this file away"
            )
        yield value


def _utterances(split: _Split, config: Config) -> Iterator[CorpusUtterance]:
    """Yield the recordings of a manifest that its lines tell the truth about."""
    label, most = split.manifest.name, config.max_bad_fraction
    for row in without_bad(_rows(split), _fault, lambda row: row.place, split.total, label, most):
        yield CorpusUtterance(row.id, row.id, row.path, row.id, columns=row.columns)


def _fault(row: _Row) -> str:
    """What is wrong with a recording by its header, "" if nothing."""
    try:
        info: AudioInfo = audio_info(row.path)
    except AudioError as error:
        return str(error)
    if info.num_samples == row.samples:
        return ""
    return f"{row.path}: holds {info.num_samples} samples, the manifest says {row.samples}; restore the recording, or correct the line"


def _write_units(folder: Path, split: _Split, form: CodesFormat, numbers: dict[str, int]) -> None:
    """Write `units/<label>` and its card, an utterance at a time, in the order of the manifest. numbers: see `_codebook`."""
    label = form.codec
    data, source = Manifest.open(folder), split.files[label]
    with whole_set([labels_path(folder, label)], [card_path(folder, label)]) as ([table], [mark]):
        guard = LabelGuard(str(source), rate=form.rate, size=form.size, feature=IMPORTED, log=_log.warning)
        with LabelWriter(table, form.size) as writer:
            for number, (row, line) in enumerate(zip(_rows(split), _lines(source), strict=True), start=1):
                position = bisect_left(data.ids, row.id)
                if position == len(data) or data.ids[position] != row.id:
                    continue  # a recording that was left out
                duration = data.durations[position : position + 1]
                units = _units(line, f"{source}:{number}", duration.item(), form, numbers)
                guard.add([row.id], np.array(units, np.int64), np.array([len(units)]), duration)
                writer.add(position, row.id, units)
            guard.finish()
        write_json(mark, to_table(form.card(guard, len(data))))


def _units(line: str, place: str, duration: float, form: CodesFormat, numbers: dict[str, int]) -> list[int]:
    """Labels of an utterance of `duration` seconds."""
    tokens = line.split()
    for token in tokens:
        if numbers and token not in numbers:
            raise ValueError(f"{place}: {token!r} is not among the {form.size} of dict.{form.codec}.txt; correct it")
        if not numbers and not (token.isascii() and token.isdigit()):
            raise ValueError(f"{place}: {token!r} is no unit; write whole numbers, separated by spaces")
    units = [numbers[token] for token in tokens] if numbers else list(map(int, tokens))
    if units and max(units) >= form.size:
        raise ValueError(
            f"{place}: unit {max(units)} is not among the {form.size} of dict.{form.codec}.txt; correct it"
        )
    if not labels_fit(len(units), duration, form.rate):
        raise ValueError(
            f"{place}: {len(units)} units; {duration:.3f} s at {form.rate:g} Hz should give about {duration * form.rate:.0f}; "
            "correct --prep.label_rate, or label the recordings again"
        )
    return units
