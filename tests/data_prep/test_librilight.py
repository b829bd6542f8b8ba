import pytest

from audiossl import registry
from audiossl.data.manifest import Manifest

librilight = registry.get("data_prep", "librilight")


@pytest.fixture
def corpus(tmp_path):
    librilight.fake(tmp_path)
    return tmp_path / "librispeech_finetuning"


def test_ten_minutes_are_in_the_hour_and_that_in_the_ten_hours(corpus, tmp_path):
    librilight.prepare(corpus.parent, tmp_path / "out")  # the folder above is taken, too
    made = {path.name: Manifest.open(path) for path in (tmp_path / "out").iterdir()}
    assert {name: len(manifest) for name, manifest in made.items()} == {
        "train-10min": 2,
        "train-1h": 12,
        "train-10h": 16,
    }
    assert set(made["train-10min"].ids) < set(made["train-1h"].ids) < set(made["train-10h"].ids)
    ten = made["train-10h"]
    rest = [row for row in range(len(ten)) if ten.ids[row] not in set(made["train-1h"].ids)]
    assert sorted(ten.column("text")[row] for row in rest) == 2 * ["HE HOPED THERE WOULD BE STEW"] + 2 * ["IT'S LATE"]
    assert ten.column("utt2spk")[0] == ten.ids[0].partition("-")[0]
    assert len(made["train-10min"].audio(0, sample_rate=16000)) == 24000


def test_each_fold_is_another_ten_minutes(corpus, tmp_path):
    seen = []
    for fold in range(6):
        librilight.prepare(corpus, tmp_path / f"{fold}", librilight.Config(fold=fold))
        seen += Manifest.open(tmp_path / f"{fold}" / "train-10min").ids
    assert len(set(seen)) == len(seen) == 12
    with pytest.raises(ValueError, match=r"prep\.fold: 6 is no fold"):
        librilight.Config(fold=6)


def test_a_missing_part_is_named(corpus, tmp_path):
    (corpus / "1h/5/other").rename(corpus / "elsewhere")
    with pytest.raises(ValueError, match=r"1h/5/other: not found"):
        librilight.prepare(corpus, tmp_path / "out")
    with pytest.raises(ValueError, match="give --corpus DIR"):
        librilight.prepare(None, tmp_path / "out")
