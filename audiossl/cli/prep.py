"""Prepare a corpus: write data directories for it."""

from __future__ import annotations

import ast
import inspect
import json as json_module
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import tyro

from audiossl import registry
from audiossl.cli._printed import answer
from audiossl.cli.main import MisuseError
from audiossl.config import Tables, build, to_table
from audiossl.data.kaldi import UTT2DUR, WAV_SCP, read_table, write_table
from audiossl.data.writer import new_directory


def main(
    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="CORPUS")] = None,
    *,
    corpus: Path | None = None,
    out: Path | None = None,
    fake: Path | None = None,
    listing: Annotated[bool, tyro.conf.arg(name="list")] = False,
    json: bool = False,
    overrides: Tables | None = None,
) -> None:
    """Prepare a corpus: write one data directory per split under --out, or nothing at all.

    Example: audiossl prep free_spoken_digits --corpus free-spoken-digit-dataset --out data/digits --prep.passes 2

    Args:
        name: a corpus, as shown by --list.
        corpus: the folder it was unpacked to; none for `mini`, which is synthesised.
        out: the folder to write; it must not exist yet.
        fake: write a tiny imitation of the corpus' published layout into this folder, to try a recipe without the corpus.
        listing: show the corpora that can be prepared; of CORPUS what it reads and writes, and its options `--prep.KEY`.
        json: print as JSON what was written, or the list.
    """
    if listing:
        _show_corpora(as_json=json) if name is None else _show_corpus(name, as_json=json)
        return
    if name is not None and fake is not None:
        if corpus is not None or out is not None:
            raise MisuseError("audiossl prep: --fake only writes an imitation; leave out --corpus and --out")
        if json or overrides:
            ignored = "--json" if json else f"--{next(iter(overrides or {}))}.*"
            raise MisuseError(f"audiossl prep: --fake always writes the same, and says nothing; leave out {ignored}")
        _imitate(name, fake.absolute())
        return
    if name is None or out is None:
        raise MisuseError(
            "audiossl prep: write `audiossl prep CORPUS --out DIR`; `audiossl prep --list` shows the corpora"
        )
    written = _prepare(name, corpus, out, overrides or {})
    rows = [{"path": str(path), "utterances": count, "hours": round(hours, 4)} for path, count, hours in written]
    answer({"written": rows}, json=json)
    for row in () if json else rows:
        print(f"{row['path']}: {row['utterances']} utterances, {row['hours']:.2f} h")


def _imitate(name: str, folder: Path) -> None:
    with new_directory(folder) as partial:
        registry.get("data_prep", name).fake(partial)
        if not any(partial.iterdir()):
            raise ValueError(
                f"--fake: {name} has no published layout to imitate; run `audiossl prep {name} --out DIR`, which needs no corpus"
            )


def _show_corpora(*, as_json: bool) -> None:
    corpora = []
    for name in registry.names("data_prep"):
        source = (registry.folder("data_prep") / f"{name}.py").read_text(encoding="utf-8")
        description = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
        corpora.append({"name": name, "description": description})
    lines = (f"{corpus['name']:<24} {corpus['description']}" for corpus in corpora)
    answer({"corpora": corpora}, "\n".join(lines), json=as_json)


def _show_corpus(name: str, *, as_json: bool) -> None:
    module = registry.get("data_prep", name)
    config = getattr(module, "Config", None)
    options = dict.fromkeys(field.name for field in fields(config)) | to_table(config()) if config else {}
    if as_json:
        print(json_module.dumps({"name": name, "description": module.__doc__, "options": options}))
        return
    print((module.__doc__ or "").strip())
    if options:
        print("\nOptions and their defaults:")
        for key, value in options.items():
            print(f"  --prep.{key:<20} {json_module.dumps(value, ensure_ascii=False)}")
        print(f"\n{inspect.getdoc(config)}")


def _prepare(name: str, corpus: Path | None, out: Path, overrides: Tables) -> list[tuple[Path, int, float]]:
    module = registry.get("data_prep", name)
    config = _config(module, name, overrides)
    out = out.absolute()
    with new_directory(out) as partial:
        module.prepare(corpus, partial, *config)
        tables = sorted(partial.rglob(WAV_SCP))
        for table in tables:
            if _relocate(
                table, partial, out
            ):  # what was recorded here may also be named by columns: the parts of a mixture
                for column in sorted(table.parent.glob("utt2*")):
                    _relocate(column, partial, out)
    folders = [out / table.parent.relative_to(partial) for table in tables]
    return [(folder, *_size(folder)) for folder in folders]


def _config(module: Any, name: str, overrides: Tables) -> tuple[Any, ...]:
    """Return the corpus' configuration as the last argument of `prepare`: nothing where it has no `Config`."""
    for section in overrides:
        if section != "prep":
            raise ValueError(f"--{section}.*: {name} takes options as --prep.key value only")
    values = overrides.get("prep", {})
    if not hasattr(module, "Config"):
        if values:
            raise ValueError(f"--prep.{next(iter(values))}: {name} has no options")
        return ()
    return (build(module.Config, values, "prep"),)


def _relocate(table: Path, partial: Path, out: Path) -> bool:
    """Make the files of a table that lie under `partial` say where they will be once it is renamed; returns whether there are any."""
    inside = f"{partial}/"
    rows = [(key, value) for _, key, value in read_table(table)]
    if not any(value.startswith(inside) for _, value in rows):
        return False
    write_table(table, ((key, f"{out}/{v.removeprefix(inside)}" if v.startswith(inside) else v) for key, v in rows))
    return True


def _size(folder: Path) -> tuple[int, float]:
    """Number of utterances, and hours."""
    durations = [float(value) for _, _, value in read_table(folder / UTT2DUR)]
    return len(durations), sum(durations) / 3600.0
