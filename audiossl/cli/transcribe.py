"""Transcribe recordings or data directories with a fine-tuned model."""

from __future__ import annotations

import json as json_module
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from audiossl.cli._printed import log, say
from audiossl.data.audio import AudioError, audio_info
from audiossl.data.kaldi import check_row, write_table
from audiossl.data.loader import LoaderConfig
from audiossl.data.manifest import Manifest
from audiossl.data.whole import FileList
from audiossl.diagnostics.results import add_result
from audiossl.files import require_new
from audiossl.interop.encoder import open_source

if TYPE_CHECKING:
    from audiossl.train.fine_tune import FineTune


def main(
    experiment: Annotated[str, tyro.conf.Positional],
    paths: Annotated[tuple[Path, ...], tyro.conf.Positional],
    *,
    out: Path | None = None,
    beam: int = 0,
    lm: Path | None = None,
    lexicon: Path | None = None,
    lm_weight: float | None = None,
    word_score: float | None = None,
    max_seconds: float = 60.0,
    batch_seconds: float = 60.0,
    num_workers: int = 1,
    device: str = "auto",
    overwrite: bool = False,
    allow_commands: bool = False,
    json: bool = False,
) -> int:
    """Transcribe recordings or data directories with a fine-tuned model.

    Prints `utterance text` lines; a data directory that holds the reference text is scored as well, and the scores are kept
    in the experiment's results.json.

    Example: audiossl transcribe exp/asr data/test recording.wav --beam 50 --lm lm.arpa --lexicon lexicon.txt

    Args:
        experiment: experiment of `audiossl finetune`.
        paths: audio files and data directories.
        out: write the lines there too, sorted, as a Kaldi text file.
        beam: hypotheses that beam search keeps; 0 reads greedily.
        lm: n-gram model, ARPA or KenLM's binary: of words with --lexicon, else of tokens; see `audiossl lm`. Needs the extra `lm`.
        lexicon: lines `word token token ...`: only these words are written. Needs the extra `lm`.
        lm_weight: of the decimal logarithm of the language model's probability (default: 2).
        word_score: added for each word, with --lexicon (default: -1).
        max_seconds: CTC hears longer recordings in overlapping windows of so many seconds, each normalised by itself where the encoder normalises;
            0: all recordings whole.
        batch_seconds: seconds of audio per batch.
        num_workers: processes that read audio.
        device: auto, cpu, cuda or cuda:N.
        overwrite: replace `out` if it is there already.
        allow_commands: run the programs that wav.scp names.
        json: print one JSON object with the texts and the scores.
    """
    from audiossl.train.distributed import join_world
    from audiossl.train.run_finetune import load_finetuned

    _check_places(paths, out, overwrite=overwrite)
    decoding = _Decoding(beam, lm, lexicon, lm_weight, word_score)
    if max_seconds and not 1 <= max_seconds < math.inf:
        raise ValueError(f"--max-seconds {max_seconds}: is no length of a window; give at least 1, or 0 for no windows")
    config = LoaderConfig(batch_seconds=batch_seconds, num_workers=num_workers)
    files = [path for path in paths if not path.is_dir()]
    manifests = [Manifest.open(path, allow_commands=allow_commands) for path in paths if path.is_dir()]
    _check_ids(files, manifests, out)
    with join_world(device) as world:
        module, tables = load_finetuned(experiment)
        _require_text(module.task, experiment, tables["task"]["name"])
        decoding.prepare(module.task, experiment)
        module.to(world.device)
        found = _transcribe(module, experiment, files, manifests, config, max_seconds)
    trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    try:
        if out is not None:
            write_table(out, found.texts.items())
        _keep(experiment, found, decoding, seed=tables["train"]["seed"], parameters=trained)
    finally:  # last, since whoever reads it may be gone, but also where the disk is full
        _show(found, json=json)
    return 1 if found.bad else 0


@dataclass(frozen=True)
class _Found:
    """Texts by utterance, scores by data directory, and recordings that each of those left out.

    bad: what is wrong with recordings that cannot be used and with directories that cannot be scored, a line each.
    """

    texts: dict[str, str] = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)

    def note(self, utterance: str, message: str) -> None:
        """Add a recording that cannot be used."""
        self.bad.append(message if utterance in message else f"{utterance}: {message}")


def _check_places(paths: tuple[Path, ...], out: Path | None, *, overwrite: bool) -> None:
    if not paths:
        raise ValueError("no recordings are given; add audio files or data directories")
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path}: no such file or directory; give audio files or data directories")
    if out is not None:
        require_new(out, overwrite=overwrite)


def _check_ids(files: list[Path], manifests: list[Manifest], out: Path | None) -> None:
    """Raise ValueError where `out` could not hold an id, or where two places have one, whose lines nobody could tell apart."""
    for path in files if out is not None else ():
        try:
            check_row(path, str(path), "")
        except ValueError as error:
            raise ValueError(
                f"{path}: its path is its id in --out, which must be UTF-8 without white space; rename it, or leave out --out"
            ) from error
    seen = {str(path) for path in files}
    for manifest in manifests:
        double = next((name for name in manifest.ids if name in seen), None)
        if double is not None:
            raise ValueError(
                f"{manifest.path}: has an utterance {double!r}, as another path has; transcribe them one after the other"
            )
        seen.update(manifest.ids)


def _require_text(task: Any, experiment: str, name: str) -> None:
    """Raise ValueError for a task whose predictions are embeddings, masks or other numbers."""
    if task.writes_text:
        return
    cure = (
        "`audiossl search` takes it"
        if hasattr(task, "embed_words")
        else "`audiossl embed` takes its encoder, `audiossl superb` scores the task"
    )
    raise ValueError(f"{experiment}: its task {name!r} writes no text; {cure}")


@dataclass(frozen=True)
class _Decoding:
    """How CTC is read; see `main`."""

    beam: int
    lm: Path | None
    lexicon: Path | None
    lm_weight: float | None
    word_score: float | None

    def __post_init__(self) -> None:
        if self.beam < 0:
            raise ValueError(f"--beam {self.beam} keeps no hypothesis; give at least 1, or 0 to read greedily")
        for path in (self.lm, self.lexicon):
            if path is not None and not path.is_file():
                raise ValueError(f"{path}: no such file; `audiossl lm` makes language models and lexicons")
        if (self.lm or self.lexicon) and not self.beam:
            raise ValueError("--lm and --lexicon are for beam search; add --beam, such as --beam 50")
        if self.lm_weight is not None and self.lm is None:
            raise ValueError(f"--lm_weight {self.lm_weight} has nothing to weigh; add --lm, or leave it out")
        if self.word_score is not None and self.lexicon is None:
            raise ValueError(
                f"--word_score {self.word_score} is for words of a lexicon; add --lexicon, or leave it out"
            )

    def prepare(self, task: Any, experiment: str) -> None:
        """Let the task read so; ValueError where it writes no text."""
        if not self.beam:
            return
        if not hasattr(task, "decoder"):
            raise ValueError(f"--beam {self.beam}: {experiment} writes no tokens; beam search is for the task ctc")
        if self.lm is None and self.lexicon is None:
            from audiossl.nn.beam_search import PrefixBeam

            task.decoder = PrefixBeam(task.vocabulary, beam=self.beam)
            return
        from audiossl.nn.lm_beam import LMBeam

        task.decoder = LMBeam(task.vocabulary, beam=self.beam, lm=self.lm, lexicon=self.lexicon, **self._scales())

    @property
    def label(self) -> str:
        """What the name of a score says of it."""
        parts = [f"beam {self.beam}"] * bool(self.beam) + [path.name for path in (self.lm, self.lexicon) if path]
        return f" ({', '.join(parts)})" if parts else ""

    def row(self) -> dict[str, Any]:
        """All of it that was in use, for the results."""
        files = {name: str(path) for name, path in (("lm", self.lm), ("lexicon", self.lexicon)) if path}
        return {"beam": self.beam, **files, **self._scales()} if self.beam else {}

    def _scales(self) -> dict[str, float]:
        """Those of the published decoding of wav2vec 2.0 base with a 4-gram where none are given."""
        scales = {}
        if self.lm:
            scales["lm_weight"] = 2.0 if self.lm_weight is None else self.lm_weight
        if self.lexicon:
            scales["word_score"] = -1.0 if self.word_score is None else self.word_score
        return scales


def _transcribe(
    module: FineTune,
    experiment: str,
    files: list[Path],
    manifests: list[Manifest],
    config: LoaderConfig,
    max_seconds: float,
) -> _Found:
    """Read audio files, then data directories, and score those that have the reference."""
    from audiossl.contracts import read_by
    from audiossl.units.reading import check_readable

    for manifest in manifests:
        check_readable(manifest, read_by(module.encoder), experiment, log=log)
    found = _Found()
    if files:
        _read_files(module, experiment, files, config, found, max_seconds)
    for manifest in manifests:
        _read_directory(module, manifest, config, found, max_seconds)
    return found


def _read_files(
    module: FineTune, experiment: str, files: list[Path], config: LoaderConfig, found: _Found, max_seconds: float
) -> None:
    from audiossl.contracts import read_by
    from audiossl.train.run_finetune import predict_all
    from audiossl.units.reading import with_units
    from audiossl.units.stream import StreamConfig

    sound = []
    for path in files:
        try:
            audio_info(path)
            sound.append(path)
        except AudioError as error:
            found.bad.append(str(error))
    recordings, reads = FileList(tuple(sound)), read_by(module.encoder)
    if reads is not None and sound:
        stream = StreamConfig(config.batch_seconds, config.num_workers, max_bad_fraction=1.0)
        device = str(next(module.parameters()).device)
        recordings = with_units(recordings, reads, experiment, stream, device=device, log=found.bad.append)
    if len(recordings):
        found.texts.update(predict_all(module, recordings, config, on_bad=found.note, max_seconds=max_seconds))


def _read_directory(
    module: FineTune, manifest: Manifest, config: LoaderConfig, found: _Found, max_seconds: float
) -> None:
    from audiossl.train.run_finetune import predict_all

    before = len(found.bad)
    own = dict(sorted(predict_all(module, manifest, config, on_bad=found.note, max_seconds=max_seconds)))
    found.texts.update(own)
    found.left_out[str(manifest.path)] = len(found.bad) - before
    # Where nothing was read `bad` says what each recording lacks.
    missing = [name for name in module.task.needs if not (manifest.path / name).is_file()]
    if own and missing:
        log(f"{manifest.path}: has no {' and '.join(missing)}, so it is not scored")
    elif own:
        try:
            found.scores[str(manifest.path)] = module.task.evaluate(own, manifest)
        except ValueError as error:
            found.bad.append(f"{manifest.path}: is not scored: {error}")


def _show(found: _Found, *, json: bool) -> None:
    from audiossl.superb.score import unit_of

    if json:
        print(json_module.dumps({"texts": found.texts, "scores": found.scores, "bad": found.bad}, ensure_ascii=False))
    else:
        for utterance, text in found.texts.items():
            print(f"{utterance} {text}")
        for place, values in found.scores.items():
            told = (f"{name} {value:.2f} {unit_of(name)}".strip() for name, value in values.items())
            log(f"{place}: " + ", ".join(told))
    for line in found.bad:
        say(line)


def _keep(experiment: str, found: _Found, decoding: _Decoding, *, seed: int, parameters: int) -> None:
    """Put the scores into the experiment's results, named like `WER test`, with what else is said of them; a row that says the same is replaced."""
    from audiossl.superb.score import unit_of

    folder = open_source(experiment)[0].parent.parent
    try:
        for place, values in found.scores.items():
            for name, value in values.items():
                shown = name.upper() if name in {"wer", "cer"} else name
                said = {"seed": seed, "data": place, "left_out": found.left_out[place], "parameters": parameters}
                said |= _spent(folder) | decoding.row()
                row = f"{shown} {Path(place).resolve().name}{decoding.label}"
                add_result(folder, row, value, unit_of(name), same=[*said, "train_seconds", "train_joules"], **said)
    except OSError as error:
        say(f"{folder}: the scores are not kept: {error.strerror}")


def _spent(folder: Path) -> dict[str, Any]:
    """Return what training the model took, where its experiment noted it; the encoder's pretraining is not in it."""
    from audiossl.train.ledger import read_cost

    cost = read_cost(folder)
    return {} if cost is None else {"train_seconds": cost["seconds"], "train_joules": cost["joules"]}
