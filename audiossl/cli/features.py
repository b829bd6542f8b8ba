"""Write the frame features of data directories, a NumPy file for each utterance."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from audiossl.cli._device import chosen_device
from audiossl.cli._printed import answer, log
from audiossl.cli.main import MisuseError
from audiossl.files import require_folder


def main(
    source: Positional[str],
    data: Positional[tuple[Path, ...]],
    *,
    out: Path,
    layer: Annotated[int | Literal["all"] | None, arg(metavar="N|all")] = None,
    dtype: Literal["float32", "float16"] = "float32",
    seed: int = 0,
    batch_seconds: float = 100.0,
    num_workers: int = 2,
    max_bad_fraction: float = 0.01,
    allow_commands: bool = False,
    device: str = "auto",
    overwrite: bool = False,
    json: bool = False,
) -> int:
    """Write the frame features of data directories: OUT/UTTERANCE.npy, (frame, dim), or (layer, frame, dim) of all layers.

    Utterances of like lengths share a batch, which changes nothing. A run that was stopped goes on where it was when it is called again.

    Example: audiossl features exp/hubert data/train data/dev --out exp/hubert/l6 --layer 6

    Args:
        source: experiment, checkpoint, `transformers:DIR`, `s3prl:NAME`, `FILE.py:CLASS`, `fbank`, `fbank+deltas`, `fbank+deltas+cmvn`, `mfcc`, or `random:` and an experiment or recipe.
        data: data directories, or folders of shards.
        out: folder for a file per utterance, feats.scp and frames.json.
        layer: the block, counted from 1, whose output is written; 0 is the input of the first; all: each of them (default: the last).
        dtype: of the numbers in the files.
        seed: of random weights.
        batch_seconds: seconds of padded audio per batch.
        num_workers: processes that read audio.
        max_bad_fraction: share of the utterances that may be unusable; these are named and left out.
        allow_commands: run the programs that wav.scp names.
        device: auto, cpu, cuda or cuda:N.
        overwrite: make all again, and remove first all frames that `out` holds.
        json: print what was written as JSON.
    """
    from audiossl.data.manifest import Manifest
    from audiossl.diagnostics.frame_files import FramesConfig, write_frames
    from audiossl.diagnostics.sources import open_features
    from audiossl.units.reading import check_readable

    if not data:
        raise MisuseError("audiossl features: no data directory is given; name at least one")
    require_folder(out)
    config = FramesConfig(layer == "all", dtype, batch_seconds, num_workers, max_bad_fraction)
    manifests = [Manifest.open(folder, allow_commands=allow_commands) for folder in data]
    number, chosen = layer if isinstance(layer, int) else None, chosen_device(device)
    features = open_features(source, seed=seed, device=chosen, train=manifests[0], layer=number)
    for manifest in manifests:
        check_readable(manifest, features.reads, source, log=log)
    card = write_frames(manifests, features, out, config, overwrite=overwrite, log=log)
    what = f"{card['layers']} layers" if layer == "all" else f"layer {card['layer']}"
    said = f"{out}: {card['utterances']} utterances, {what} of {card['dim']} numbers at {card['rate']:g} Hz, {len(card['left_out'])} left out"
    answer({"frames": str(out), **card}, said, json=json)
    return 0
