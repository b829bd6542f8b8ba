"""The command line's manners: help, exit status, one-line errors."""

import errno
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from command import complains

from audiossl.cli.main import _ELSEWHERE, main, verbs


def run(*words):
    return subprocess.run([sys.executable, "-m", "audiossl", *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("verb", sorted(verbs()))
def test_every_verb_has_help_with_an_example(verb):
    result = run(verb, "--help")
    assert result.returncode == 0, result.stderr
    assert f"audiossl {verb}" in result.stdout


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["pretran"], 2, "audiossl: unknown verb 'pretran'; did you mean 'pretrain'?"),
        (["train"], 2, "audiossl: unknown verb 'train'; write pretrain or finetune here"),
        (["extract", "x"], 2, "unknown verb 'extract'; write embed (utterances) or features (frames) here"),
        (["compute-wer"], 2, "unknown verb 'compute-wer'; write errors here"),
        (["compute-eer"], 2, "unknown verb 'compute-eer'; write verify here"),
        (
            ["superb", "-u", "fbank"],
            2,
            "audiossl superb: '-u' stands where a name belongs; write `audiossl superb NAME -u ...`",
        ),
        (["pretrain"], 2, "--out"),
        (["pretrain", "hubert_nano", "--out", "x", "--stepz", "3"], 2, "Unrecognized options: --stepz"),
        (["pretrain", "hubert_nano", "--out", "x", "--train.max_steps"], 2, "--train.max_steps: has no value"),
        (
            ["pretrain", "hubert_nanoo", "--out", "x", "--data", "y"],
            1,
            "unknown recipe 'hubert_nanoo'; did you mean 'hubert_nano'?",
        ),
        (
            ["pretrain", "hubert_nano", "--out", "x", "--data", "y", "--train.max_step", "1"],
            1,
            "did you mean 'max_steps'?",
        ),
        (["data", "valdate", "x"], 2, "did you mean 'validate'?"),
        (["embed", "x", "y", "--out", "z", "--seed", "-1"], 2, "audiossl embed: --seed -1 is negative; give 0 or more"),
        (
            ["cluster", "x", "--clusters", "3", "--out", "y", "--seed", "4294967296"],
            2,
            "audiossl cluster: --seed 4294967296 is above 4294967295; give less",
        ),
        (
            ["data", "subset", "x", "y", "--random", "3", "--seed", "-2"],
            2,
            "audiossl data subset: --seed -2 is negative",
        ),
    ],
)
def test_errors_are_one_line(words, status, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in complains(*words, status=status)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "a", "b"], "--data takes one directory: join them by `audiossl data combine NEW a b`"),
        (["--data", "a", "--dev", "a", "b"], "--dev takes one directory: join them by `audiossl data combine NEW a b`"),
        (["--data", "a", "optimization.max_update=20"], "options are written --optimization.max_update 20"),
        (["--data", "a", "+task.labels=[km, l 2]"], "options are written --task.labels '[km, l 2]'"),
    ],
)
def test_command_lines_of_other_packages_are_told_how_it_is_written_here(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert complains("pretrain", "hubert_nano", "--out", "x", *words, status=2).endswith(f"{message}\n")


@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no recipe is given; write `audiossl {verb} RECIPE ...`"),
        (["--resume"], "no recipe is given, and in x there is none to go on with; give RECIPE"),
    ],
)
def test_a_recipe_that_is_missed(verb, words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = complains(verb, "--out", "x", "--data", "y", *words, status=2)
    assert said == f"audiossl: audiossl {verb}: {message.format(verb=verb)}\n"


@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
def test_a_run_that_goes_on_follows_its_own_recipe(verb, tmp_path):
    (tmp_path / "config.toml").write_text("[strange]\n[run]\n")
    assert f"{tmp_path / 'config.toml'}: " in complains(verb, "--out", tmp_path, "--resume")


@pytest.mark.parametrize("lines", [3, 100_000])
def test_a_reader_that_has_enough_ends_it_in_silence(lines):
    code = (
        "import sys\nfrom audiossl.cli import main\n"
        f"main._dispatch = lambda _: [print('line', flush=i > 1) for i in range({lines})] and 0\n"
        "sys.stdin.read()\nmain.main([])\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", code], **pipes)
    process.stdout.close()
    process.stdin.close()
    with process.stderr:
        assert (process.stderr.read(), process.wait()) == ("", 128 + signal.SIGPIPE)


def test_another_pipe_that_breaks_is_an_error(monkeypatch, capsys):
    def broken(_words):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe", "espeak")

    monkeypatch.setattr("audiossl.cli.main._dispatch", broken)
    with pytest.raises(SystemExit) as stop:
        main(["doctor"])
    assert (stop.value.code, capsys.readouterr().err) == (1, "audiossl: espeak: Broken pipe\n")


@pytest.mark.parametrize(
    ("error", "means"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore"), "memory ran out; take smaller batches"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"), "memory ran out"),
        (MemoryError(), "memory ran out; take smaller batches"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "a process that reads audio was ended"),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "a process that reads audio was ended"),
    ],
)  # fmt: skip
def test_a_shortage_is_one_line_with_its_cure(error, means, monkeypatch):
    def short(words):
        raise error

    monkeypatch.setattr("audiossl.cli.main._dispatch", short)
    said = complains("pretrain", status=1)
    assert said.startswith(f"audiossl: {means}")
    assert str(error).split("\n")[0].strip() in said


def test_a_fault_of_the_program_shows_its_traceback(monkeypatch):
    def broken(words):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr("audiossl.cli.main._dispatch", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        main(["pretrain"])


def test_debug_shows_the_traceback(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="unknown recipe"):
        main(["pretrain", "nothing", "--out", "x", "--debug"])


def test_a_second_interrupt_is_ignored(tmp_path, monkeypatch, capsys):
    # A shell that starts pytest in the background has it ignore the first one too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr("audiossl.cli.main._dispatch", lambda _words: os.kill(os.getpid(), signal.SIGINT))
    monkeypatch.setattr("audiossl.cli.main._flush", lambda: os.kill(os.getpid(), signal.SIGINT) or 0)
    try:
        with pytest.raises(SystemExit) as stop:
            main(["doctor"])
    finally:
        signal.signal(signal.SIGINT, before)
    assert (stop.value.code, capsys.readouterr().err) == (130, "audiossl: interrupted\n")


def test_help_is_fast():
    times = []
    for _ in range(3):
        start = time.perf_counter()
        assert run("--help").returncode == 0
        times.append(time.perf_counter() - start)
    assert min(times) < 0.7


@pytest.mark.parametrize(("words", "status"), [("--version", 0), ("pretran", 2)])
def test_one_of_several_processes_runs_its_exit_functions_but_leaves_the_interpreter_standing(words, status):
    # What is still alive when an interpreter is taken down (here: an object in a module) is finalised; it must not be.
    code = (
        "import atexit\n"
        "class Alive:\n    def __del__(self): print('taken down', flush=True)\n"
        "alive = Alive()\n"
        "atexit.register(print, 'exit functions ran')\n"
        f"from audiossl.cli.main import main\nmain(['{words}'])\n"
    )
    environment = {**os.environ, "WORLD_SIZE": "2"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == status
    assert "exit functions ran" in result.stdout
    assert "taken down" not in result.stdout


def test_what_other_programs_call_it_is_no_verb_and_is_answered_with_verbs():
    for name, meant in _ELSEWHERE.items():
        assert name not in verbs()
        assert set(re.findall(r"[a-z]+", re.sub(r"\(.*?\)", "", meant))) - {"or"} <= set(verbs())
