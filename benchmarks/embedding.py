"""Speaker embeddings: extraction in length buckets against one utterance at a time, and crops for training against whole files.

Goals: buckets give 3 times the utterances per second of batches of one, with the same loader and encoder, and the same embeddings; the
loader's two crops of 2 s give 3 times the utterances per second of decoding whole files one after another, as toolkits do that
crop afterwards. Lengths are log-normal, 1 to 30 s with a median of 4, for extraction, and as VoxCeleb's, 4 s and more, for crops, all 16 kHz
FLAC. The encoder has random weights. Files are read once beforehand, so that none comes from the disk. Buckets gain where one utterance
leaves the device idle: on a GPU, hardly on a few cores, which a single utterance keeps busy.

Example: python benchmarks/embedding.py --check
"""

from __future__ import annotations

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from _machine import add_check, describe, finish, matmul_gflops

from audiossl.data.audio import read_audio, write_audio
from audiossl.data.loader import LoaderConfig, make_loader
from audiossl.data.manifest import Manifest
from audiossl.encoders.fast_resnet34 import FastResNet34
from audiossl.objectives._speaker import CropViews
from audiossl.verification.embeddings import Embeddings
from audiossl.verification.extract import Embedder, ExtractConfig, extract

RATE = 16_000
GOAL = 3.0


def main() -> None:
    """Make two corpora in a temporary folder and print utterances per second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=600)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add_check(parser)
    options = parser.parse_args()
    print(f"{describe()}, {matmul_gflops():.0f} GFLOP/s, {options.workers} workers, {options.device}")
    with tempfile.TemporaryDirectory() as folder:
        mixed = make_corpus(Path(folder) / "mixed", options.utterances, (4.0, 0.7), (1.0, 30.0))
        ratio, error = buckets(mixed, Path(folder), options.workers, options.device)
        long = make_corpus(Path(folder) / "long", options.utterances, (7.0, 0.45), (4.0, 60.0))
        faster = crops(long, options.workers)
    goals = {
        f"buckets: {ratio:.1f} of {GOAL:g} times as fast as one at a time": ratio >= GOAL,
        f"buckets: off by {error:.1e} of 1e-4 of the longest embedding": error <= 1e-4,
        f"crops: {faster:.1f} of {GOAL:g} times the utterances of decoding whole files": faster >= GOAL,
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
    print(f"{folder.name}: {count} utterances, {manifest.durations.sum() / 3600:.2f} h")
    return manifest


def buckets(manifest: Manifest, folder: Path, workers: int, device: str) -> tuple[float, float]:
    """Return how many times faster buckets are, and the largest difference of the embeddings relative to the largest of them."""
    torch.manual_seed(0)
    encoder = FastResNet34().eval().to(device)

    @torch.no_grad()
    def embed(waveform: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return encoder.embed(waveform.to(device), lengths.to(device))

    embedder = Embedder("random", "embeddings", "", encoder.embedding_dim, RATE, 400, embed)
    seconds = {}
    for name, batch_seconds in (("buckets", 200.0), ("alone", 1e-3), ("buckets again", 200.0)):
        config = ExtractConfig(batch_seconds=batch_seconds, num_workers=workers)
        start = time.perf_counter()
        extract(manifest, embedder, folder / name, config, log=print)
        seconds[name] = time.perf_counter() - start
        print(f"{name:<28} {len(manifest) / seconds[name]:8.1f} utterances per second")
    ours, alone = (Embeddings.open(folder / name) for name in ("buckets", "alone"))
    difference = np.abs(ours.matrix[ours.rows(alone.ids)] - alone.matrix).max()
    fastest = min(seconds["buckets"], seconds["buckets again"])
    return seconds["alone"] / fastest, float(difference / np.abs(alone.matrix).max())


def crops(manifest: Manifest, workers: int) -> float:
    """Return how many times the utterances per second the loader's crops give, of those of decoding whole files."""
    views = CropViewing(CropViews((2.0, 2.0), "disjoint", RATE))
    config = LoaderConfig(batch_seconds=4.0 * 25, crop_duration=4.0, num_workers=workers)
    paths = sorted(manifest.path.glob("*.flac"))

    def whole() -> float:
        start = time.perf_counter()
        for path in paths:
            read_audio(path)
        return len(paths) / (time.perf_counter() - start)

    before = whole()
    batches = make_loader(manifest, views, config, sample_rate=RATE, seed=0)
    for _ in range(workers):  # starting the workers is not what is measured
        next(batches)
    start = time.perf_counter()
    loaded = sum(len(batch["utt_ids"]) for batch in batches)
    cropped = loaded / (time.perf_counter() - start)
    after = whole()
    print(f"{'loader, two crops of 2 s':<28} {cropped:8.1f} utterances per second")
    print(f"{'whole files, one at a time':<28} {before:8.1f} before, {after:.1f} after")
    return cropped / max(before, after)


class CropViewing:
    """What an objective hands to the loader."""

    needs: tuple[str, ...] = ()

    def __init__(self, views: CropViews) -> None:
        self.views, self.batch_views = views.views, views.batch_views


if __name__ == "__main__":
    main()
