"""Make a trial list for speaker verification from a data directory."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from audiossl.cli._printed import answer
from audiossl.cli.main import MisuseError


def main(
    data: Positional[Path],
    *,
    out: Path,
    random: int | None = None,
    seed: int | None = None,
    different: str | None = None,
    overwrite: bool = False,
    json: bool = False,
) -> int:
    """Make a trial list from a data directory with utt2spk: all pairs of its utterances, or a balanced random sample.

    Writes `enrol test target|nontarget` lines. A pair is unordered and comes once.

    Example: audiossl trials data/keywords_test --out data/keywords_test/trials --different utt2keyword

    Args:
        data: the data directory.
        out: the list to write.
        random: draw so many trials, half of them targets, instead of writing all pairs.
        seed: what is drawn depends on it alone (default: 0).
        different: only pairs of which this column differs, such as utt2keyword: then no two utterances say the same word.
        overwrite: replace another list that `out` holds.
        json: print the numbers as JSON.
    """
    import numpy as np

    from audiossl.data.manifest import Manifest
    from audiossl.files import require_same, whole_file
    from audiossl.verification.make_trials import make_trials

    if seed is not None and random is None:
        raise MisuseError("audiossl trials: --seed goes with --random; all pairs are not drawn")
    rng = np.random.default_rng(seed or 0)
    with whole_file(out) as partial:
        target, nontarget = make_trials(Manifest.open(data), partial, different=different, random=random, rng=rng)
        if not overwrite:
            require_same(out, partial)
    facts = {"trials": str(out), "target": target, "nontarget": nontarget}
    answer(facts, f"{out}: {target} target and {nontarget} non-target trials", json=json)
    return 0
