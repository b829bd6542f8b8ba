"""From a manifest to batches: read, augment, `views`, collate, `batch_views`, in worker processes.

A batch is a function of (seed, global batch number) alone. So any worker or process can make it, a restart makes the same ones
again, and nothing but the batch number needs saving.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import warnings
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

import numpy as np

from audiossl.contracts import Utterance
from audiossl.data.alignments import parse_labels
from audiossl.data.augment import AugmentConfig, Augmenter
from audiossl.data.collate import collate, to_tensors
from audiossl.data.sampler import BucketSampler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from audiossl.contracts import Batch
    from audiossl.data.directory import Source

_BATCH_STREAM = 2**31 - 1  # stands where utterances have their epoch
_AUGMENT_STREAM = 1  # a fourth number, which utterances' own streams lack
_SHOWN = 3


@dataclass(frozen=True)
class LoaderConfig:
    """How batches are made.

    batch_seconds: padded audio per batch, s; 87.5 s is what HuBERT and wav2vec 2.0 Base give each GPU. batch_utterances: at most so many
    utterances in a batch, as where a protocol counts them; 0 is no limit, and `batch_seconds` holds as well. Utterances outside
    [min_duration, max_duration] s are left out. crop_duration: the longest that `views` leaves of an utterance, s, by which
    batches are then filled; the cropping itself is done by `views`. prefetch: batches that each worker holds ready. num_workers
    0: the calling process makes the batches. max_bad_fraction: share of utterances that may be unusable before training stops.
    allow_commands: the data directories of a run are opened such that the programs that `wav.scp` names are run.
    """

    batch_seconds: float = 87.5
    batch_utterances: int = 0
    min_duration: float = 0.0
    max_duration: float | None = None
    crop_duration: float | None = None
    num_workers: int = 2
    prefetch: int = 4
    max_bad_fraction: float = 0.01
    allow_commands: bool = False
    augment: AugmentConfig | None = None

    def __post_init__(self) -> None:
        if self.num_workers < 0 or self.prefetch < 1:
            raise ValueError(
                f"num_workers is {self.num_workers}, prefetch {self.prefetch}; give at least 0 workers and 1 batch"
            )
        if not 0 <= self.max_bad_fraction <= 1:
            raise ValueError(f"max_bad_fraction is {self.max_bad_fraction}; give a number from 0 to 1")
        if not self.batch_seconds > 0:  # nor is nan
            raise ValueError(f"batch_seconds is {self.batch_seconds}; give a positive number of seconds")


class Viewing(Protocol):
    """The part of `contracts.Trainable` that works in the loader."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of columns."""
        ...

    @property
    def views(self) -> Callable[[Utterance, np.random.Generator], Mapping[str, Any]]:
        """Work on one utterance."""
        ...

    @property
    def batch_views(self) -> Callable[[Batch, np.random.Generator], Batch]:
        """Work on a collated batch."""
        ...


def make_sampler(manifest: Source, config: LoaderConfig, *, seed: int, shuffle: bool = True) -> BucketSampler:
    """Return the sampler that `make_loader` uses for the same arguments: it knows the number of batches in an epoch."""
    stretch = config.augment.longest_stretch if config.augment else 1.0
    return BucketSampler(
        manifest.durations,
        batch_seconds=config.batch_seconds / stretch,
        seed=seed,
        min_duration=config.min_duration,
        max_duration=config.max_duration,
        crop_duration=config.crop_duration,
        batch_utterances=config.batch_utterances,
        shuffle=shuffle,
    )


def make_loader(
    manifest: Source,
    module: Viewing,
    config: LoaderConfig,
    *,
    sample_rate: int,
    seed: int,
    positions: Iterable[int] | None = None,
    shuffle: bool = True,
) -> Iterator[Batch]:
    """Yield the batches with the global numbers `positions`, in that order; None means those of epoch 0.

    `positions` may be endless; it is read ahead by what the workers prefetch. Of `module` only `needs`, `views` and
    `batch_views` are used; workers are forked where the system can, so nothing is copied. A batch holds tensors, lists of
    strings, `utt_ids`, and `bad`: a list of (utterance id, message) for those that were left out because a ValueError was raised
    on the way to their views; a batch that has nothing else left is `{"bad": [...], "utt_ids": []}`. ValueError, before the
    first batch, for a missing column and for changed speed together with `units/`, or with any column of a `module` that is `aligned`.
    """
    from torch import Generator
    from torch.utils.data import DataLoader

    maker = BatchMaker(manifest, module, config, sample_rate=sample_rate, seed=seed, shuffle=shuffle)
    workers: dict[str, Any] = {}
    if config.num_workers:
        workers = {"prefetch_factor": config.prefetch, "worker_init_fn": worker_init, "persistent_workers": True}
    numbers = range(maker.sampler.batches_per_epoch(0)) if positions is None else positions
    loader: DataLoader[Batch] = DataLoader(
        _Sampled(maker),  # type: ignore[arg-type]  # a map-style dataset is anything with __getitem__
        sampler=((position, *maker.sampler.batch(position)) for position in numbers),
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=config.num_workers,
        generator=Generator().manual_seed(seed),  # or else it would draw from the global one and disturb the training's
        **workers,
    )
    with warnings.catch_warnings():
        # Python 3.12 warns of forking beside threads; the workers run NumPy and one torch thread, and wait for no lock.
        warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
        batches = iter(loader)
    if config.num_workers:
        _living().add(batches)
    return batches


@cache
def _living() -> WeakSet[Any]:
    """Iterators whose workers are to end before the process: multiprocessing, at its exit, sends them the one signal that they outlive, and waits.

    Made only once torch's loader is imported, whose own exit function keeps it from ending workers, and so comes after this one.
    """
    living: WeakSet[Any] = WeakSet()

    def end() -> None:
        for batches in list(living):
            batches._shutdown_workers()  # noqa: SLF001 - what its __del__ calls, which something may still keep away

    atexit.register(end)
    return living


class BatchMaker:
    """Makes the batch of a global number: `maker[position]`."""

    def __init__(
        self,
        manifest: Source,
        module: Viewing,
        config: LoaderConfig,
        *,
        sample_rate: int,
        seed: int,
        shuffle: bool = True,
    ) -> None:
        whole = getattr(module, "aligned", False)
        aligned = [name for name in module.needs if whole or name.startswith("units/")]
        if aligned and config.augment and not config.augment.keeps_time:
            raise ValueError(
                f"augment.speed_probability is {config.augment.speed_probability}, but what {aligned[0]} says is aligned with"
                " the unchanged recordings; set it to 0"
            )
        self.sampler = make_sampler(manifest, config, seed=seed, shuffle=shuffle)
        self.sample_rate, self.seed = sample_rate, seed
        self._manifest = manifest
        self._columns = {name: manifest.column(name) for name in module.needs}
        self._views, self._batch_views = module.views, module.batch_views
        self._augmenter = Augmenter(config.augment, manifest) if config.augment else None

    def __getitem__(self, position: int) -> Batch:
        return self.make(position, *self.sampler.batch(position))

    def make(self, position: int, epoch: int, indices: np.ndarray) -> Batch:
        """Make the batch of a global number from what the sampler says of it."""
        views, utt_ids, bad = [], [], []
        for index in indices.tolist():
            try:
                views.append(self._one(epoch, index))
                utt_ids.append(self._manifest.ids[index])
            except ValueError as error:
                bad.append((self._manifest.ids[index], " ".join(str(error).split())))
        if not views:
            return {"bad": bad, "utt_ids": []}
        rng = np.random.default_rng([self.seed, _BATCH_STREAM, position])
        batch = to_tensors(self._batch_views(collate(views, utt_ids), rng))
        batch["bad"] = bad
        return batch

    def _one(self, epoch: int, index: int) -> Mapping[str, Any]:
        """Views of one utterance."""
        # The augmenter's numbers are its own: crops and masks are the same with augmentation as without.
        augment = None
        if self._augmenter is not None:
            rng = np.random.default_rng([self.seed, epoch, index, _AUGMENT_STREAM])
            augment = partial(self._augmenter, rng=rng, sample_rate=self.sample_rate)
        columns = {name: self._value(name, index) for name in self._columns}
        fastest = self._augmenter.config.fastest if self._augmenter else 1.0
        utterance = _Stored(self._manifest, index, self.sample_rate, columns, augment, fastest)
        return self._views(utterance, np.random.default_rng([self.seed, epoch, index]))

    def _value(self, name: str, index: int) -> Any:
        value = self._columns[name][index]
        if not name.startswith("units/"):
            return value
        try:
            return parse_labels(value)
        except ValueError as error:
            where = f"{self._manifest.path / name}: utterance {self._manifest.ids[index]!r}"
            raise ValueError(f"{where}: not all labels are whole numbers ({error}); make the units again") from error


class _Sampled:
    """A map-style dataset for torch's DataLoader: its index is a position and what the sampler says of it.

    The sampler is asked in the main process, since its plan of an epoch is as large as the data: workers would each make and keep their own.
    """

    def __init__(self, maker: BatchMaker) -> None:
        self._maker = maker

    def __getitem__(self, sampled: tuple[int, int, np.ndarray]) -> Batch:
        return self._maker.make(*sampled)


class _Stored(Utterance):
    """An utterance that is decoded, and augmented, when it is looked at: all of it, or only the pieces that are cut."""

    def __init__(
        self,
        source: Source,
        index: int,
        sample_rate: int,
        columns: dict[str, Any],
        augment: Callable[[np.ndarray], np.ndarray] | None,
        fastest: float = 1.0,
    ) -> None:
        self.id, self.sample_rate, self.columns = source.ids[index], sample_rate, columns
        self._read, self._augment = partial(source.audio, index, sample_rate=sample_rate), augment
        self._clean = None if augment is None else _Stored(source, index, sample_rate, columns, None)
        self._seconds, self._fastest = float(source.durations[index]), fastest

    @cached_property
    def waveform(self) -> np.ndarray:  # type: ignore[override]  # a field of the base class, made when it is asked for
        # From the clean one, so that where both are looked at the recording is decoded once.
        return self._read() if self._augment is None else self._augment(self.clean.waveform)

    @property
    def clean(self) -> Utterance:
        return self if self._clean is None else self._clean

    @property
    def duration(self) -> float:
        return self._seconds

    @property
    def fastest(self) -> float:
        return self._fastest

    def cut(self, start: float, seconds: float) -> np.ndarray:
        piece = self._read(start=start, seconds=seconds, allow_silent=True)
        return piece if self._augment is None or not piece.any() else self._augment(piece)


class BadRecordings:
    """Names each unusable recording once, and stops training when there are too many.

    max_fraction: share of the `total` utterances that may be unusable.
    """

    def __init__(self, max_fraction: float, total: int) -> None:
        self.max_fraction, self.total = max_fraction, total
        self._messages: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, bad: Iterable[tuple[str, str]]) -> list[str]:
        """Take `batch["bad"]`; return a line for the log for each recording not seen before. ValueError when too many are bad."""
        new = {utterance: message for utterance, message in bad if utterance not in self._messages}
        self._messages |= new
        if len(self) > self.max_fraction * self.total:
            first = "; ".join(map(_named, list(self._messages.items())[:_SHOWN]))
            raise ValueError(
                f"{len(self)} of {self.total} utterances cannot be used, more than max_bad_fraction {self.max_fraction:g} allows;"
                f" mend the data or raise it. The first: {first}"
            )
        return [f"left out {message}" for message in map(_named, new.items())]

    @property
    def messages(self) -> dict[str, str]:
        """What is wrong, by utterance, in the order of discovery."""
        return dict(self._messages)


def usable(batches: Iterable[Batch], bad: BadRecordings, log: Callable[[str], None]) -> Iterator[Batch]:
    """Yield the batches that have anything left; name the recordings left out through `log`. ValueError when too many are bad."""
    for batch in batches:
        for line in bad.add(batch["bad"]):
            log(line)
        if batch["utt_ids"]:
            yield batch


def worker_init(worker: int) -> None:
    """Give a worker one thread: there are as many workers as cores to spare, and threads of threads only queue. See `_outlive_a_signal`."""
    import torch

    del worker
    _outlive_a_signal()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # for what is imported from now on
    if "faiss" in sys.modules:
        sys.modules["faiss"].omp_set_num_threads(1)


def _outlive_a_signal() -> None:
    """Work on after a first SIGTERM, for it is sent to whole groups of processes, and the main one still wants its batch; a second one ends."""
    parent, caught = os.getppid(), [0]

    def note(number: int, _frame: Any) -> None:
        if caught[0] or os.getppid() != parent:
            os._exit(0)
        caught[0] = number

    signal.signal(signal.SIGTERM, note)


def _named(fault: tuple[str, str]) -> str:
    utterance, message = fault
    return message if message.startswith(f"{utterance}: ") else f"{utterance}: {message}"


def _as_it_is(batch: Any) -> Any:
    return batch
