"""Labels from codes that another program made, such as those of a neural codec: `audiossl units import`."""

from __future__ import annotations

import hashlib
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from audiossl.config import to_table
from audiossl.data.alignments import labels_fit
from audiossl.data.json_files import write_json
from audiossl.data.loader import BadRecordings
from audiossl.files import whole_set
from audiossl.interop.safe_pickle import load_plain
from audiossl.units.guards import LabelGuard
from audiossl.units.labels import IMPORTED, LabelWriter, UnitsCard, card_path, labels_path, set_names

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from audiossl.data.manifest import Manifest

_ORDER = "give whole numbers, (frame,) or (codebook, frame)"


@dataclass(frozen=True)
class CodesFormat:
    """What arrays do not say. rate: codes per second; size: codes of each codebook; codec: what made the codes; books: how many codebooks.

    ValueError where they cannot be.
    """

    rate: float
    size: int
    codec: str
    books: int = 1

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise ValueError(f"--rate {self.rate}: is not positive; give the codes per second, such as 75")
        if self.size < 2:
            raise ValueError(f"--clusters {self.size}: give the size of each codebook, such as 1024")

    @property
    def hash(self) -> str:
        """The identity of the codebooks as far as it is known: two codecs of one name, rate and size are taken for the same."""
        return hashlib.sha256(f"{IMPORTED} {self.codec} {self.rate:g} {self.size} {self.books}\n".encode()).hexdigest()

    def card(self, guard: LabelGuard, total: int) -> UnitsCard:
        """Describe the labels that a guard has seen. total: utterances of the data directory."""
        return UnitsCard(
            feature=IMPORTED,
            encoder=self.codec,
            layer=0,
            encoder_hash="",
            rate=self.rate,
            codebook_hash=self.hash,
            codebook_size=self.size,
            utterances=guard.utterances,
            labels=int(guard.counts.sum()),
            left_out=total - guard.utterances,
        )


class CodesFile:
    """Arrays of codes by utterance: a `.npz` whose arrays are named like utterances, a dict of tensors by `torch.save`, or a folder of `UTTERANCE.npy`.

    Plain arrays only: nothing that a file asks for is run. One array is in memory at a time. ValueError where the file is none of these.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive: zipfile.ZipFile | None = None
        self._tensors: dict[str, Any] | None = None
        if path.is_dir():
            return
        try:
            self._archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            cure = "give a .npz file or a folder of .npy"
            if isinstance(error, zipfile.BadZipFile):
                cure += "; text of labels as fairseq has it comes in by `audiossl prep fairseq_manifests`"
            raise ValueError(f"{path}: no codes can be read ({error}); {cure}") from None
        self._members = frozenset(self._archive.namelist())
        if any(member.endswith("/data.pkl") for member in self._members):
            self._tensors = _saved_tensors(path)

    def has(self, utterance: str) -> bool:
        """Tell whether there are codes of an utterance."""
        if self._tensors is not None:
            return utterance in self._tensors
        member = f"{utterance}.npy"
        return (self.path / member).is_file() if self._archive is None else member in self._members

    def read(self, utterance: str) -> NDArray[np.int64]:
        """Return the codes of an utterance that has some: (codebook, frame)."""
        try:
            codes = self._array(utterance)
        except (OSError, EOFError, ValueError, TypeError, RuntimeError, zipfile.BadZipFile) as error:
            raise ValueError(f"{self.path}: {utterance!r}: no plain array ({error}); {_ORDER}") from None
        if codes.dtype.kind not in "iu" or codes.ndim not in {1, 2}:
            raise ValueError(f"{self.path}: {utterance!r}: {codes.dtype} of shape {codes.shape}; {_ORDER}")
        return np.atleast_2d(codes).astype(np.int64)

    def _array(self, utterance: str) -> NDArray[Any]:
        if self._tensors is not None:
            return np.asarray(self._tensors[utterance])
        member = f"{utterance}.npy"
        with (self.path / member).open("rb") if self._archive is None else self._archive.open(member) as file:
            array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
            return array

    def books(self, manifests: list[Manifest], rate: float) -> int:
        """How many codebooks there are, by the first utterance of `manifests` that has codes; ValueError where none has. rate: Hz."""
        for manifest in manifests:
            for utterance, duration in zip(manifest.ids, manifest.durations, strict=True):
                if self.has(utterance):
                    rows, columns = map(int, self.read(utterance).shape)
                    if labels_fit(rows, duration, rate) and not labels_fit(columns, duration, rate):
                        raise ValueError(
                            f"{self.path}: {utterance!r}: shape {(rows, columns)} is (frame, codebook); transpose it to (codebook, frame)"
                        )
                    return rows
        raise ValueError(
            f"{self.path}: holds no codes of {manifests[0].path}, not even of {manifests[0].ids[0]!r}; name its arrays like utterances"
        )


def _saved_tensors(path: Path) -> dict[str, Any]:
    """Codes by utterance of a file of `torch.save`, which stay there until they are looked at."""
    content = load_plain(path, mapped=True)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}; save a dict of codes by utterance")
    return {str(name): codes for name, codes in content.items()}


def import_codes(
    manifest: Manifest,
    codes: CodesFile,
    name: str,
    form: CodesFormat,
    *,
    max_bad_fraction: float = 0.01,
    log: Callable[[str], None],
) -> UnitsCard:
    """Write `units/<name>`, or `units/<name>_0` and so on of several codebooks, and a card for each, all of one content, which is returned.

    max_bad_fraction: share of the utterances that may lack codes; they are named through `log`. Labels that were there stay until all is written;
    the guards are those of `apply_codebook`.
    """
    names = set_names(name, form.books)
    paths = [labels_path(manifest.path, each) for each in names]
    with whole_set(paths, [card_path(manifest.path, each) for each in names]) as (new_paths, new_cards):
        guards = [LabelGuard(str(path), rate=form.rate, size=form.size, feature=IMPORTED, log=log) for path in paths]
        _write(manifest, codes, form, guards, new_paths, BadRecordings(max_bad_fraction, len(manifest)), log)
        card = form.card(guards[0], len(manifest))
        for place in new_cards:
            write_json(place, to_table(card))
    return card


def _write(
    manifest: Manifest,
    codes: CodesFile,
    form: CodesFormat,
    guards: list[LabelGuard],
    places: list[Path],
    bad: BadRecordings,
    log: Callable[[str], None],
) -> None:
    """Write the table of each codebook, an utterance at a time, under the eyes of its guard."""
    with ExitStack() as stack:
        writers = [stack.enter_context(LabelWriter(place, form.size)) for place in places]
        for number, utterance in enumerate(manifest.ids):
            if not codes.has(utterance):
                for line in bad.add([(utterance, f"{codes.path} holds no codes of it")]):
                    log(line)
                continue
            duration = manifest.durations[number : number + 1]
            found = _checked(codes, utterance, form)
            length = np.array([found.shape[1]])
            for labels, guard, writer in zip(found, guards, writers, strict=True):
                guard.add([utterance], labels, length, duration)
                writer.add(number, utterance, labels.tolist())
        for guard in guards:
            guard.finish()


def _checked(codes: CodesFile, utterance: str, form: CodesFormat) -> NDArray[np.int64]:
    """Codes of an utterance, (codebook, frame); ValueError where they are not as `form` says."""
    found = codes.read(utterance)
    place = f"{codes.path}: {utterance!r}"
    if len(found) != form.books:
        raise ValueError(
            f"{place}: shape {found.shape}, where the first utterance has {form.books} codebooks; give all the same"
        )
    if found.size and not 0 <= found.min() <= found.max() < form.size:
        wrong = int(found[(found < 0) | (found >= form.size)][0])
        raise ValueError(f"{place}: code {wrong} is not among {form.size}; correct --clusters")
    return found
