"""Words of a data directory, the batch's loss, and the scores of embeddings."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from audiossl.contracts import EncoderOutput
from audiossl.data.audio import write_audio
from audiossl.data.manifest import Manifest
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.losses.bimodal_contrastive import bimodal_contrastive
from audiossl.metrics.average_precision import average_precision
from audiossl.tasks.word_embedding import WordEmbedding, read_words

ENCODER = SimpleNamespace(dim=4, num_layers=2, stride=320, sample_rate=16_000)
PHONES = {"go": "g oU", "stop": "s t 0 p", "left": "l E f t"}
HOMOPHONES = PHONES | {"two": "t u", "too": "t u"}


def directory(folder, words, phones=PHONES):
    folder.mkdir(parents=True, exist_ok=True)
    write_audio(folder / "a.wav", np.zeros(16_000, np.float32), 16_000)
    rows = []
    for number, word in enumerate(words):
        spoken = ["SIL", *phones[word].split(), "SIL"] if word in phones else None
        marks = [(0.1 * k, 0.1, phone) for k, phone in enumerate(spoken)] if spoken else None
        name = f"s-{number}"
        rows.append(CorpusUtterance(name, name, folder / "a.wav", "s", columns={"utt2word": word}, phones=marks))
    write_data_dir(rows, folder / "data")
    return Manifest.open(folder / "data")


def task(manifest, **more):
    torch.manual_seed(0)
    config = WordEmbedding.Config(dim=6, hidden_dim=5, symbol_dim=4, **more)
    return WordEmbedding.from_data(ENCODER, config, manifest)


def output(items, frames=5):
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, frames + 1, (items,), generator=generator)
    return EncoderOutput([torch.randn(items, frames, 4, generator=generator) for _ in range(3)], lengths)


def test_words_and_their_phones(tmp_path):
    manifest = directory(tmp_path, ["stop", "go", "-", "go"])
    own = task(manifest)
    assert own.words == {"go": ("g", "oU"), "stop": ("s", "t", "0", "p")}
    assert set(own.symbols) == {"<unk>", "g", "oU", "s", "t", "0", "p"}
    labels = [own.labels(SimpleNamespace(columns={"utt2word": word}))["label"] for word in ("go", "stop ", "-", "new")]
    assert labels == [0, 1, -1, -1]
    assert read_words(manifest, WordEmbedding.Config(symbols="letters"))["go"] == ("g", "o")


def test_the_commonest_pronunciation_counts(tmp_path):
    manifest = directory(tmp_path, ["go", "go", "go", "stop"])
    table = manifest.path / "phones.ctm"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(line.replace("oU", "u") if line.startswith("s-1 ") else line for line in lines) + "\n")
    assert read_words(Manifest.open(manifest.path), WordEmbedding.Config())["go"] == ("g", "oU")


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["go", "go", "-"], "has 1 different words"),
        (
            ["go", "stop", "new"],
            "no utterance of 'new' has phones in phones.ctm; label it `-` or use task.symbols letters",
        ),
        (["too", "two"], "utt2word: all of its words have the same phones in phones.ctm; at least two are needed"),
    ],
)
def test_faults_are_named(tmp_path, words, match):
    with pytest.raises(ValueError, match=match):
        task(directory(tmp_path, words, HOMOPHONES))


def test_words_that_sound_alike_are_one(tmp_path, monkeypatch):
    manifest = directory(tmp_path, ["too", "two", "go", "stop"], HOMOPHONES)
    own = task(manifest)
    perfect = {
        tuple(phones.split()): row for phones, row in zip(sorted({*HOMOPHONES.values()}), torch.eye(4), strict=True)
    }
    sound = torch.stack([perfect[own.words[word]] for word in ("too", "two", "go", "stop")])
    monkeypatch.setattr(own, "embed", lambda output: sound)
    monkeypatch.setattr(own, "embed_words", lambda words: torch.stack([perfect[symbols] for symbols in words]))
    label = [own.labels(SimpleNamespace(columns={"utt2word": word}))["label"] for word in ("too", "two", "go", "stop")]
    result = own.loss(None, {"label": torch.tensor(label)})
    assert result.loss_sum.item() == pytest.approx(0.0, abs=1e-6)
    assert result.metrics["accuracy"] == (4, 4)
    found = own.evaluate(dict(zip(manifest.ids, sound.numpy(), strict=True)), manifest)
    assert found.keys() == {"average_precision", "cross_average_precision", "f1", "f1_best", "recall_at_1"}
    assert list(found.values()) == pytest.approx([100.0] * 5)


def test_a_word_is_unseen_where_its_sound_is(tmp_path):
    own = task(directory(tmp_path / "a", ["two", "go"], HOMOPHONES)).eval()
    test = directory(tmp_path / "b", ["too", "go", "go"], HOMOPHONES)
    sound = dict(zip(test.ids, np.eye(3, 6), strict=True))
    assert not any(name.endswith("_unseen") for name in own.evaluate(sound, test))


def test_loss_is_that_of_the_words_of_the_batch(tmp_path):
    own = task(directory(tmp_path, ["stop", "go", "left"]), hardest=1, margin=1.2, within=0.3)
    own.eval()
    given, label = output(5), torch.tensor([2, 0, -1, 2, 0])
    result = own.loss(given, {"label": label})
    script = own.embed_words([own.words["go"], own.words["stop"]])
    wanted = bimodal_contrastive(
        own.embed(given), script, torch.tensor([1, 0, -1, 1, 0]), margin=1.2, hardest=1, within=0.3
    )
    assert result.count == 5
    assert result.loss_sum.item() == pytest.approx(5 * wanted.item(), rel=1e-5)
    assert result.metrics["labelled"] == (4, 5)
    nothing = own.loss(given, {"label": torch.full((5,), -1)})
    assert nothing.loss_sum == 0
    nothing.loss_sum.backward()
    assert [name for name, p in own.named_parameters() if p.grad is None] == []


def test_labels_of_its_own_for_the_unlabelled(tmp_path):
    manifest = directory(tmp_path, ["stop", "go", "left"])
    given, label = output(5), torch.tensor([2, 0, -1, 2, 0])
    found = [task(manifest, self_label_radius=radius).eval().loss(given, {"label": label}) for radius in (0.0, 2.0)]
    assert [int(one.metrics["labelled"][0]) for one in found] == [4, 5]
    assert found[0].loss_sum != found[1].loss_sum


def test_scores_of_embeddings(tmp_path):
    train, test = (
        directory(tmp_path / "a", ["stop", "go"]),
        directory(tmp_path / "b", ["stop", "go", "left", "go", "-"]),
    )
    own = task(train, threshold=0.9).eval()
    with torch.no_grad():
        script = own.embed_words([PHONES[word].split() for word in ("go", "left", "stop")]).numpy()
    rng = np.random.default_rng(0)
    sound = rng.normal(size=(5, 6))
    sound /= np.linalg.norm(sound, axis=1, keepdims=True)
    words = np.array([2, 0, 1, 0])
    found = own.evaluate(dict(zip(test.ids, sound, strict=True)), test)
    cosines = sound[:4] @ script.T
    wanted = words[:, None] == np.arange(3)
    assert found["cross_average_precision"] == pytest.approx(100 * average_precision(cosines.ravel(), wanted.ravel()))
    near = np.linalg.norm(sound[:4, None] - script, axis=2) <= 0.9
    assert found["f1"] == pytest.approx(100 * 2 * (near & wanted).sum() / (near.sum() + wanted.sum()))
    assert found["recall_at_1"] == pytest.approx(100 * np.mean(cosines.argmax(1) == words))
    pairs = [(i, k) for i in range(4) for k in range(i + 1, 4)]
    same = np.array([words[i] == words[k] for i, k in pairs])
    assert found["average_precision"] == pytest.approx(
        100 * average_precision(np.array([sound[i] @ sound[k] for i, k in pairs]), same)
    )
    assert found["cross_average_precision_unseen"] == pytest.approx(100 * average_precision(cosines[2], wanted[2]))
    assert found["f1_best"] >= found["f1"]


def test_no_more_than_so_many_utterances_meet_the_words(tmp_path, monkeypatch):
    manifest = directory(tmp_path, ["stop", "go", "left"] * 4)
    sizes = []

    def measure(scores, wanted):
        sizes.append(len(scores))
        return average_precision(scores, wanted)

    monkeypatch.setattr("audiossl.tasks.word_embedding.average_precision", measure)
    monkeypatch.setattr("audiossl.tasks.word_embedding._MOST_PAIRED", 5)
    own, rng = task(manifest).eval(), np.random.default_rng(0)
    sound = dict(zip(manifest.ids, rng.normal(size=(12, 6)), strict=True))
    assert own.evaluate(sound, manifest) == own.evaluate(sound, manifest)
    assert sizes == [5 * 4 // 2, 5 * 3] * 2


# Words of three phones each, most with a neighbour that differs in one of them.
SPOKEN = [
    "abc", "abd", "bac", "bad", "cab", "dab", "cad", "dac", "fed", "def", "fad", "daf", "bed", "deb", "cef", "fec"
]  # fmt: skip


def sounds(phones, rng):
    """Frames of four utterances of each word: phones of two to four frames, an offset for each voice, noise of the phones' own size."""
    words, frames = sorted(SPOKEN) * 4, []
    for word in words:
        clean = np.concatenate([np.repeat(phones[phone][None], rng.integers(2, 5), axis=0) for phone in word])
        offset = 0.5 * rng.standard_normal(clean.shape[1])
        frames.append(torch.tensor(clean + offset + rng.standard_normal(clean.shape), dtype=torch.float32))
    lengths = torch.tensor([len(one) for one in frames])
    return EncoderOutput([torch.nn.utils.rnn.pad_sequence(frames, batch_first=True)], lengths), words


def learned(manifest, seed, **more):
    """Scores on utterances that training did not have, after 60 updates."""
    rng = np.random.default_rng(seed)
    phones = {phone: rng.standard_normal(16) for phone in "abcdef"}
    test, words = sounds(phones, np.random.default_rng(100 + seed))
    torch.manual_seed(seed)
    config = WordEmbedding.Config(symbols="letters", dim=32, hidden_dim=32, symbol_dim=16, **more)
    own = WordEmbedding(16, 0, config, {word: tuple(word) for word in sorted(SPOKEN)})
    optimiser = torch.optim.Adam(own.parameters(), 3e-3)
    label = torch.tensor([sorted(SPOKEN).index(word) for word in words])
    for _ in range(60):
        result = own.loss(sounds(phones, rng)[0], {"label": label})
        optimiser.zero_grad()
        (result.loss_sum / result.count).backward()
        optimiser.step()
    with torch.no_grad():
        return own.eval().evaluate(dict(zip(manifest.ids, own.predict(test), strict=True)), manifest)


def test_hard_negatives_beat_random_ones_and_tell_words_apart(tmp_path):
    rows = sorted(SPOKEN) * 4
    manifest = SimpleNamespace(
        ids=[str(number) for number in range(len(rows))], path=tmp_path, column=lambda name: rows
    )
    for seed in range(2):
        # Over all negatives the loss is what random ones give on average.
        hard, random = learned(manifest, seed), learned(manifest, seed, hardest=0)
        assert hard["f1"] > 90
        assert hard["f1_best"] >= hard["f1"]
        for name in ("average_precision", "cross_average_precision"):
            assert hard[name] > random[name] + 5


def test_words_travel_with_the_experiment(tmp_path):
    own = task(directory(tmp_path / "a", ["stop", "go"])).eval()
    own.save_labels(tmp_path)
    other = WordEmbedding.from_experiment(ENCODER, own.config, tmp_path).eval()
    other.load_state_dict(own.state_dict())
    assert other.words == own.words
    torch.testing.assert_close(other.embed_words([("g", "oU", "new")]), own.embed_words([("g", "oU", "x")]))
