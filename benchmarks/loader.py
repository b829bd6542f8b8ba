"""How fast the loader is: seconds of 16 kHz FLAC per second of time; goal: 2,000 with two workers, plain and augmented.

Beside it the peak: the same files decoded by soundfile alone, one process, times the number of workers that have a core. It is
measured before and after, for on a busy machine it moves as much as the loader does. Augmented is noise, reverberation and
gain, each with probability 0.5.

Example: python benchmarks/loader.py --hours 2 --workers 2
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
from _machine import add_check, describe, finish

from audiossl.data.audio import write_audio
from audiossl.data.augment import AugmentConfig
from audiossl.data.loader import LoaderConfig, make_loader, make_sampler
from audiossl.data.manifest import Manifest
from audiossl.data.shards import write_shards

if TYPE_CHECKING:
    from audiossl.contracts import Batch, Utterance

RATE = 16_000
GOAL = 2000


class Plain:
    """What every objective does at the least: hand over the waveform, cropped to 15.6 s."""

    needs = ()

    def views(self, utterance: Utterance, rng: np.random.Generator) -> dict[str, Any]:
        """Crop at random."""
        start = int(rng.integers(max(1, len(utterance.waveform) - 250_000)))
        return {"waveform": utterance.waveform[start : start + 250_000]}

    def batch_views(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Nothing."""
        del rng
        return batch


def make_corpus(folder: Path, hours: float) -> Path:
    """Write FLAC files of log-normal length and their wav.scp; return the data directory."""
    rng = np.random.default_rng(0)
    durations: list[float] = []
    while sum(durations) < hours * 3600:
        durations.append(float(np.clip(rng.lognormal(np.log(11.0), 0.45), 1.5, 30.0)))

    def write(number: int) -> str:
        path = folder / f"utt{number:05d}.flac"
        write_audio(path, speechlike(np.random.default_rng([1, number]), round(durations[number] * RATE)), RATE)
        return f"{path.stem} {path}\n"

    with ThreadPoolExecutor() as pool:
        lines = list(pool.map(write, range(len(durations))))
    (folder / "wav.scp").write_text("".join(lines), encoding="utf-8")
    return folder


def speechlike(rng: np.random.Generator, length: int) -> np.ndarray:
    """Noise with the long-term slope of speech and syllables of a quarter second: it packs about as well as speech."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    spectrum /= 1 + (np.fft.rfftfreq(length, 1 / RATE) / 500) ** 2
    noise = np.fft.irfft(spectrum, length)
    envelope = np.abs(np.sin(np.arange(length) * (np.pi * 4 / RATE))) ** 2 + 0.01
    waveform = noise * envelope
    return np.asarray(0.3 * waveform / np.abs(waveform).max(), dtype=np.float32)


def decoding_peak(folder: Path, workers: int) -> float:
    """Seconds of audio per second that libFLAC gives `workers` processes, as far as there are cores for them."""
    start, samples = time.perf_counter(), 0
    for path in sorted(folder.glob("*.flac")):
        samples += len(soundfile.read(path, dtype="float32")[0])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return samples / RATE / (time.perf_counter() - start) * min(max(workers, 1), cores)


def measure(manifest: Any, config: LoaderConfig, label: str) -> float:
    """Load one epoch, print and return the seconds of audio per second, starting the workers not included."""
    batches = iter(make_loader(manifest, Plain(), config, sample_rate=RATE, seed=0))
    samples = sum(int(next(batches)["waveform_lengths"].sum()) for _ in range(config.num_workers))
    start, samples = time.perf_counter(), 0
    for batch in batches:
        samples += int(batch["waveform_lengths"].sum())
    elapsed = time.perf_counter() - start
    speed = samples / RATE / elapsed
    print(f"{label:<28} {speed:8,.0f} s of audio per second")
    return speed


def main() -> None:
    """Make a corpus in a temporary folder, load it plain, from shards and augmented."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--workers", type=int, default=2)
    add_check(parser)
    options = parser.parse_args()
    print(describe())
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        data.mkdir()
        manifest = Manifest.open(make_corpus(data, options.hours))
        write_shards(manifest, Path(folder) / "shards")
        shards = Manifest.open(Path(folder) / "shards")
        config = LoaderConfig(crop_duration=15.6, num_workers=options.workers)
        sampler = make_sampler(manifest, config, seed=0)
        print(f"{sampler.summary()}; useful fraction {sampler.useful_fraction():.3f}; {options.workers} workers")
        augment = AugmentConfig(
            noise_probability=0.5, noise_dirs=(manifest.path,), reverb_probability=0.5, gain_probability=0.5
        )
        augmented = LoaderConfig(crop_duration=15.6, num_workers=options.workers, augment=augment)
        before = decoding_peak(data, options.workers)
        speeds = {
            "FLAC files": measure(manifest, config, "FLAC files"),
            "shards": measure(shards, config, "shards"),
            "augmented": measure(manifest, augmented, "augmented"),
        }
        after = decoding_peak(data, options.workers)
    print(f"{'peak: decoding alone':<28} {before:8,.0f} s of audio per second before, {after:,.0f} after")
    finish(
        {f"{name}: {speed:,.0f} of {GOAL:,} s/s": speed >= GOAL for name, speed in speeds.items()}, check=options.check
    )


if __name__ == "__main__":
    main()
