"""Check, mend, cut, join and augment data directories; pack them into shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tyro.conf import Positional

from audiossl.cli._printed import answer, log
from audiossl.cli.main import MisuseError


def validate(
    directory: Positional[Path], *, check_audio: bool = True, allow_commands: bool = False, json: bool = False
) -> int:
    """Name every fault of a data directory, as `FILE:LINE: what is wrong; cure`; exit 0 only if there is none.

    Line 0 stands for a file as a whole.

    Example: audiossl data validate data/train

    Args:
        directory: the data directory.
        check_audio: decode every utterance, which finds silence, NaN and damage behind a sound header; without it only headers are read.
        allow_commands: programs (`cmd |`) in wav.scp are no fault, and are run to check their audio.
        json: print the faults as JSON.
    """
    from audiossl.data.edit import refuse_shards
    from audiossl.data.validate import faults

    refuse_shards(directory)
    found = 0
    listed: list[dict[str, Any]] = []
    for fault in faults(directory, allow_commands=allow_commands, check_audio=check_audio):
        found += 1
        if json:
            listed.append({"path": str(fault.path), "line": fault.line, "what": fault.what, "cure": fault.cure})
        else:
            print(fault)
    answer({"ok": not found, "samples_checked": check_audio, "faults": listed}, json=json)
    unseen = "" if check_audio else "; of the audio only headers were read"
    log(f"{directory}: {f'faults: {found}' if found else 'sound'}{unseen}")
    return 1 if found else 0


def fix(
    directory: Positional[Path], *, check_audio: bool = True, allow_commands: bool = False, json: bool = False
) -> int:
    """Mend a data directory in place: order, doubles, lines and utterances that do not fit; originals go to .backup/.

    Exit status 1 if faults remain that only you can mend; they are printed as `audiossl data validate` does.

    Example: audiossl data fix data/train

    Args:
        directory: the data directory.
        check_audio: decode every utterance, and leave out what cannot be decoded or is silent too.
        allow_commands: programs (`cmd |`) in wav.scp are no fault, and are run to check their audio.
        json: print what was done, and what faults remain, as JSON.
    """
    from audiossl.data.edit import refuse_shards
    from audiossl.data.fix import fix as mend
    from audiossl.data.validate import faults

    refuse_shards(directory)
    done = mend(directory, allow_commands=allow_commands, check_audio=check_audio)
    left = [str(fault) for fault in faults(directory, allow_commands=allow_commands)]
    spoken = "\n".join([*(done or ["nothing to mend"]), *left])
    answer({"ok": not left, "done": done, "faults": left}, spoken, json=json)
    return 1 if left else 0


def subset(
    source: Positional[Path],
    out: Positional[Path],
    *,
    list_file: Path | None = None,
    first: int | None = None,
    part: str | None = None,
    random: int | None = None,
    per_speaker: int | None = None,
    speakers: int | None = None,
    max_seconds: float | None = None,
    seed: int = 0,
    allow_commands: bool = False,
    json: bool = False,
) -> int:
    """Write some utterances of a data directory as a new one, with every file that it holds.

    Example: audiossl data subset data/train data/train_10min --max-seconds 600

    Args:
        source: the data directory.
        out: the new data directory; must not exist.
        list_file: the utterances whose ids begin the lines of this file.
        first: the first N utterances.
        part: K/N, the K-th of N parts of equal size, of which together nothing is lost.
        random: N utterances, drawn.
        per_speaker: N utterances of each speaker, drawn; all where a speaker has fewer.
        speakers: all utterances of N speakers, who are drawn.
        max_seconds: utterances in random order up to this many seconds.
        seed: what is drawn depends on it alone.
        allow_commands: run the programs (`cmd |`) that wav.scp names where durations need it.
        json: print what was written as JSON.
    """
    from audiossl.data import edit
    from audiossl.data.manifest import Manifest

    asked = [item is not None for item in (list_file, first, part, random, per_speaker, speakers, max_seconds)]
    if sum(asked) != 1:
        raise MisuseError(
            "audiossl data subset: give exactly one of --list-file, --first, --part, --random, --per-speaker, --speakers, --max-seconds"
        )
    manifest = Manifest.open(source, allow_commands=allow_commands)
    if list_file is not None:
        if not list_file.is_file():
            raise ValueError(f"{list_file}: no such file; correct --list-file")
        indices = edit.listed(manifest, list_file)
    elif first is not None:
        indices = edit.first(manifest, first)
    elif part is not None:
        indices = edit.part(manifest, part)
    elif random is not None:
        indices = edit.drawn(manifest, random, seed)
    elif per_speaker is not None:
        indices = edit.per_speaker(manifest, per_speaker, seed)
    elif speakers is not None:
        indices = edit.of_speakers(manifest, speakers, seed)
    else:
        assert max_seconds is not None
        indices = edit.seconds_of(manifest, max_seconds, seed)
    edit.subset(source, indices, out, allow_commands=allow_commands)
    if json:
        seconds = float(manifest.durations[indices].sum())
        answer({"path": str(out), "utterances": len(indices), "hours": seconds / 3600.0}, json=json)
    log(f"{out}: {len(indices)} utterances")
    return 0


def combine(out: Positional[Path], sources: Positional[tuple[Path, ...]], *, allow_commands: bool = False) -> int:
    """Write several data directories as a new one; their utterances must be disjoint.

    What cannot be carried over, such as a text that only some have, is said on stderr.

    Example: audiossl data combine data/train_960 data/train-clean-100 data/train-clean-360 data/train-other-500

    Args:
        out: the new data directory; must not exist.
        sources: the data directories.
        allow_commands: run the programs (`cmd |`) that wav.scp names where durations need it.
    """
    from audiossl.data.edit import combine as join

    for line in join(sources, out, allow_commands=allow_commands):
        log(line)
    return 0


def augment(
    source: Positional[Path],
    out: Positional[Path],
    *,
    sample_rate: int = 16_000,
    seed: int = 0,
    prefix: str = "",
    allow_commands: bool = False,
    overrides: dict[str, Any] | None = None,
) -> int:
    """Write an augmented copy of a data directory: `--augment.key value` for each key of a recipe's `[data.augment]`.

    For a noisy test set, or to look at what training hears; in training itself `--data.augment.key` draws anew in every epoch. Units, which are
    aligned with the recording, want copies at other speeds: `--prefix sp0.9- --augment.speed_probability 1 --augment.speed_factors "[0.9]"`, then
    `audiossl data combine` and units of all.

    Example: audiossl data augment data/test data/test_5dB --augment.noise_probability 1 --augment.noise_dirs '["data/noise"]'
    --augment.noise_snr '[[5, 5]]'

    Args:
        source: the data directory.
        out: the new data directory, with its audio; must not exist.
        sample_rate: of the copies, Hz.
        seed: what is drawn depends on it alone.
        prefix: of the ids of utterances and speakers, so that copies can be combined.
        allow_commands: run the programs (`cmd |`) that wav.scp names.
    """
    from audiossl.config import build
    from audiossl.data.augment import AugmentConfig
    from audiossl.data.augmented import augment_directory
    from audiossl.data.manifest import Manifest

    tables = dict(overrides or {})
    config = build(AugmentConfig, tables.pop("augment", {}), "augment")
    if tables:
        raise MisuseError(
            f"audiossl data augment: unknown --{next(iter(tables))}.…; its options are --augment.key value"
        )
    if sample_rate < 1:
        raise ValueError(f"--sample-rate {sample_rate}: give a positive number of Hz")
    for line in augment_directory(
        source, out, config, seed=seed, sample_rate=sample_rate, prefix=prefix, allow_commands=allow_commands
    ):
        log(line)
    log(f"{out}: {len(Manifest.open(out))} utterances")
    return 0


def info(directory: Positional[Path], *, allow_commands: bool = False, json: bool = False) -> int:
    """Say how many utterances, hours and speakers a data directory holds, how long they are, and which columns there are.

    Example: audiossl data info data/train

    Args:
        directory: the data directory, or a folder of shards.
        allow_commands: run the programs (`cmd |`) that wav.scp names where durations need it.
        json: print the figures as JSON.
    """
    import numpy as np

    from audiossl.data.manifest import Manifest

    manifest = Manifest.open(directory, allow_commands=allow_commands)
    columns = manifest.column_names()
    durations = np.asarray(manifest.durations)
    names = ("min", "p10", "median", "p90", "max")
    quantiles = np.quantile(durations, (0.0, 0.1, 0.5, 0.9, 1.0)) if len(manifest) else np.zeros(5)
    facts: dict[str, Any] = {
        "path": str(directory),
        "utterances": len(manifest),
        "hours": float(durations.sum()) / 3600.0,
        "speakers": len(set(manifest.column("utt2spk"))) if "utt2spk" in columns else None,
        "seconds": dict(zip(names, map(float, quantiles), strict=True)),
        "columns": columns,
    }
    lines = (
        f"utterances  {facts['utterances']}",
        f"hours       {facts['hours']:.3f}",
        f"speakers    {'not known: no utt2spk' if facts['speakers'] is None else facts['speakers']}",
        f"seconds     {', '.join(f'{name} {value:.2f}' for name, value in facts['seconds'].items())}",
        f"columns     {' '.join(columns) or 'none'}",
    )
    answer(facts, "\n".join(lines), json=json)
    return 0


def shard(
    source: Positional[Path], out: Positional[Path], *, max_bytes: int = 1 << 30, allow_commands: bool = False
) -> int:
    """Pack a data directory with its audio into tar files in WebDataset layout, for file systems that dislike small files.

    Example: audiossl data shard data/train data/train_shards

    Args:
        source: the data directory.
        out: the new folder of shards; must not exist. It is read like a data directory.
        max_bytes: size of a shard.
        allow_commands: run the programs (`cmd |`) that wav.scp names.
    """
    from audiossl.data.manifest import Manifest
    from audiossl.data.shards import write_shards

    manifest = Manifest.open(source, allow_commands=allow_commands)
    write_shards(manifest, out, max_bytes=max_bytes)
    log(f"{out}: {len(manifest)} utterances in {len(list(out.glob('*.tar')))} tar files")
    return 0


SUBVERBS = {
    "validate": validate,
    "fix": fix,
    "subset": subset,
    "combine": combine,
    "augment": augment,
    "info": info,
    "shard": shard,
}
