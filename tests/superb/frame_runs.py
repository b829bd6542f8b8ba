"""A small labelled corpus of noise, a quick upstream without weights, and runs of the frames runner on them."""

from __future__ import annotations

import shutil

import numpy as np
import torch

from audiossl import registry
from audiossl.config import build
from audiossl.contracts import EncoderOutput
from audiossl.data.audio import read_audio, write_audio
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.diagnostics.sources import FeatureSource
from audiossl.superb.frames import Config, run_together
from audiossl.superb.job import Evaluation, Job

RATE, STRIDE, DIM, LAYERS = 16_000, 320, 6, 3
SIZES = {"train": 10, "dev": 4, "test": 3}
TEXTS = ("yes no", "no", "so yes", "on")


def make_corpus(folder):
    rng = np.random.default_rng(0)
    (folder / "audio").mkdir(parents=True)
    for split, size in SIZES.items():
        rows = []
        for number in range(size):
            path = folder / "audio" / f"{split}{number}.wav"
            write_audio(path, 0.1 * rng.standard_normal(int(rng.integers(12_000, 20_000))).astype(np.float32), RATE)
            text = TEXTS[number % len(TEXTS)]
            columns = {
                "text": text,
                "utt2phones": " ".join(text.replace(" ", "")),
                "utt2slots": f"B-word {text} E-word",
            }
            rows.append(CorpusUtterance(f"{split}{number}", f"{split}{number}", path, split, columns=columns))
        write_data_dir(rows, folder / split)
    return folder


def copied(data, place):
    """The same corpus elsewhere, with its audio."""
    shutil.copytree(data, place)
    for table in place.glob("*/wav.scp"):
        table.write_text(table.read_text().replace(f"{data}/", f"{place}/"))
    return place


def add_noise(paths):
    """Change samples, and nothing else."""
    for path in paths:
        wave = read_audio(path)
        write_audio(path, wave + 0.05 * np.random.default_rng(7).standard_normal(len(wave)).astype(np.float32), RATE)


class Upstream:
    """Projections of pieces of the waveform; counts its calls."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.maps = torch.randn(LAYERS, STRIDE, DIM, generator=generator)
        self.calls = 0

    def __call__(self, waveform, lengths):
        self.calls += 1
        frames = int(lengths.max()) // STRIDE
        cut = waveform[:, : frames * STRIDE].reshape(len(waveform), frames, STRIDE)
        # Piece by piece, so that not a bit depends on how many there are.
        layers = [(cut.unsqueeze(-1) * each).sum(dim=2) for each in self.maps]
        return EncoderOutput(layers, lengths // STRIDE)

    @property
    def source(self):
        return FeatureSource("pieces", "ab" * 32, RATE, LAYERS, DIM, STRIDE, STRIDE, self)


def job(name="asr", task="speech_recognition", task_settings=None, **settings):
    cls = registry.get("tasks", task)
    table = {"learning_rates": [1e-2], "steps": 6, "eval_every": 3, "batch_utterances": 4, "num_workers": 0}
    given = cls.Config.tiny() if task_settings is None else build(cls.Config, task_settings, "task")
    return Job(name, task, cls, given, build(Config, table | settings, "superb"))


def phones(**settings):
    table = {"column": "utt2phones", "vocabulary": "training", "projector_dim": 4}
    return job("pr", "phone_recognition", table, **({"accumulate": 2, "steps": 4, "eval_every": 2} | settings))


def train(jobs, data, out, upstream=None, log=None):
    said = (lambda line: None) if log is None else log.append
    evaluation = Evaluation((upstream or Upstream()).source, "pieces", data, 3, "cpu", said)
    return run_together(jobs if isinstance(jobs, list) else [jobs], evaluation, out)


def checkpoint(out, name):
    (path,) = (out / name).glob("heads-*/heads.pt")
    return torch.load(path, weights_only=True)


def assert_same_heads(ones, others):
    assert len(ones) == len(others) > 0
    for one, other in zip(ones, others, strict=True):
        assert one["dev"] == other["dev"]
        assert one["weights"].keys() == other["weights"].keys()
        assert [name for name, value in one["weights"].items() if not torch.equal(value, other["weights"][name])] == []
