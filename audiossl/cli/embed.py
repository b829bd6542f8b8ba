"""Extract embeddings of a data directory with a trained encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from audiossl.cli._printed import answer, say
from audiossl.cli.main import MisuseError


def main(
    source: Positional[str],
    data: Positional[Path],
    *,
    out: Path,
    crops: int | None = None,
    crop_duration: float | None = None,
    layer: int | None = None,
    seed: int = 0,
    batch_seconds: float = 200.0,
    num_workers: int = 2,
    max_bad_fraction: float = 0.01,
    allow_commands: bool = False,
    device: str = "auto",
    precision: Literal["fp32", "bf16"] = "fp32",
    overwrite: bool = False,
    json: bool = False,
) -> int:
    """Extract embeddings of every utterance of a data directory: of all of it, or of evenly spaced crops.

    Whole utterances are padded to batches of like lengths, which changes nothing. An encoder that has no embedding gives the mean over
    time of its last layer.

    Example: audiossl embed exp/simclr data/test --out exp/simclr/test --crops 10 --crop-duration 3.5

    Args:
        source: experiment, checkpoint, `s3prl:NAME`, `FILE.py:CLASS`, or `random:` and an experiment for random weights.
        data: data directory, or a folder of shards.
        out: folder for embeddings.npy, embeddings.ids, embeddings.json, selection.json and utt2spk.
        crops: embed so many crops of each utterance instead of all of it; `audiossl verify --crop-mean` says how they are averaged.
        crop_duration: seconds of each crop; shorter utterances are repeated.
        layer: layer to average over time, of an encoder without embeddings; 0 is the input of its first block (default: the last).
        seed: of random weights.
        batch_seconds: seconds of padded audio per batch.
        num_workers: processes that read audio.
        max_bad_fraction: share of the utterances that may be unusable; these are named and left out.
        allow_commands: run the programs that wav.scp names.
        device: auto, cpu, cuda or cuda:N.
        precision: fp32, or bf16, which is faster where the processor has it and changes cosines in the third decimal at most.
        overwrite: replace embeddings of another encoder, other data or other crops that `out` holds, or a matrix of your own.
        json: print what was done as JSON.
    """
    from audiossl.data.manifest import Manifest
    from audiossl.train.distributed import join_world
    from audiossl.verification.extract import ExtractConfig, extract, open_embedder, require_place
    from audiossl.verification.protocol import keep_selection, selection_of

    if (crops is None) != (crop_duration is None):
        raise MisuseError("audiossl embed: --crops and --crop-duration go together")
    config = ExtractConfig(crops, crop_duration, batch_seconds, num_workers, max_bad_fraction)
    manifest = Manifest.open(data, allow_commands=allow_commands)
    with join_world(device) as world:
        embedder = open_embedder(
            source, layer=layer, seed=seed, device=world.device, precision=precision, own_code=True
        )
        if embedder.what != "embeddings":
            say(f"{source} has no embedding of its own: these are {embedder.what}")
        require_place(out, manifest, embedder, config, overwrite=overwrite)
        selection = selection_of(source)
        count, bad = extract(manifest, embedder, out, config, log=say)
    keep_selection(selection, out)
    facts = {"embeddings": str(out), "utterances": count, "dim": embedder.dim, "what": embedder.what, "left_out": bad}
    shape = f"{embedder.dim}" if crops is None else f"{crops} x {embedder.dim}"
    answer(facts, f"{out}: {count} utterances, {shape} numbers each, {len(bad)} left out", json=json)
    return 0
