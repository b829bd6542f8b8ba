"""The `audiossl` command: find the verb's file, run it, turn errors into one line.

A verb is a file in this folder with a function `main(...)`; its typed signature and docstring are its command line. Its first
docstring line is what `audiossl --help` shows. `--section.key value` arguments go to its parameter `overrides`, if it has one.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import importlib
import inspect
import io
import itertools
import os
import re
import select
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

from audiossl import __version__
from audiossl.config import seed_flaw, split_overrides
from audiossl.files import FULL_DISK
from audiossl.registry import suggestion

_FOLDER = Path(__file__).parent
_NOT_VERBS = {"main", "__init__"}
_CURES = dict.fromkeys(FULL_DISK, "free space or choose another --out") | {
    errno.EISDIR: "give a file",
    errno.EROFS: "choose a place that can be written",
    errno.EACCES: "correct its permissions, or choose another place",
    errno.EPERM: "correct its permissions, or choose another place",
    errno.ENOTDIR: "a file is where a folder should be: check the path",
}


_ELSEWHERE = {
    "train": "pretrain or finetune",
    "hydra_train": "pretrain or finetune",
    "extract": "embed (utterances) or features (frames)",
    "wer": "errors",
    "compute-wer": "errors",
    "score": "errors (texts) or verify (trials)",
    "decode": "transcribe",
    "infer": "transcribe",
    "kmeans": "units",
    "eer": "verify",
    "compute-eer": "verify",
}
"""What programs of fairseq, s3prl, SpeechBrain and Kaldi call it, and what it is called here."""

_HYDRA = re.compile(r"\+{0,2}([a-z]\w*(?:\.\w+)+)=(.+)")
"""An option in Hydra's form, `section.key=value`."""

_SHORTAGES = {
    r"out of memory|can't allocate memory|Unable to allocate": "memory ran out; take smaller batches (data.batch_seconds of a recipe, --batch-seconds), "
    "or shorter crops",
    r"DataLoader worker .*(killed|exited)": "a process that reads audio was ended, as a system without memory does; take fewer (data.num_workers of a "
    "recipe, --num-workers)",
}
"""What errors of torch and numpy say, and what that means with its cure."""

_BROKEN_PIPE = 128 + signal.SIGPIPE
"""Exit status where nobody reads standard output any more, that of a program which the signal ended."""


class MisuseError(ValueError):
    """The command line itself is wrong: exit status 2."""


def main(arguments: list[str] | None = None) -> None:
    """Run `audiossl VERB ...` and exit with 0 (done), 1 (failed) or 2 (misuse)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        status = _dispatch(words)
    except MisuseError as error:
        status = _complain(error, 2, debug=debug)
    except (ValueError, OSError) as error:
        # Other pipes break too, such as that to a program which has died.
        unread = isinstance(error, BrokenPipeError) and _nobody_reads()
        status = _BROKEN_PIPE if unread else _complain(error, 1, debug=debug)
    except (RuntimeError, MemoryError) as error:
        shortage = _shortage(error)
        if shortage is None:
            raise
        status = _complain(error, 1, debug=debug, text=shortage)
    except KeyboardInterrupt:
        # A second one, while loader workers end, would only be a traceback.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("audiossl: interrupted", file=sys.stderr)
        status = 130
    status = _flush() or status
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from audiossl.train.distributed import leave

        leave(status)
    sys.exit(status)


def verbs() -> dict[str, str]:
    """Name of each verb and its one-line description, read without importing it."""
    found = {}
    for path in sorted(_FOLDER.glob("*.py")):
        if path.stem not in _NOT_VERBS and not path.stem.startswith("_"):
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            found[path.stem] = docstring.partition("\n")[0]
    return found


def _dispatch(words: list[str]) -> int:
    known = verbs()
    if not words or words[0] in {"-h", "--help", "help"}:
        _usage(known)
        return 0
    if words[0] == "--version":
        print(f"audiossl {__version__}")
        return 0
    verb, *rest = words
    if verb not in known:
        meant = _ELSEWHERE.get(verb.lower())
        cure = f"write {meant} here" if meant else suggestion(verb, list(known))
        raise MisuseError(f"unknown verb {verb!r}; {cure}")
    module = importlib.import_module(f"audiossl.cli.{verb}")
    if hasattr(module, "SUBVERBS"):
        return _run_subverb(verb, module.SUBVERBS, rest)
    return run(module.main, rest, prog=f"audiossl {verb}")


def _run_subverb(verb: str, functions: dict[str, Any], words: list[str]) -> int:
    if not words or words[0] in {"-h", "--help"}:
        print(f"usage: audiossl {verb} {{{','.join(functions)}}} ...\n")
        for name, function in functions.items():
            print(f"  {name:<10} {(inspect.getdoc(function) or '').partition(chr(10))[0]}")
        print(f"\n`audiossl {verb} {next(iter(functions))} --help` says more.")
        return 0
    if words[0].startswith("-"):
        raise MisuseError(
            f"audiossl {verb}: {words[0]!r} stands where a name belongs; write `audiossl {verb} NAME {words[0]} ...`, names are in `audiossl {verb} --help`"
        )
    if words[0] not in functions:
        raise MisuseError(f"audiossl {verb}: unknown {words[0]!r}; {suggestion(words[0], list(functions))}")
    return run(functions[words[0]], words[1:], prog=f"audiossl {verb} {words[0]}")


def run(function: Any, words: list[str], *, prog: str) -> int:
    """Call `function` with a command line parsed from its typed signature; returns its exit status (None means 0)."""
    import tyro

    given: dict[str, Any] = {}
    if "overrides" in inspect.signature(function).parameters:
        try:
            given["overrides"], words = split_overrides(words)
        except ValueError as error:
            raise MisuseError(str(error)) from error

    def parse() -> Any:
        # No types are given for `overrides`: it never comes from tyro.
        description = (inspect.getdoc(function) or "").partition("\nArgs:")[0]
        return tyro.cli(_without_overrides(function), args=words, prog=prog, description=description)

    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            call = parse()
    except SystemExit as stop:
        if stop.code in {0, None}:
            return 0
        raise MisuseError(
            f"{prog}: {_one_line(message.getvalue())}{_cure(words, overrides='overrides' in given)}"
        ) from None
    _check_seeds(call, prog)
    status = function(**call, **given)
    return int(status or 0)


def _cure(words: list[str], *, overrides: bool) -> str:
    """Finish the message about a command line that cannot be parsed, where its words are of two common kinds; "" otherwise."""
    found = next(filter(None, map(_HYDRA.fullmatch, words)), None)
    if found and overrides:
        return f"; options are written --{found[1]} {shlex.quote(found[2])}"
    for option in filter(words.__contains__, ("--data", "--dev")):
        values = list(itertools.takewhile(lambda word: not word.startswith("-"), words[words.index(option) + 1 :]))
        if len(values) > 1 and all(Path(value).is_dir() for value in values):
            return f"; {option} takes one directory: join them by `audiossl data combine NEW {shlex.join(values)}`"
    return ""


def _check_seeds(call: dict[str, Any], prog: str) -> None:
    """Raise MisuseError for a `--seed` that generators do not take, of the verb's own or in a dataclass of its options."""
    for seed in (call.get("seed"), *(getattr(value, "seed", None) for value in call.values())):
        if isinstance(seed, int) and (flaw := seed_flaw(seed)):
            raise MisuseError(f"{prog}: --seed {flaw}")


def _without_overrides(function: Any) -> Any:
    """Return a function of the same typed signature that only collects its arguments."""
    signature = inspect.signature(function, eval_str=True)
    parameters = [item for name, item in signature.parameters.items() if name != "overrides"]

    def collect(**values: Any) -> dict[str, Any]:
        return values

    collect.__signature__ = signature.replace(parameters=parameters, return_annotation=dict[str, Any])  # type: ignore[attr-defined]
    collect.__annotations__ = {item.name: item.annotation for item in parameters} | {"return": dict[str, Any]}
    collect.__doc__ = function.__doc__
    return collect


def _one_line(box: str) -> str:
    """Fold the boxed message of the argument parser into one line."""
    words = []
    for line in box.splitlines():
        text = line.strip("╭╮╰╯│─ \t")
        if text.startswith(("For full helptext", "Argument helptext")):
            break
        title = line.startswith("╭")
        if text and not title:
            words.append(text)
    return " ".join(words)


def _usage(known: dict[str, str]) -> None:
    print("usage: audiossl VERB ... [--debug]\n\nSelf-supervised learning on speech and audio.\n")
    for verb, description in known.items():
        print(f"  {verb:<11} {description}")
    print("\n`audiossl VERB --help` says more and gives an example.")


def _shortage(error: Exception) -> str | None:
    """Say which shortage an error tells of, with its own first words and a cure; None for another one, which is a fault of the program."""
    said = str(error) or type(error).__name__
    means = next((text for pattern, text in _SHORTAGES.items() if re.search(pattern, said)), None)
    if means is None and isinstance(error, MemoryError):
        means = next(iter(_SHORTAGES.values()))
    return means and f"{means} ({said.splitlines()[0][:200]})"


def _complain(error: BaseException, status: int, *, debug: bool, text: str = "") -> int:
    """Print `text`, or what the error says, as one line."""
    if debug:
        raise error
    text = text or " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        cure = _CURES.get(error.errno or 0)
        text = f"{place}{error.strerror}{f'; {cure}' if cure else ''}"
    print(f"audiossl: {text}", file=sys.stderr)
    return status


def _nobody_reads() -> bool:
    """Whether standard output is a pipe whose reader has gone."""
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _flush() -> int:
    """Write out what was printed; returns 1 where it is lost because the disk is full, `_BROKEN_PIPE` where nobody reads it any more."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains once more when it ends
        if isinstance(error, BrokenPipeError):
            return _BROKEN_PIPE
        print(f"audiossl: standard output: {error.strerror}; free space or write elsewhere", file=sys.stderr)
        return 1
    return 0
