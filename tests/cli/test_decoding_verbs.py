"""`audiossl lm`, and `audiossl transcribe` by beam search."""

from __future__ import annotations

import gzip
import json
import shutil

import pytest
import torch
from command import audiossl, succeed
from corpora import noises, write_corpus, write_encoder

from audiossl.cli.transcribe import _Decoding
from audiossl.config import load_toml, write_toml
from audiossl.data.loader import LoaderConfig
from audiossl.data.manifest import Manifest
from audiossl.diagnostics.results import read_results
from audiossl.interop.checkpoint import save_checkpoint
from audiossl.nn.beam_search import PrefixBeam
from audiossl.nn.vocabulary import Vocabulary
from audiossl.train.run_finetune import load_finetuned, predict_all

TEXTS = ["AB A", "A AB", "B A"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A data directory of noise, and a recogniser with random weights."""
    place = tmp_path_factory.mktemp("decoding")
    write_corpus(place, noises(range(6000, 12000, 2000)), columns={"text": TEXTS})
    write_encoder(place / "base")
    encoder = load_toml(place / "base" / "config.toml")["encoder"]
    vocabulary = Vocabulary.from_texts(TEXTS, "characters")
    head = {
        "task.head.1.weight": torch.randn(len(vocabulary), encoder["dim"]),
        "task.head.1.bias": torch.zeros(len(vocabulary)),
    }
    save_checkpoint(place / "asr", 1, head, {}, keep=1)
    vocabulary.save(place / "asr" / "vocabulary.json")
    run = {"init": str(place / "base"), "init_seed": 0}
    tables = {"encoder": encoder, "adapter": {"name": "frozen"}, "task": {"name": "ctc"}, "train": {"seed": 0}}
    write_toml(place / "asr" / "config.toml", {**tables, "finetune": {"mask_prob": 0.0}, "run": run})
    (place / "sentences.txt").write_text("A B\n\nAB B\n")
    return place


def transcribe(place, *words):
    words = ("transcribe", place / "asr", place / "data", "--num-workers", 0, "--device", "cpu", "--json", *words)
    return json.loads(succeed(*words)[0])


def test_a_model_of_words_and_their_lexicon(place, tmp_path):
    words = ("lm", place / "data", place / "sentences.txt", "--order", 2, "--out", tmp_path / "lm.arpa")
    status, out, _ = audiossl(*words, "--lexicon", tmp_path / "lexicon.txt")
    # <unk> <s> </s> A AB B; every pair that there is
    assert (status, out) == (0, f"{tmp_path / 'lm.arpa'}: 6 1-grams, 11 2-grams\n")
    assert (tmp_path / "lexicon.txt").read_text() == "A\tA |\nAB\tA B |\nB\tB |\n"
    assert (tmp_path / "lm.arpa").read_text().startswith("\\data\\\nngram 1=6\nngram 2=11\n")
    status, out, _ = audiossl(*words, "--json")
    assert json.loads(out)["ngrams"] == {"1": 6, "2": 11}


def test_a_model_replaces_nothing_else(place, tmp_path):
    (tmp_path / "text").write_text("u1 A B\n")
    words = ("lm", place / "data", "--order", 2, "--out", tmp_path / "text")
    status, _, err = audiossl(*words)
    assert (status, err.splitlines()[-1].partition("text: ")[2]) == (
        1,
        "exists already and holds something else; choose another --out, or --overwrite",
    )
    lexicon = ("--out", tmp_path / "lm.arpa", "--lexicon", tmp_path / "text")
    assert audiossl(*words[:-2], *lexicon)[0] == 1
    assert (tmp_path / "text").read_text() == "u1 A B\n"
    assert [path.name for path in tmp_path.iterdir()] == ["text"]
    assert audiossl(*words, "--overwrite")[0] == 0
    assert (tmp_path / "text").read_text().startswith("\\data\\\n")
    missing = audiossl(*words[:-1], tmp_path / "none" / "lm.arpa")
    assert missing[0] == 1
    assert f"{tmp_path / 'none'}: no such folder" in missing[2]


def test_a_model_of_the_tokens_of_a_recogniser(place, tmp_path):
    words = ("lm", place / "data", "--tokens", place / "asr", "--order", 2, "--out", tmp_path / "lm.arpa")
    assert audiossl(*words)[0] == 0
    text = (tmp_path / "lm.arpa").read_text()
    assert "\tA |" in text
    assert "\tA B" in text
    assert "AB" not in text


def other_asr(place, made, kind, texts, **task):
    """The recogniser with the vocabulary of other texts; the verb looks at no weights."""
    shutil.copytree(place / "asr", made)
    Vocabulary.from_texts(texts, kind).save(made / "vocabulary.json")
    tables = load_toml(made / "config.toml")
    write_toml(made / "config.toml", {**tables, "task": {"name": "ctc", "tokens": kind, **task}})
    return made


def test_tokens_are_those_of_the_column_that_it_was_trained_on(place, tmp_path):
    made = other_asr(place, tmp_path / "asr", "phones", ["ei bi"], column="utt2phones")
    shutil.copytree(place / "data", tmp_path / "data")
    (tmp_path / "data" / "utt2phones").write_text("s-0 ei bi\ns-1 bi\n")
    words = ("lm", tmp_path / "data", "--tokens", made, "--order", 2, "--out", tmp_path / "lm.arpa")
    assert audiossl(*words)[0] == 0
    assert "\tei bi" in (tmp_path / "lm.arpa").read_text()


@pytest.mark.parametrize(("kind", "text", "last"), [("phones", "ei bi", "ei"), ("characters", "ab a", "b")])
def test_texts_without_any_token_of_the_recogniser_are_refused(place, tmp_path, kind, text, last):
    made = other_asr(place, tmp_path / "asr", kind, [text])
    words = ("lm", place / "data", "--tokens", made, "--order", 2, "--out", tmp_path / "lm.arpa")
    status, _, error = audiossl(*words)
    assert (status, error.count("\n")) == (1, 1)
    assert f"--tokens {made}: the texts hold none of the tokens of its vocabulary, such as '{last}'; give" in error
    assert not (tmp_path / "lm.arpa").exists()
    status, _, error = audiossl(*words[:3], place / "base", *words[4:])
    assert (status, error.count("\n")) == (1, 1)
    assert "is a pretrained encoder, which writes nothing" in error


def test_text_may_be_packed(tmp_path):
    text = tmp_path / "text.gz"
    text.write_bytes(gzip.compress("É B\nA B\n".encode()))
    words = ("lm", text, "--out", tmp_path / "lm.arpa", "--order", 2, "--lexicon", tmp_path / "lexicon.txt")
    assert audiossl(*words)[0] == 0
    assert (tmp_path / "lexicon.txt").read_text(encoding="utf-8") == "A\tA |\nB\tB |\nÉ\tÉ |\n"
    whole = text.read_bytes()
    for damaged in (whole[:-9], whole[:-8] + bytes(8)):
        text.write_bytes(damaged)
        status, _, err = audiossl(*words, "--overwrite")
        assert status == 1
        assert err.startswith(f"audiossl: {text}: cannot be unpacked (")


@pytest.mark.parametrize(("order", "warns"), [(1, True), (2, False), (6, False), (7, True)])
def test_orders_that_are_not_read_again_are_told(place, tmp_path, order, warns):
    status, _, err = audiossl("lm", place / "sentences.txt", "--order", order, "--out", tmp_path / "lm.arpa")
    assert status == 0
    assert (f"audiossl: --order {order}: `audiossl transcribe` will not read this model" in err) is warns


@pytest.mark.parametrize(
    ("words", "status", "fault"),
    [
        (("nowhere.txt",), 1, "nowhere.txt: no such file or directory; give text with a sentence per line"),
        ((), 2, "audiossl lm: no text is given"),
        (("{place}/data", "--order", "0"), 1, "--order 0 is no length of n-grams"),
        (("{place}/data", "--tokens", "x", "--lexicon", "y"), 2, "audiossl lm: --lexicon goes with a model of words"),
    ],
)
def test_complaints_about_text(place, tmp_path, words, status, fault):
    shown = audiossl("lm", *(word.format(place=place) for word in words), "--out", tmp_path / "lm.arpa")
    assert shown[0] == status
    assert shown[2].startswith(f"audiossl: {fault}")
    assert not (tmp_path / "lm.arpa").exists()


def test_beam_search_without_a_language_model(place):
    said = transcribe(place, "--beam", 4)
    module, _ = load_finetuned(place / "asr")
    module.task.decoder = PrefixBeam(module.task.vocabulary, beam=4)
    config = LoaderConfig(num_workers=0)
    assert said["texts"] == dict(predict_all(module, Manifest.open(place / "data"), config, on_bad=pytest.fail))
    kept = {result.name: result for result in read_results(place / "asr")}
    assert kept["WER data (beam 4)"].value == pytest.approx(said["scores"][str(place / "data")]["wer"])
    assert kept["WER data (beam 4)"].more["beam"] == 4


def test_with_a_language_model_and_a_lexicon(place, tmp_path):
    pytest.importorskip("flashlight.lib.text", reason="language models need the extra `lm`")
    lm, lexicon = tmp_path / "lm.arpa", tmp_path / "lexicon.txt"
    audiossl("lm", place / "data", "--order", 2, "--out", lm, "--lexicon", lexicon)
    said = transcribe(place, "--beam", 20, "--lm", lm, "--lexicon", lexicon, "--word_score", "-0.5")
    assert {word for text in said["texts"].values() for word in text.split()} <= {"A", "AB", "B"}
    result = {result.name: result for result in read_results(place / "asr")}["WER data (beam 20, lm.arpa, lexicon.txt)"]
    wanted = {"beam": 20, "lm": str(lm), "lexicon": str(lexicon), "lm_weight": 2.0, "word_score": -0.5}
    assert wanted.items() <= result.more.items()
    audiossl("lm", place / "data", "--order", 3, "--tokens", place / "asr", "--out", tmp_path / "tokens.arpa")
    free = transcribe(place, "--beam", 20, "--lm", tmp_path / "tokens.arpa", "--lm_weight", "0")
    assert free["texts"].keys() == said["texts"].keys()


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("--lm", "{place}/sentences.txt"), "--lm and --lexicon are for beam search; add --beam, such as --beam 50"),
        (("--beam", "5", "--lm", "nowhere.arpa"), "nowhere.arpa: no such file; `audiossl lm` makes"),
        (("--beam", "5", "--lm_weight", "1"), "--lm_weight 1.0 has nothing to weigh; add --lm"),
        (("--beam", "5", "--word_score", "1"), "--word_score 1.0 is for words of a lexicon; add --lexicon"),
        (("--beam", "-1"), "--beam -1 keeps no hypothesis; give at least 1, or 0 to read greedily"),
    ],
)
def test_complaints_about_decoding(place, words, fault):
    words = (word.format(place=place) for word in words)
    status, _, err = audiossl("transcribe", place / "asr", place / "data", "--device", "cpu", *words)
    assert status == 1
    assert err.startswith(f"audiossl: {fault}")


def test_what_is_not_ctc_has_no_beam():
    with pytest.raises(ValueError, match="--beam 4: exp writes no tokens"):
        _Decoding(4, None, None, None, None).prepare(object(), "exp")


def test_texts_that_are_there_are_kept(place, tmp_path):
    words = ("transcribe", place / "asr", place / "data", "--num-workers", 0, "--device", "cpu", "--out")
    out = tmp_path / "texts"
    out.write_text("mine\n")
    for where, fault in {
        out: f"{out}: exists already; choose another --out, or --overwrite",
        tmp_path: f"{tmp_path}: is a folder; name the file to write",
        tmp_path / "no" / "texts": f"{tmp_path / 'no'}: no such folder; make it, or choose another --out",
    }.items():
        status, printed, err = audiossl(*words, where)
        assert (status, printed) == (1, "")
        assert err == f"audiossl: {fault}\n"
    assert out.read_text() == "mine\n"
    assert audiossl(*words, out, "--overwrite")[0] == 0
    assert [line.split()[0] for line in out.read_text().splitlines()] == ["s-0", "s-1", "s-2"]


def test_transcribing_what_programs_put_out(place, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(place / "data", data, ignore=shutil.ignore_patterns(".index"))
    rows = (line.split() for line in (data / "wav.scp").read_text().splitlines())
    (data / "wav.scp").write_text("".join(f"{name} cat {path} |\n" for name, path in rows))
    words = ("transcribe", place / "asr", data, "--num-workers", 0, "--device", "cpu")
    status, _, err = audiossl(*words)
    assert status == 1
    assert "--allow-commands" in err
    assert audiossl(*words, "--allow-commands")[0] == 0
