"""A tiny model trained by the real loop; run alone or under torchrun. Usage: toy_run.py EXPERIMENT ACCUMULATE STEPS [resume] [kill-at-STEP] [clip-each] [norm]."""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from audiossl.contracts import StepOutput
from audiossl.train.distributed import join_world, leave
from audiossl.train.loop import TrainConfig, train
from audiossl.train.optim import OptimConfig


class Toy(nn.Module):
    """Regression with dropout, batches of unequal sizes, and a counter that only after_step moves."""

    def __init__(self, kill_at=None, *, norm=False):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 16), nn.Dropout(0.3), nn.Tanh(), nn.Linear(16, 1))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.kill_at = kill_at
        if norm:
            self.norm = nn.BatchNorm1d(5, affine=False)

    def after_step(self, step):
        self.steps.fill_(step)
        if step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def forward(self, batch):
        if hasattr(self, "norm"):
            self.norm(batch["waveform"])
        error = (self.net(batch["waveform"]) - batch["waveform"].sum(1, keepdim=True)).square()
        count = torch.tensor(float(len(error)))
        return StepOutput(error.sum(), count, {"absolute_error": (error.detach().sqrt().sum(), count)})


def stream(positions):
    for position in positions:
        generator = torch.Generator().manual_seed(position)
        size = 2 + position % 3
        yield {
            "waveform": torch.randn(size, 5, generator=generator),
            "waveform_lengths": torch.full((size,), 5),
        }


def main():
    experiment, accumulate, steps, *rest = sys.argv[1:]
    kill_at = next((int(word.removeprefix("kill-at-")) for word in rest if word.startswith("kill-at-")), None)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = Toy(kill_at, norm="norm" in rest)
    clipping = {"clip": "parameter", "clip_norm": 0.1} if "clip-each" in rest else {}
    config = TrainConfig(
        max_steps=int(steps),
        accumulate=int(accumulate),
        precision="fp32",
        save_every=3,
        log_every=5,
        tensorboard=False,
        **clipping,
    )
    with join_world("cpu") as world:
        Path(experiment).mkdir(parents=True, exist_ok=True)
        train(
            module,
            stream,
            experiment=Path(experiment),
            config=config,
            optim=OptimConfig(peak_lr=0.01, warmup_steps=4),
            world=world,
            sample_rate=16000,
            evaluate=(lambda module, _say: {"score": float(module.net[0].weight.sum())}),
            better=("score", "min"),
            resume="resume" in rest,
        )
        if "norm" in rest:
            Path(experiment, f"norm{world.rank}").write_text(json.dumps(module.norm.running_mean.tolist()))


if __name__ == "__main__":
    main()
    leave(0)
