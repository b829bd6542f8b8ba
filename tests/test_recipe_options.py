"""What the shell recipes take on their command line, and what they refuse before anything runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from audiossl.config import split_overrides

EGS = Path(__file__).parents[1] / "egs"
RECIPES = sorted(path.relative_to(EGS) for path in EGS.glob("**/run.sh"))
SPEAKERS = Path("mini/ssl_speaker/run.sh")


def run(recipe, *words):
    path = EGS / recipe
    return subprocess.run(
        ["bash", f"./{path.name}", *words],
        check=False,
        cwd=path.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_help_is_the_comment_at_the_top(recipe):
    done = run(recipe, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    first = (EGS / recipe).read_text(encoding="utf-8").splitlines()[1].removeprefix("# ")
    assert done.stdout.splitlines()[0] == first


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
@pytest.mark.parametrize("option", ["--train.max_steps", "--2", "--root", "--option", "--HOME", "--prep"])
def test_what_is_no_option_is_refused(recipe, option):
    done = run(recipe, option, "3", "--smoke", "true")
    assert done.returncode == 2
    assert done.stderr == f"./run.sh: unknown option {option}; see ./run.sh --help\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stage", "3-5"], "--stage 3-5: write a number"),
        (["--stop_stage", ""], "--stop_stage : write a number"),
        (["--stage=99", "--pseudo_labels", "yes"], "--pseudo_labels yes: write true or false"),
        (["--smoke", "yes"], "--smoke yes: write true or false"),
        (["--data", "my data"], "--data my data: has white space; choose another folder"),
        (["--seed"], "--seed has no value; write --seed VALUE"),
    ],
)
def test_what_an_option_cannot_be_is_refused(words, message):
    done = run(SPEAKERS, *words)
    assert (done.returncode, done.stderr) == (2, f"./run.sh: {message}\n")


def test_options_are_taken_with_hyphens_and_equal_signs():
    assert run(SPEAKERS, "--stage=99", "--stop-stage", "99", "--pseudo-labels=false").returncode == 0


def test_the_speaker_labels_switch_of_each_recipe_is_checked():
    for recipe in ("arabic_speech_commands/ssl_speaker/run.sh", "voxceleb/ssl_speaker/run.sh"):
        done = run(Path(recipe), "--stage", "99", "--label_efficient", "True")
        assert (done.returncode, done.stderr) == (2, "./run.sh: --label_efficient True: write true or false\n")


def test_the_tasks_of_lebenchmark_are_checked_before_anything_runs():
    done = run(Path("lebenchmark/mini/run.sh"), "--stage", "99", "--tasks", "asr kss")
    assert (done.returncode, done.stderr) == (2, "./run.sh: --tasks asr kss: there are asr, ks, sf and er\n")


def test_a_table_of_other_steps_is_not_taken_for_these(tmp_path):
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "steps").write_text("4\n")
    (tmp_path / "data" / "train").mkdir(parents=True)
    words = ["--data", tmp_path / "data", "--exp", tmp_path / "exp", "--steps", "50"]
    done = run(Path("mini/speaker_objectives/run.sh"), *words)
    assert done.returncode == 2
    assert "--steps 50" in done.stderr
    assert "holds runs of 4" in done.stderr


@pytest.mark.parametrize(("tokens", "options"), [("bpe", {"bottleneck": 240}), ("characters", {})])
def test_adapters_of_librispeech_are_narrower_beside_word_pieces(tmp_path, tokens, options):
    """So many make the file of a base encoder's adapters less than 20 MB (`tests/adapters`)."""
    script = f'audiossl() {{ echo "$@" >> {tmp_path}/told; }}; export -f audiossl; ./run.sh --stage 2 --stop_stage 2 --tokens {tokens} --exp {tmp_path}'
    subprocess.run(["bash", "-c", script], cwd=EGS / "librispeech" / "asr", check=True, capture_output=True)
    adapters, full = (tmp_path / "told").read_text().splitlines()
    assert adapters.startswith("finetune ctc_adapters ")
    given, _ = split_overrides(adapters.split())
    assert given["task"]["tokens"] == tokens
    assert given.get("adapter", {}) == options
    assert "--adapter." not in full
