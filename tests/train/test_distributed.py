"""Several processes: how long they wait for one another, and which device each of them takes."""

import os
import subprocess
import sys

import pytest
import torch

from audiossl.train.distributed import join_world

PATIENT = """
import time
from datetime import timedelta
from functools import partial

import torch

from audiossl.train.distributed import join_world, leave

torch.distributed.init_process_group = partial(torch.distributed.init_process_group, timeout=timedelta(seconds=3))
with join_world("cpu") as world:
    if world.main:
        time.sleep(5)
    world.barrier()
    assert world.gather([world.rank]) == [0, 1]
leave(0)
"""


@pytest.mark.slow
def test_processes_wait_for_the_main_one_longer_than_for_a_sum(tmp_path):
    script = tmp_path / "patient.py"
    script.write_text(PATIENT)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(start, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    ("device", "local", "message"),
    [
        ("cuda:3", (0, 1), "this machine shows 1 GPU(s); give a number below 1"),
        ("cuda", (1, 2), "this machine shows 1 GPU(s); start no more than 1 processes on it"),
        ("cuda:0", (1, 2), "2 processes would share this GPU; use --device cuda, one for each"),
    ],
)
def test_a_gpu_that_is_not_there_or_is_shared_is_refused(monkeypatch, device, local, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in zip(("LOCAL_RANK", "LOCAL_WORLD_SIZE"), local, strict=True):
        monkeypatch.setenv(name, str(value))
    with pytest.raises(ValueError, match="^--device cuda") as error, join_world(device):
        pass
    assert message in str(error.value)
