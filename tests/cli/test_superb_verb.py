import pytest

from audiossl.cli.main import main


def test_a_folder_of_tasks_is_no_data_of_one(tmp_path, capsys):
    (tmp_path / "pr" / "train").mkdir(parents=True)
    out = tmp_path / "exp"
    with pytest.raises(SystemExit, match="2"):
        main(["superb", "pr", "--upstream", "fbank", "--data", str(tmp_path), "--out", str(out)])
    assert f"give --data {tmp_path / 'pr'}" in " ".join(capsys.readouterr().err.split())
    assert not out.exists()
