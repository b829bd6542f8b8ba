"""Speaker verification at the size of VoxCeleb1's three cleaned lists: scoring, normalisation, metrics, and their memory.

1,168,323 trials over 149,000 embeddings of 512 numbers, on disk as float32 and read for the first time within the time that is taken:
cosine scores with EER and minDCF; AS-norm against 5,994 speakers with the 300 best; and the metrics of ten million scores. Each part runs
in a process of its own, whose peak of resident memory (mapped files included) is reported, on as many threads as the process may
use. "loop" works as in released self-supervised toolkits: per trial two embeddings looked up by name, one torch product, its mean and
`item()`; "lean" is one `numpy.dot` per trial. Both are timed on a sample and scaled. Two ratios come of it: "alone" is the loop over
"pairs", the same step here; "end to end", which has the goal, adds to either side what both need and do with the same functions:
"prepare", which reads and normalises each embedding once, and "metrics", EER and minDCF of all scores. Who normalises one embedding
after another, or per trial, is slower than this loop. Results are compared with float64. Reading the list and the ids is timed
beside it. Trials come in random order, the worst case: in published lists those of one enrolment follow each other.

Example: python benchmarks/verification.py --check
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from _machine import add_check, describe, finish, matmul_gflops

if TYPE_CHECKING:
    from audiossl.verification.embeddings import Embeddings

GIGABYTE = 1e9
PARTS = ("cosine", "as_norm", "metrics")


@dataclass(frozen=True)
class Size:
    """What is scored. sampled: trials of the loop that it is compared with; queries: utterances of that for AS-norm."""

    trials: int = 1_168_323
    utterances: int = 149_000
    dim: int = 512
    speakers: int = 5_994
    top: int = 300
    scores: int = 10_000_000
    sampled: int = 20_000
    queries: int = 200


QUICK = Size(trials=20_000, utterances=2_000, dim=64, speakers=400, top=50, scores=100_000, sampled=2_000, queries=50)


def main() -> None:
    """Make the data, run each part in a fresh process, print seconds and peaks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to see that it works; its goals mean nothing"
    )
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    add_check(parser)
    options = parser.parse_args()
    size = QUICK if options.quick else Size()
    if options.part is not None:
        result = {"cosine": cosine_part, "as_norm": as_norm_part, "metrics": metrics_part}[options.part](
            options.folder, size
        )
        print(json.dumps(result))
        return
    print(f"{describe()}, {matmul_gflops():.0f} GFLOP/s")
    print("  ".join(f"{name} {value:,}" for name, value in asdict(size).items()))
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        make_data(Path(folder), size)
        for part in PARTS:
            words = [
                sys.executable,
                __file__,
                "--part",
                part,
                "--folder",
                folder,
                *(["--quick"] if options.quick else []),
            ]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            found[part] = json.loads(done.stdout)
            print(f"{part:<8}" + "  ".join(f"{name} {value:.4g}" for name, value in found[part].items()))
    finish(goals(found), check=options.check)


def goals(found: dict[str, dict[str, float]]) -> dict[str, bool]:
    """Judge what the parts measured."""
    cosine, norm, metrics = (found[part] for part in PARTS)
    met = {
        f"cosine, EER and minDCF: {cosine['seconds']:.2f} of 3 s": cosine["seconds"] <= 3,
        f"cosine, EER and minDCF: {cosine['ends']:.1f} of 10 times as fast as with the loop": cosine["ends"] >= 10,
        f"AS-norm: {norm['seconds']:.1f} of 60 s": norm["seconds"] <= 60,
        f"metrics of many scores: {metrics['seconds']:.2f} of 5 s": metrics["seconds"] <= 5,
    }
    for part, result in found.items():
        met[f"{part}: {result['gigabytes']:.2f} of 2 GB"] = result["gigabytes"] <= 2
        if "error" in result:
            met[f"{part}: off the loop by {result['error']:.1e} of 1e-6"] = result["error"] <= 1e-6
    return met


def make_data(folder: Path, size: Size) -> None:
    """Write embeddings of noise around a point per speaker, a cohort of speaker means, and a trial list with one target in two."""
    from audiossl.verification.embeddings import EmbeddingWriter

    rng = np.random.default_rng(0)
    each = 20
    with EmbeddingWriter(folder / "test", size.dim) as writer:
        for start in range(0, size.utterances, each):
            count = min(each, size.utterances - start)
            point = rng.standard_normal(size.dim, dtype=np.float32)
            noise = 4 * rng.standard_normal((count, size.dim), dtype=np.float32)
            writer.add([f"id{start // each:05}/video/{row:05}.wav" for row in range(count)], point + noise)
    with EmbeddingWriter(folder / "cohort", size.dim) as writer:
        rows = rng.standard_normal((size.speakers, size.dim), dtype=np.float32)
        writer.add([f"id{row:05}" for row in range(size.speakers)], rows)
    enrol = rng.integers(0, size.utterances, size.trials)
    beside = (enrol - enrol % each + rng.integers(0, each, size.trials)).clip(max=size.utterances - 1)
    test = np.where(rng.random(size.trials) < 0.5, beside, rng.integers(0, size.utterances, size.trials))
    same = enrol // each == test // each
    names = (folder / "test" / "embeddings.ids").read_text(encoding="utf-8").split()
    with (folder / "trials").open("w", encoding="utf-8") as file:
        file.writelines(f"{int(y)} {names[i]} {names[j]}\n" for y, i, j in zip(same, enrol, test, strict=True))


def cosine_part(folder: Path, size: Size) -> dict[str, float]:
    """Time reading the list, scoring it with its metrics, and a loop over a sample."""
    from audiossl.metrics._detection import detection_curve
    from audiossl.metrics.equal_error_rate import curve_eer
    from audiossl.metrics.min_dcf import curve_min_dcf
    from audiossl.verification._vectors import pair_scores, trial_rows, vectors_of
    from audiossl.verification.cosine import Cosine
    from audiossl.verification.embeddings import Embeddings
    from audiossl.verification.trials import read_trials

    start = time.perf_counter()
    trials = read_trials(folder / "trials")
    listed = time.perf_counter()
    embeddings = Embeddings.open(folder / "test")
    opened = time.perf_counter()
    vectors = vectors_of(embeddings, trial_rows(trials, embeddings), Cosine())
    prepared = time.perf_counter()
    scores = pair_scores(vectors, trials.enrol, trials.test)
    scored = time.perf_counter()
    curve = detection_curve(scores, trials.labels)
    eer, cost = curve_eer(curve), curve_min_dcf(curve)
    end = time.perf_counter()
    gigabytes = peak()  # before the loops bring torch
    sample = np.random.default_rng(1).integers(0, size.trials, size.sampled)
    pairs = [(trials.names[trials.enrol[row]], trials.names[trials.test[row]]) for row in sample]
    exact, loops = looped(embeddings, pairs)
    scale = size.trials / size.sampled
    loop, pairs_alone, both_need = loops["loop"] * scale, scored - prepared, prepared - opened + end - scored
    return {
        "seconds": end - opened, "list": listed - start, "ids": opened - listed, "prepare": prepared - opened, "pairs": pairs_alone, "metrics": end - scored,
        "loop": loop, "lean": loops["lean"] * scale, "alone": loop / pairs_alone, "ends": (loop + both_need) / (pairs_alone + both_need),
        "error": float(np.abs(scores[sample] - exact).max()), "eer": eer, "min_dcf": cost, "gigabytes": gigabytes,
    }  # fmt: skip


def looped(embeddings: Embeddings, pairs: list[tuple[str, str]]) -> tuple[np.ndarray, dict[str, float]]:
    """Score pairs of names one by one: float64 cosines, and the seconds of both loops."""
    import torch

    units = {}
    for name in {name for pair in pairs for name in pair}:
        row = embeddings.matrix[embeddings.rows([name])[0]].astype(np.float64)
        units[name] = row / np.linalg.norm(row)
    exact = np.array([units[a] @ units[b] for a, b in pairs])
    torch.set_num_threads(1)  # faster than two for so little work
    tensors = {name: torch.from_numpy(unit.astype(np.float32))[None] for name, unit in units.items()}
    start = time.perf_counter()
    published = [torch.mean(tensors[a] @ tensors[b].T, dim=(-2, -1)).item() for a, b in pairs]
    middle = time.perf_counter()
    rows = {name: tensor.numpy()[0] for name, tensor in tensors.items()}
    lean_start = time.perf_counter()
    lean = [float(np.dot(rows[a], rows[b])) for a, b in pairs]
    seconds = {"loop": middle - start, "lean": time.perf_counter() - lean_start}
    assert np.allclose(published, exact, atol=1e-5)
    assert np.allclose(lean, exact, atol=1e-5)
    return exact, seconds


def peak() -> float:
    """Most resident memory of this process so far, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / GIGABYTE


def as_norm_part(folder: Path, size: Size) -> dict[str, float]:
    """Time AS-norm of all trials and compare the statistics of some utterances with a full sort."""
    from audiossl.verification.cosine import Cosine
    from audiossl.verification.embeddings import Embeddings
    from audiossl.verification.system import Cohort, System
    from audiossl.verification.trials import read_trials

    trials = read_trials(folder / "trials")
    embeddings, cohort = Embeddings.open(folder / "test"), Embeddings.open(folder / "cohort")
    start = time.perf_counter()
    scores, statistics = System(embeddings, Cosine(), Cohort(cohort, size.top)).score(trials)
    seconds, gigabytes = time.perf_counter() - start, peak()
    assert statistics is not None
    assert len(scores) == size.trials
    crowd = np.asarray(cohort.matrix, dtype=np.float64)
    crowd /= np.linalg.norm(crowd, axis=1, keepdims=True)
    error = 0.0
    for name in np.random.default_rng(1).integers(0, len(trials.names), size.queries).tolist():
        query = embeddings.matrix[embeddings.rows([trials.names[name]])[0]].astype(np.float64)
        best = np.sort(crowd @ (query / np.linalg.norm(query)))[-size.top :]
        error = max(error, abs(statistics.mean[name] - best.mean()), abs(statistics.std[name] - best.std()))
    gflop = 2e-9 * len(trials.names) * size.speakers * size.dim
    return {"seconds": seconds, "error": error, "gflop": gflop, "gigabytes": gigabytes}


def metrics_part(_: Path, size: Size) -> dict[str, float]:
    """Time EER, minDCF, actDCF and Cllr of many scores."""
    from audiossl.verification.measure import MeasureConfig, measure

    rng = np.random.default_rng(0)
    labels = rng.random(size.scores) < 0.1
    scores = rng.standard_normal(size.scores, dtype=np.float32) + 3 * labels.astype(np.float32)
    start = time.perf_counter()
    found, _curve = measure(scores, labels, MeasureConfig(llr=True), generator=rng)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "gigabytes": peak(), "eer": found["eer"], "min_dcf": found["min_dcf"]}


if __name__ == "__main__":
    main()
