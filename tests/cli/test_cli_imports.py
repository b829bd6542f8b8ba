"""Verbs answer `--help` without the libraries that take seconds to import."""

import subprocess
import sys

import pytest

from audiossl.cli.main import verbs

HEAVY = {"torch", "transformers", "librosa", "faiss", "matplotlib", "tensorboard", "scipy", "sklearn"}


@pytest.mark.parametrize("verb", verbs())
def test_help_imports_nothing_heavy(verb):
    code = (
        "import sys; from audiossl.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as stop: status = stop.code\n"
        "print(status, *{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, verb, "--help"], capture_output=True, text=True, check=True)
    status, *loaded = done.stderr.splitlines()[-1].split()
    assert status == "0"
    assert not HEAVY & set(loaded)
