"""Score frozen encoders by the protocol of SUPERB: one task, several, all of them, and the table."""

from __future__ import annotations

import traceback
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from audiossl.cli._device import chosen_device
from audiossl.cli._printed import answer, log
from audiossl.cli.main import MisuseError
from audiossl.superb.recipes import in_manifest, recipe, task_names, title

SEED = 1337
"""Of SUPERB's published code."""
_OUT = Path("exp/superb")

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from audiossl.superb.job import Evaluation, Job
    from audiossl.superb.score import Score
    from audiossl.superb.table import Table


def list_tasks(*, json: bool = False) -> int:
    """List the tasks that have a recipe, with the settings of the protocol.

    Example: audiossl superb list

    Args:
        json: print the settings as JSON.
    """
    recipes = {name: recipe(name) for name in task_names()}
    lines = []
    for name, tables in recipes.items():
        lines.append(f"{name:<4} {title(name)}")
        for section, table in tables.items():
            lines.append(f"     [{section}] {', '.join(f'{key} {_setting(value)}' for key, value in table.items())}")
    facts = {name: {"title": title(name), **tables} for name, tables in recipes.items()}
    answer(facts, "\n".join(lines), json=json)
    return 0


def run_all(
    *,
    upstream: Annotated[tuple[str, ...], arg(metavar="UPSTREAM [UPSTREAM ...]")],
    data: Path,
    out: Path = _OUT,
    seed: int = SEED,
    device: str = "auto",
    json: bool = False,
    overrides: dict[str, Any] | None = None,
) -> int:
    """Score upstreams on every task whose directories are there, and write the table; finished scores are kept.

    Tasks of one folder (a link: `asr` -> `pr`) share the forwards of the upstream. `--superb.steps 1000` goes to every task that has steps,
    `--superb.ks.steps 1000` to one.

    Example: audiossl superb all --upstream fbank exp/hubert/it2 --data data/superb --out exp/superb

    Args:
        upstream: experiments, checkpoints, `transformers:DIR`, `s3prl:NAME`, `FILE.py:CLASS`, `fbank`, `fbank+deltas`, `fbank+deltas+cmvn`, `mfcc`, or `random:` and an experiment or recipe.
        data: folder with a folder per task: DIR/ks/train, DIR/ks/dev, DIR/ks/test, and so on.
        out: folder to write; results are in OUT/<upstream>/<task>, the table is table.md, table.csv, scores.csv and table.html.
        seed: of the heads, and of random weights.
        device: auto, cpu, cuda or cuda:N.
        json: print the scores as JSON.
    """
    from audiossl.diagnostics.results import FILE_NAME
    from audiossl.superb.job import Evaluation
    from audiossl.superb.run import folder_name, groups, load_jobs, open_upstream

    present = [name for name in task_names() if (data / name).is_dir()]
    if not present:
        raise ValueError(
            f"{data}: has no folder of a task; link what `audiossl prep` wrote as {data}/ks, {data}/pr and so on, named as in `audiossl superb list`"
        )
    absent = [name for name in task_names() if name not in present]
    named = [name for name in absent if not in_manifest(name)]
    if absent:
        others = f"{len(absent) - len(named)} others, see `audiossl superb list`"
        log(f"not run, since {data} has no such folders: {', '.join([*named, others])}")
    jobs = load_jobs(present, overrides or {})
    chosen = chosen_device(device)
    _check_upstreams(upstream, [(data / name).resolve() for name in present], seed=seed, device=chosen)
    scores: list[Score] = []
    failed = False
    for name in upstream:
        for group in groups(jobs, data):
            place = (data / group[0].name).resolve()
            try:
                source = open_upstream(name, place, seed=seed, device=chosen)
                evaluation = Evaluation(source, name, place, seed, chosen, log)
                found, whole = _all_scores(group, evaluation, out / folder_name(name))
                scores += found
                failed = failed or not whole
            except Exception as error:  # noqa: BLE001 - of one task: the others go on, and the table is written
                failed = True
                log(_failure(f"{' '.join(job.name for job in group)} of {name}", error))
    answer([_table(score) for score in scores], json=json)
    if scores or any(out.rglob(FILE_NAME)):
        _tabulate((out,), out, quiet=json)
    else:
        log(f"{out}: has no score, so that there is no table")
    return 1 if failed else 0


def make_table(outs: Positional[tuple[Path, ...]], *, to: Path | None = None, json: bool = False) -> int:
    """Write table.md, table.csv, scores.csv and table.html again from the scores below some folders.

    Example: audiossl superb table exp/superb exp/others

    Args:
        outs: folders that `audiossl superb` wrote, with results.json in or below them.
        to: folder to write the table into (default: the first of OUTS).
        json: print the values as JSON: upstream, task, value, and the official one where the protocol chooses on test.
    """
    if not outs:
        raise MisuseError("audiossl superb table: no folder is given; name at least one")
    table = _tabulate(outs, to or outs[0], quiet=json)
    rows = [
        {
            "upstream": upstream,
            "task": task,
            "metric": cell.metric,
            "value": cell.value,
            "official": cell.official,
            "seeds": list(cell.seeds),
        }
        for (upstream, task), cell in table.cells.items()
    ]
    answer({"scores": rows, "superb_score": table.totals, "notes": table.notes}, json=json)
    return 0


def _verb(name: str, purpose: str) -> Callable[..., int]:
    """Return the command of a task."""

    def score(
        others: Positional[tuple[str, ...]] = (),
        *,
        upstream: str,
        data: Path,
        out: Path = _OUT,
        seed: int = SEED,
        device: str = "auto",
        json: bool = False,
        overrides: dict[str, Any] | None = None,
    ) -> int:
        from audiossl.superb.job import Evaluation
        from audiossl.superb.run import folder_name, load_jobs, open_upstream

        names = list(dict.fromkeys((name, *others)))
        if (data / name).is_dir():
            raise MisuseError(
                f"--data {data}: holds the data of several tasks; give --data {data / name}, or use `audiossl superb all`"
            )
        jobs = load_jobs(names, overrides or {})
        chosen = chosen_device(device)
        source = open_upstream(upstream, data, seed=seed, device=chosen)
        place = out / folder_name(upstream)
        scores, whole = _scores(jobs, Evaluation(source, upstream, data, seed, chosen, log), place)
        if scores:
            log(f"wrote {', '.join(str(place / score.task) for score in scores)}")
        shown = [_table(score) for score in scores]
        answer(shown[0] if len(jobs) == 1 else shown, "\n\n".join(map(_spoken, scores)), json=json)
        return 0 if whole else 1

    score.__doc__ = _DESCRIPTION.format(name=name, title=purpose.rstrip("."))
    return score


def _table(score: Score) -> dict[str, Any]:
    """All of a score but its answers, which are files."""
    table = asdict(score)
    del table["answers"]
    return table


_DESCRIPTION = """{title}.

Several tasks that learn from the same directories share the forwards of the upstream: `audiossl superb pr asr ...`. `--task.key value` and
`--superb.key value` change its recipe; `audiossl superb list` shows it. Interrupted work goes on where it was.

Example: audiossl superb {name} --upstream exp/hubert/it2 --data data/superb/{name} --out exp/superb

Args:
    others: further tasks.
    upstream: experiment, checkpoint, `transformers:DIR`, `s3prl:NAME`, `FILE.py:CLASS`, `fbank`, `fbank+deltas`, `fbank+deltas+cmvn`, `mfcc`, or `random:` and an experiment or recipe.
    data: folder with the data directories of the task: train, dev and test (er, callers, tasks of HEAR with folds: all; qbe: documents, queries_dev and queries_eval).
    out: folder to write; the result is in OUT/<upstream>/{name}/results.json.
    seed: of the heads, and of random weights.
    device: auto, cpu, cuda or cuda:N.
    json: print the score as JSON.
"""


def _check_upstreams(names: Sequence[str], places: Sequence[Path], *, seed: int, device: str) -> None:
    """Open each upstream once, so that one that cannot be is known before the first task is trained; ValueError names it."""
    from audiossl.superb.run import has_data, open_upstream

    for place in filter(has_data, places):
        for name in names:
            open_upstream(name, place, seed=seed, device=device)
        return


def _failure(what: str, error: Exception) -> str:
    """Say in one line what failed or, of what nobody can mend, whence it came as well."""
    if isinstance(error, ValueError | OSError):
        return f"{what} failed: {' '.join(str(error).split())}"
    return f"{what} failed unexpectedly:\n{''.join(traceback.format_exception(error)).rstrip()}"


def _all_scores(group: Sequence[Job], evaluation: Evaluation, out: Path) -> tuple[list[Score], bool]:
    """Return the scores of a group of tasks, of which those are run that have none yet, and whether all have one now."""
    from audiossl.superb.run import finished

    upstream = evaluation.upstream_name
    done = {job.name: score for job in group if (score := finished(job, evaluation, out))}
    if done:
        log(f"{upstream}: {' '.join(done)} with seed {evaluation.seed} was finished before")
    left = [job for job in group if job.name not in done]
    if not left:
        return list(done.values()), True
    log(f"{upstream}: {' '.join(job.name for job in left)}")
    scores, whole = _scores(left, evaluation, out)
    return [*done.values(), *scores], whole


def _scores(jobs: Sequence[Job], evaluation: Evaluation, out: Path) -> tuple[list[Score], bool]:
    """Run those tasks whose labels they can be scored by, and say whether these are all; of one task alone the fault is raised."""
    from audiossl.superb.run import faults, run_jobs

    wrong = faults(jobs, evaluation.data)
    if wrong and len(jobs) == 1:
        raise wrong[jobs[0].name]
    for name, error in wrong.items():
        log(_failure(f"{name} of {evaluation.upstream_name}", error))
    sound = [job for job in jobs if job.name not in wrong]
    return (run_jobs(sound, evaluation, out) if sound else []), not wrong


def _tabulate(folders: Sequence[Path], to: Path, *, quiet: bool) -> Table:
    from audiossl.superb.page import markdown, write_table
    from audiossl.superb.table import make_table as combine
    from audiossl.superb.table import read_scores

    table = combine(read_scores(folders))
    paths = write_table(table, to)
    if not quiet:
        print(markdown(table), end="")
    log(f"wrote {', '.join(map(str, paths))}")
    return table


def _spoken(score: Score) -> str:
    from audiossl.diagnostics.results import shown
    from audiossl.superb.score import unit_of

    def named(values: dict[str, float]) -> str:
        return ", ".join(f"{name} {shown(value)} {unit_of(name)}".strip() for name, value in values.items())

    cost = score.cost
    energy = "" if cost.joules is None else f", {cost.joules / 1e3:.3g} kJ"
    gpu = "" if cost.gpu_peak_bytes is None else f", {cost.gpu_peak_bytes / 1e9:.2f} GB on the GPU"
    kept = f", and {cost.cached_forwards} kept from before" if cost.cached_forwards else ""
    rate = "none" if score.learning_rate is None else f"{score.learning_rate:g} at step {score.step}"
    intervals = [f"{name} {shown(a)} to {shown(b)}" for name, (a, b) in score.more.get("intervals", {}).items()]
    head = score.official_choice
    whose = "" if head is None else f", of {head.learning_rate:g} at step {head.step}"
    lines = {
        f"{score.task}": named(score.values),
        **({"chosen on test": named(score.official) + whose} if score.official else {}),
        **({"95 % intervals": ", ".join(intervals)} if intervals else {}),
        "learning rate": f"{rate}, by {score.selection}",
        "parameters": str(score.parameters),
        **({"layer weights": " ".join(f"{share:.3f}" for share in score.shares)} if score.shares else {}),
        "upstream forwards": f"{cost.forwards}{kept} ({cost.alone_forwards} if every head were trained alone)",
        **({"not as published": score.more["variant"]} if "variant" in score.more else {}),
        "cost": f"{cost.seconds:.1f} s, {cost.peak_bytes / 1e9:.2f} GB{gpu}{energy}",
    }
    width = max(19, *map(len, lines))
    return "\n".join(f"{name:<{width}} {value}" for name, value in lines.items())


def _setting(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _verbs() -> dict[str, Callable[..., int]]:
    """Return a command for each task that has a recipe, so that a new one is a new file."""
    tasks = {name: _verb(name, title(name)) for name in task_names()}
    return {"list": list_tasks, "all": run_all, "table": make_table, **tasks}


SUBVERBS = _verbs()
