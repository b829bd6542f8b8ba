"""Names are file names; unknown ones say what was meant; nothing is imported before it is asked for."""

import subprocess
import sys

import pytest

from audiossl import registry


def test_names_list_files_without_importing():
    code = (
        "import sys; from audiossl import registry; print(registry.names('encoders'), registry.names('data_prep')); "
        "assert 'torch' not in sys.modules"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "wav2vec2" in out
    assert "mini" in out


@pytest.mark.parametrize(
    "kind", ["encoders", "objectives", "tasks", "adapters", "losses", "margins", "metrics", "data_prep"]
)
def test_every_name_can_be_had(kind):
    assert registry.names(kind)
    for name in registry.names(kind):
        plugin = registry.get(kind, name)
        assert kind == "data_prep" or plugin.__module__ == f"audiossl.{kind}.{name}"
        assert plugin.__name__.rpartition(".")[2].lower().replace("_", "") == name.replace("_", "")


def test_unknown_name_says_which_was_meant():
    with pytest.raises(ValueError, match=r"unknown encoders 'wav2vec'; did you mean 'wav2vec2'\?"):
        registry.get("encoders", "wav2vec")


def test_code_outside_the_package():
    assert registry.get("encoders", "collections:OrderedDict").__name__ == "OrderedDict"
    with pytest.raises(ValueError, match="cannot load 'no.such:Thing'"):
        registry.get("encoders", "no.such:Thing")


def test_code_in_the_current_folder_as_with_python_m(tmp_path):
    (tmp_path / "beside_me.py").write_text("class Thing: ...\n")
    code = "import sys; sys.path.remove(''); from audiossl import registry; print(registry.get('encoders', 'beside_me:Thing'))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ran.stdout == "<class 'beside_me.Thing'>\n", ran.stderr


def test_file_that_lacks_its_library_breaks_only_itself(tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("import no_such_library\n")
    (tmp_path / "sound.py").write_text("class Sound: ...\n")
    monkeypatch.setattr(registry, "folder", lambda _kind: tmp_path)
    assert registry.names("encoders") == ["broken", "sound"]
    assert registry.get("encoders", "sound").__name__ == "Sound"
    with pytest.raises(ValueError, match="broken.py cannot be imported: No module named 'no_such_library'"):
        registry.get("encoders", "broken")
