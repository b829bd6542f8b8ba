"""Speed of unit discovery: seconds of audio per second on one core, reading the files included.

Makes a temporary corpus of 16 kHz FLAC files of coloured noise with the lengths of read speech, pins itself to one core, fits
a codebook of MFCC to it and labels it. The goal for labelling is 50 times real time; the peak beside it is decoding
the files alone.

Example: python benchmarks/units.py --minutes 20 --clusters 100
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from _machine import add_check, describe, finish

GOAL = 50.0


def make_corpus(folder: Path, minutes: float) -> Path:
    """Write FLAC files of 2 to 16 s and their data directory."""
    from audiossl.data.audio import write_audio
    from audiossl.data.writer import CorpusUtterance, write_data_dir

    rng, left, rows = np.random.default_rng(0), 60 * minutes, []
    while left > 0:
        samples = round(16_000 * rng.uniform(2, 16))
        noise = rng.standard_normal(samples + 64)
        slow = np.convolve(np.abs(rng.standard_normal(samples + 64)), np.ones(65) / 65, mode="same")
        waveform = 0.1 * slow * np.convolve(noise, 0.9 ** np.arange(64), mode="same")
        name = f"s-{len(rows):05d}"
        write_audio(folder / f"{name}.flac", waveform[:samples].astype(np.float32), 16_000)
        rows.append(CorpusUtterance(name, name, folder / f"{name}.flac", "s"))
        left -= samples / 16_000
    write_data_dir(rows, folder / "data")
    return folder / "data"


def main() -> None:
    """Print the speed of decoding, fit and apply."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--clusters", type=int, default=100)
    add_check(parser)
    options = parser.parse_args()
    print(describe())
    os.environ["OMP_NUM_THREADS"] = "1"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    import torch

    from audiossl.data.manifest import Manifest
    from audiossl.units.apply import apply_codebook
    from audiossl.units.features import MFCCFeatures
    from audiossl.units.fit import FitConfig, fit_codebook
    from audiossl.units.stream import StreamConfig

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        manifest = Manifest.open(make_corpus(Path(folder), options.minutes))
        seconds, stream, features = float(manifest.durations.sum()), StreamConfig(num_workers=0), MFCCFeatures()
        started = time.perf_counter()
        for index in range(len(manifest)):
            manifest.audio(index, sample_rate=16_000)
        start = time.perf_counter()
        book = fit_codebook(manifest, features, FitConfig(clusters=options.clusters), stream, log=print)
        fitted = time.perf_counter()
        apply_codebook(manifest, book, features, "km", stream, log=print)
        labelled = time.perf_counter()
    speed = seconds / (labelled - fitted)
    print(
        f"decode  {seconds / 60:.1f} min of audio in {start - started:6.2f} s: {seconds / (start - started):6.0f} x real time (peak)"
    )
    print(
        f"fit     {seconds / 60:.1f} min of audio in {fitted - start:6.2f} s: {seconds / (fitted - start):6.0f} x real time"
    )
    print(f"apply   {seconds / 60:.1f} min of audio in {labelled - fitted:6.2f} s: {speed:6.0f} x real time")
    finish({f"labelling: {speed:.0f} of {GOAL:.0f} x real time": speed >= GOAL}, check=options.check)


if __name__ == "__main__":
    main()
