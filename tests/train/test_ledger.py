"""What a run cost: counters that run over, machines that tell nothing, parts that add up."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from audiossl.train import ledger as module
from audiossl.train.ledger import Cost, Ledger, read_cost, write_cost


@pytest.fixture
def zones(tmp_path, monkeypatch):
    """Return a function that sets the microjoules of two packages; a sub-zone must not be counted twice."""
    monkeypatch.setattr(module, "_RAPL", tmp_path)

    def set_to(*values):
        for name, value in zip(("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"), (*values, 10**9), strict=True):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "energy_uj").write_text(f"{value}\n")
            (tmp_path / name / "max_energy_range_uj").write_text("5000000\n")

    return set_to


def test_energy_of_all_packages_and_over_the_end_of_a_counter(zones):
    zones(1_000_000, 4_000_000)
    ledger = Ledger()
    zones(1_500_000, 250_000)  # the second one passed 5 J
    assert ledger.cost().joules == pytest.approx(0.5 + 1.25)


def test_parts_add_up(zones, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    zones(0, 0)
    ledger = Ledger()
    ledger.go_on(asdict(Cost(3, 30, 7.5, 1 << 60, 2.0)))
    ledger.forwards += 4
    clock[0] += 2.25
    zones(1_000_000, 0)
    assert ledger.cost() == Cost(7, 30, 9.75, 1 << 60, 3.0)
    small = Ledger()
    small.go_on(asdict(Cost(0, 0, 1.0, 1, 1.0)))
    assert small.cost().peak_bytes > 1 << 20


def test_energy_is_unknown_if_a_part_is(zones, tmp_path):
    before = Ledger()  # no counter can be read yet
    zones(0, 0)
    assert before.cost().joules is None
    after = Ledger()
    assert after.cost().joules == 0
    after.go_on(asdict(Cost(0, 0, 1.0, 1, None)))
    assert after.cost().joules is None
    write_cost(tmp_path, after.cost())
    assert read_cost(tmp_path)["joules"] is None


def test_a_peak_is_that_of_its_own_job():
    if not (module._PROCESS / "clear_refs").is_file():
        pytest.skip("the kernel counts one peak")
    ledger = Ledger()
    block = np.ones(1 << 25)  # 256 MB
    large = ledger.cost().peak_bytes
    del block
    small = Ledger().cost().peak_bytes
    assert large - small > 200 << 20


def test_where_the_kernel_tells_nothing_the_peak_is_that_of_the_process(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PROCESS", tmp_path / "none")
    assert Ledger().cost().peak_bytes > 1 << 20


def test_a_gpu_is_told_apart_from_the_processor(zones, monkeypatch):
    zones(0, 0)
    told = {"joules": 100.0, "peak": 7}
    monkeypatch.setattr(module.gpu_cost, "reset_peak", lambda device: told.update(device=device))
    monkeypatch.setattr(module.gpu_cost, "peak_bytes", lambda _: told["peak"])
    monkeypatch.setattr(module.gpu_cost, "joules", lambda _: told["joules"])
    ledger = Ledger("cuda:1")
    assert told["device"] == "cuda:1"
    zones(9_000_000, 0)  # of the processor, which is not what computed
    told["joules"] = 130.0
    assert (ledger.cost().joules, ledger.cost().gpu_peak_bytes) == (30.0, 7)
    ledger.go_on(asdict(Cost(0, 0, 1.0, 1, 2.0, 9)))
    assert (ledger.cost().joules, ledger.cost().gpu_peak_bytes) == (32.0, 9)
    assert ledger.cost().row()["gpu_peak_bytes"] == 9
    told["joules"] = None
    assert ledger.cost().joules is None
    assert Ledger("cpu").cost().gpu_peak_bytes is None


def test_the_file_is_sound_or_absent(tmp_path):
    assert read_cost(tmp_path) is None
    write_cost(tmp_path, Cost(0, 0, 1.234, 5, 6.5))
    assert read_cost(tmp_path) == {"seconds": 1.23, "peak_bytes": 5, "joules": 6.5}
    assert [path.name for path in tmp_path.iterdir()] == ["cost.json"]
    (tmp_path / "cost.json").write_text("[]")
    with pytest.raises(ValueError, match=r"cost\.json: not a JSON object; remove it"):
        read_cost(tmp_path)
