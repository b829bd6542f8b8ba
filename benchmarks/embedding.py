"""Speaker embeddings: extraction in length buckets against one utterance at a time, and augmented crops against whole files.

Goals: buckets give 3 times the utterances per second of batches of one, and the same embeddings; the loader, with its two crops of 2 s,
gives 3 times the utterances per second of a script that takes one file after another, decodes all of it and, for each of two views,
augments it and cuts the crop. Both augment alike: a room's response, then noise, babble or music. Beside it: two crops of 4 s, the same
script cutting before it augments, and decoding alone; and what each step takes.

One at a time is `encoder.embed` on the same loader's batches of one, in eval mode without gradients, on all threads that torch takes.
Buckets are `extract` as `audiossl embed` calls it: batch norms folded into convolutions and, on processors, parts of a batch side by side.

Lengths are log-normal, for extraction 1 to 30 s with a median of 4, for crops as VoxCeleb's, 4 to 20 s with a mean of 8, all 16 kHz FLAC;
noises and responses are WAV. The encoder has random weights. Files are read once beforehand, so that none comes from the disk.
Buckets gain where one utterance leaves the device idle: on a GPU, little on a few cores, which a single utterance keeps busy. The GFLOP/s
of the audio without its padding show it: float32 cannot pass the processor's peak, so beyond it only `--precision bf16` goes, and only
where the processor multiplies bfloat16; that is not the default, and its cosines are shown. Crops gain by the workers, and by what they
leave out of each file.

Example: python benchmarks/embedding.py --check
"""

from __future__ import annotations

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count as endless
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from _machine import add_check, best, describe, finish, matmul_gflops
from torch.utils.flop_counter import FlopCounterMode

from audiossl.data.audio import read_audio, write_audio
from audiossl.data.augment import AugmentConfig, Augmenter
from audiossl.data.loader import LoaderConfig, make_loader
from audiossl.data.manifest import Manifest
from audiossl.data.whole import WholeUtterances, one_epoch
from audiossl.encoders.fast_resnet34 import FastResNet34
from audiossl.objectives._speaker import CropViews
from audiossl.verification.embeddings import Embeddings
from audiossl.verification.extract import ExtractConfig, embedder_of, extract

if TYPE_CHECKING:
    from collections.abc import Callable

RATE = 16_000
GOAL = 3.0
TURNS = 7
KINDS = {"noise": (20, 20.0), "speech": (20, 60.0), "music": (10, 120.0), "rooms": (100, 0.8)}
"""Recordings, and seconds of each."""


def main() -> None:
    """Make two corpora in a temporary folder and print utterances per second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=600)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="of the buckets, never of one at a time"
    )
    add_check(parser)
    options = parser.parse_args()
    print(f"{describe()}, {matmul_gflops():.0f} GFLOP/s, {options.workers} workers, {options.device}")
    with tempfile.TemporaryDirectory() as folder:
        mixed = make_corpus(Path(folder) / "mixed", options.utterances, (4.0, 0.7), (1.0, 30.0))
        ratio, error, cosine = buckets(mixed, Path(folder), options)
        voices = make_corpus(Path(folder) / "voices", options.utterances, (7.2, 0.5), (4.0, 20.0))
        augment = make_noises(Path(folder))
        faster = crops(voices, augment, 2.0, options.workers)
        crops(voices, augment, 4.0, options.workers)
        steps(voices, augment)
    exact = options.precision == "fp32"
    goals = {
        f"buckets: {ratio:.1f} of {GOAL:g} times as fast as one at a time": ratio >= GOAL,
        (
            f"buckets: off by {error:.1e} of 1e-4 of the largest number"
            if exact
            else f"buckets in bf16: smallest cosine {cosine:.5f} of 0.999"
        ): error <= 1e-4 if exact else cosine >= 0.999,
        f"two augmented crops of 2 s: {faster:.1f} of {GOAL:g} times the utterances of whole files one at a time": faster
        >= GOAL,
    }
    finish(goals, check=options.check)


def make_corpus(folder: Path, count: int, lengths: tuple[float, float], limits: tuple[float, float]) -> Manifest:
    """Write FLAC files of noise under syllables. lengths: median, s, and spread of the logarithm; limits: s."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    seconds = np.clip(rng.lognormal(np.log(lengths[0]), lengths[1], count), *limits)

    def write(number: int) -> str:
        own = np.random.default_rng([1, number])
        time_axis = np.arange(round(seconds[number] * RATE)) / RATE
        waveform = 0.2 * own.standard_normal(len(time_axis)) * np.abs(np.sin(np.pi * 4 * time_axis)) ** 2
        path = folder / f"utt{number:05d}.flac"
        write_audio(path, waveform.clip(-1, 1), RATE)
        return f"{path.stem} {path}\n"

    with ThreadPoolExecutor() as pool:
        lines = list(pool.map(write, range(count)))
    (folder / "wav.scp").write_text("".join(lines), encoding="utf-8")
    manifest = Manifest.open(folder)
    print(f"{folder.name}: {count} utterances of {manifest.durations.mean():.1f} s on average")
    return manifest


def make_noises(folder: Path) -> AugmentConfig:
    """Write what speech is augmented with, and return how: a room and a noise for every crop, as published recipes have it."""
    rng = np.random.default_rng(2)
    for kind, (count, seconds) in KINDS.items():
        (folder / kind).mkdir()
        lines = []
        for number in range(count):
            waveform = 0.1 * rng.standard_normal(round(seconds * RATE))
            if kind == "rooms":
                waveform *= np.exp(-np.arange(len(waveform)) / (0.1 * RATE))
            path = folder / kind / f"{kind}{number:03d}.wav"
            write_audio(path, waveform, RATE)
            lines.append(f"{path.stem} {path}\n")
        (folder / kind / "wav.scp").write_text("".join(lines), encoding="utf-8")
    return AugmentConfig(
        order=("reverb", "noise"),
        reverb_probability=1.0,
        reverb_dir=folder / "rooms",
        noise_probability=1.0,
        noise_dirs=tuple(folder / kind for kind in ("noise", "speech", "music")),
        noise_snr=((0.0, 15.0), (13.0, 20.0), (5.0, 15.0)),
        noise_counts=((1, 1), (3, 7), (1, 1)),
    )


def network(device: str) -> tuple[FastResNet34, float]:
    """Return an encoder of random weights, always the same, and the floating-point operations for a second of audio."""
    torch.manual_seed(0)
    encoder = FastResNet34().eval().to(device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder.embed(torch.zeros(1, RATE, device=device), torch.tensor([RATE], device=device))
    return encoder, float(counter.get_total_flops())


@torch.no_grad()
def one_at_a_time(manifest: Manifest, encoder: FastResNet34, workers: int, device: str) -> dict[str, np.ndarray]:
    """What a loop over utterances does: embeddings by id."""
    loading = LoaderConfig(batch_seconds=1e-3, num_workers=workers)
    found = {}
    for batch in one_epoch(manifest, WholeUtterances(400), loading, sample_rate=RATE):
        embedding = encoder.embed(batch["waveform"].to(device), batch["waveform_lengths"].to(device))
        found[batch["utt_ids"][0]] = embedding[0].cpu().numpy()
    return found


def buckets(manifest: Manifest, folder: Path, options: argparse.Namespace) -> tuple[float, float, float]:
    """Return how many times faster buckets are, the largest difference relative to the largest number, and the smallest cosine.

    Both by turns, twice; the better time of each counts.
    """
    encoder, flops = network(options.device)
    embedder = embedder_of(network(options.device)[0], "random", device=options.device, precision=options.precision)
    config, forms = ExtractConfig(num_workers=options.workers), ("one at a time", "buckets")
    seconds = dict.fromkeys(forms, float("inf"))
    for name in forms * 2:
        start = time.perf_counter()
        if name == "buckets":
            extract(manifest, embedder, folder / "buckets", config, log=print)
        else:
            alone = one_at_a_time(manifest, encoder, options.workers, options.device)
        seconds[name] = min(seconds[name], time.perf_counter() - start)
    for name in forms:
        rate = flops * float(manifest.durations.sum()) / seconds[name] / 1e9
        show(name, len(manifest) / seconds[name], f"{rate:.0f} GFLOP/s")
    ours = Embeddings.open(folder / "buckets")
    found, expected = ours.matrix[ours.rows(list(alone))], np.stack(list(alone.values()))
    cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    error = float(np.abs(found - expected).max() / np.abs(expected).max())
    print(f"largest difference {error:.1e} of the largest number, smallest cosine {cosines.min():.6f}")
    return seconds["one at a time"] / seconds["buckets"], error, float(cosines.min())


def crops(manifest: Manifest, augment: AugmentConfig, seconds: float, workers: int) -> float:
    """Return how many times the utterances per second of whole files, one at a time, the loader's two crops give.

    By turns, since processors that others share are not always as fast; the median of each counts.
    """
    views = CropViewing(CropViews((seconds, seconds), "disjoint", RATE))
    both = 2 * seconds
    # One batch ahead: what is made during another's turn is not counted, and hardly made in it.
    config = LoaderConfig(batch_seconds=both * 25, crop_duration=both, num_workers=workers, prefetch=1, augment=augment)
    paths, augmenter = sorted(manifest.path.glob("*.flac")), Augmenter(augment)
    batches = make_loader(manifest, views, config, sample_rate=RATE, seed=0, positions=endless())
    for _ in range(2 * workers):  # starting the workers is not what is measured
        next(batches)

    def loaded() -> float:
        for _ in range(workers + 1):
            next(batches)
        start, utterances = time.perf_counter(), 0
        while utterances < len(paths):
            utterances += len(next(batches)["utt_ids"])
        return utterances / (time.perf_counter() - start)

    def each(one: Callable[[Path, np.random.Generator], object]) -> float:
        rng = np.random.default_rng(0)
        start = time.perf_counter()
        for path in paths:
            one(path, rng)
        return len(paths) / (time.perf_counter() - start)

    whole = partial(script, augmenter=augmenter, samples=round(seconds * RATE))
    name = f"loader, two crops of {seconds:g} s"
    forms: dict[str, Callable[[], float]] = {
        name: loaded,
        "whole files, augmented, cut": lambda: each(partial(whole, cut_first=False)),
        "whole files, cut, augmented": lambda: each(partial(whole, cut_first=True)),
        "whole files, decoded only": lambda: each(lambda path, _: read_audio(path)),
    }
    rates: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(TURNS):
        for form, measure in forms.items():
            rates[form].append(measure())
    middle = {form: float(np.median(found)) for form, found in rates.items()}
    for form, found in rates.items():
        note = "" if form == name else f"; {middle[name] / middle[form]:.1f} times as fast"
        show(form, middle[form], f"{min(found):.0f} to {max(found):.0f}{note}")
    return middle[name] / middle["whole files, augmented, cut"]


def script(
    path: Path, rng: np.random.Generator, *, augmenter: Augmenter, samples: int, cut_first: bool
) -> list[np.ndarray]:
    """What a loop over files does: decode all, then augment and cut twice."""
    waveform = read_audio(path)
    views = []
    for _ in range(2):
        start = int(rng.integers(max(1, len(waveform) - samples)))
        where = slice(start, start + samples)
        view = augmenter(waveform[where], rng, RATE) if cut_first else augmenter(waveform, rng, RATE)[where]
        views.append(view)
    return views


def steps(manifest: Manifest, augment: AugmentConfig) -> None:
    """Print what each step takes for an utterance, in one process."""
    chosen, augmenter, rng = range(min(100, len(manifest))), Augmenter(augment), np.random.default_rng(0)
    read = partial(manifest.audio, sample_rate=RATE)
    waveforms = [read(index) for index in chosen]
    middle = (manifest.durations / 2 - 1).tolist()
    times = {
        "decode all": lambda: [read(index) for index in chosen],
        "decode 2 s": lambda: [read(index, start=middle[index], seconds=2.0) for index in chosen],
        "augment all": lambda: [augmenter(waveform, rng, RATE) for waveform in waveforms],
        "augment 2 s": lambda: [augmenter(waveform[: 2 * RATE], rng, RATE) for waveform in waveforms],
    }
    print("  ".join(f"{name} {1e3 * best(step, 3) / len(chosen):.2f} ms" for name, step in times.items()))


def show(name: str, rate: float, note: str) -> None:
    """Print a line of the table."""
    print(f"{name:<28} {rate:8.1f} utterances per second  {note}".rstrip())


class CropViewing:
    """What an objective hands to the loader."""

    needs: tuple[str, ...] = ()

    def __init__(self, views: CropViews) -> None:
        self.views, self.batch_views = views.views, views.batch_views


if __name__ == "__main__":
    main()
