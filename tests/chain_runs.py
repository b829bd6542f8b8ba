"""What the tests of the whole chain share: a synthetic corpus and a recipe that trains in seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np

from audiossl.data.audio import write_audio
from audiossl.data.writer import CorpusUtterance, write_data_dir

RATE = 16_000
HERTZ = {"A": 300.0, "I": 2500.0, "S": 5000.0, "U": 700.0}
ENCODER = """
[encoder]
name = "fbank"
num_layers = 2
dim = 32
ffn_dim = 64
num_heads = 4
position_kernel = 16
position_groups = 4
conv_dim = 16
layer_drop = 0.2
"""
UNITS = """
[units]
name = "km"
clusters = 8
num_workers = 0
batch_seconds = 10.0
"""
RECIPE = (
    ENCODER
    + UNITS
    + """
[objective]
name = "hubert"
labels = ["km"]
crop_duration = 0.5
mask_length = 3
same_count = false
final_dim = 8

[data]
batch_seconds = 2.0
crop_duration = 0.5
num_workers = 0

[optim]
peak_lr = 1e-3
warmup_steps = 2

[train]
max_steps = 6
precision = "fp32"
log_every = 2
save_every = 3
tensorboard = false
"""
)


def make_data(folder, count=12, *, seed=0, seconds=(3, 9)):
    """Write `folder/data`: utterances of two to four letters, each a tenth of a second or so of its own tone; returns its path."""
    rng = np.random.default_rng(seed)
    rows = []
    (folder / "audio").mkdir(parents=True)
    for number in range(count):
        letters = [str(rng.choice(list(HERTZ))) for _ in range(rng.integers(*seconds))]
        times = np.arange(RATE // 10) / RATE
        tones = [0.2 * np.sin(2 * np.pi * HERTZ[letter] * times) for letter in letters]
        waveform = np.concatenate(tones) + 0.01 * rng.standard_normal(len(letters) * RATE // 10)
        path = folder / "audio" / f"{number:03}.wav"
        write_audio(path, waveform.astype(np.float32), RATE)
        phones = [(0.1 * place, 0.1, letter) for place, letter in enumerate(letters)]
        name = f"s{number % 2}-{number:03}"
        columns = {"text": "".join(letters), "utt2keyword": letters[0]}
        rows.append(CorpusUtterance(name, name, path, f"s{number % 2}", columns=columns, phones=phones))
    write_data_dir(rows, folder / "data")
    return folder / "data"


def write_recipe(folder, text=RECIPE):
    path = folder / "tiny.toml"
    path.write_text(text)
    return path


def start(*words, processes=1, **options):
    """Start the command as a process of its own, or as several under torchrun; options: of `Popen`."""
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    module = [*(torchrun if processes > 1 else []), "audiossl"]
    return subprocess.Popen(
        [sys.executable, "-m", *module, *map(str, words)],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def finish(process):
    """Wait for a process; returns (status, stderr)."""
    _, err = process.communicate(timeout=300)
    return process.returncode, err


def losses(experiment, kind="train"):
    """Return (step, loss) of every line of metrics.jsonl."""
    rows = [json.loads(line) for line in (experiment / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows if row["kind"] == kind]
