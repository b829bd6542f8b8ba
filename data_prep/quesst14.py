"""QUESST 2014: spoken queries and the recordings that hold them, in six low-resourced languages; non-native English is what SUPERB searches.

Layout: the folder `quesst14Database` with `Audio/quesst14_<00001>.wav`, `dev_queries/quesst14_dev_<0001>.wav`, `eval_queries/...`, 8 kHz; in `scoring`
the lists `language_key_{utterances,dev,eval}.lst` (`<folder>/<path> <language>`, the first folder being quesst14Database itself) and
`groundtruth_quesst14_{dev,eval}/quesst14_{dev,eval}.rttm` (`LEXEME document 1 start duration query ...`). Licence: for research, see the
archive. Source: Anguera et al.: "QUESST2014: evaluating query-by-example speech search in a zero-resource setting with real-life queries",
ICASSP 2015; speech.fit.vutbr.cz.

Writes `documents`, `queries_dev` and `queries_eval` of the languages that are asked for. `documents/listed` are the documents, and
`queries_*/relevant` the pairs `query document`, of all languages: the scoring tool of the corpus counts what was not searched as not found.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from audiossl.data.corpus import published, text_lines, write_imitation
from audiossl.data.kaldi import write_table
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.tasks.query_by_example import LISTED, RELEVANT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LISTS = {"documents": "utterances", "queries_dev": "dev", "queries_eval": "eval"}


@dataclass(frozen=True)
class Config:
    """languages: as the corpus names them; `nnenglish` alone is what SUPERB takes."""

    languages: tuple[str, ...] = ("nnenglish",)


def prepare(corpus: Path | None, out: Path, config: Config | None = None) -> None:
    """Write the data directories under `out`; nothing is copied."""
    config = config or Config()
    if corpus is not None and (corpus / "quesst14Database").is_dir():
        corpus = corpus / "quesst14Database"
    corpus = published(corpus, *(f"scoring/language_key_{name}.lst" for name in _LISTS.values()))
    listed = {part: list(_listed(corpus, name)) for part, name in _LISTS.items()}
    for part, rows in listed.items():
        chosen = [path for path, language in rows if language in config.languages]
        if not chosen:
            known = ", ".join(sorted({language for _, language in rows}))
            raise ValueError(f"prep.languages: {', '.join(config.languages)} has no {part}; known: {known}")
        write_data_dir((CorpusUtterance(path.stem, path.stem, path, path.stem) for path in chosen), out / part)
    documents = {path.stem for path, _ in listed["documents"]}
    write_table(out / "documents" / LISTED, ((name, "") for name in documents))
    for part in ("queries_dev", "queries_eval"):
        queries = {path.stem for path, _ in listed[part]}
        write_table(out / part / RELEVANT, sorted(_relevant(corpus, _LISTS[part], queries, documents)))


def fake(root: Path) -> None:
    """Write a tiny imitation: four English documents and one in Czech, two English queries and a Czech one in either set."""
    rng = np.random.default_rng(0)
    corpus = root / "quesst14Database"
    languages = {1: "nnenglish", 2: "czech", 3: "nnenglish", 4: "nnenglish", 5: "nnenglish"}
    lists: dict[str, list[str]] = defaultdict(list)
    for number, language in languages.items():
        lists["utterances"].append(f"quesst14Database/Audio/quesst14_{number:05d}.wav {language}")
        for split in ("dev", "eval") if number < 4 else ():
            lists[split].append(f"quesst14Database/{split}_queries/quesst14_{split}_{number:04d}.wav {language}")
    for name, lines in lists.items():
        for line in lines:
            path = root / line.split()[0]
            write_imitation(path, rng, duration=2.0 if name == "utterances" else 0.6, sample_rate=8000)
        (corpus / "scoring").mkdir(exist_ok=True)
        (corpus / "scoring" / f"language_key_{name}.lst").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for split in ("dev", "eval"):
        pairs = [(1, 1), (1, 4), (2, 2), (3, 5)]
        rows = [
            f"LEXEME quesst14_{document:05d} 1 0.50 0.60 quesst14_{split}_{query:04d} lex <NA> <NA>"
            for query, document in pairs
        ]
        path = corpus / "scoring" / f"groundtruth_quesst14_{split}" / f"quesst14_{split}.rttm"
        path.parent.mkdir()
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def _listed(corpus: Path, name: str) -> Iterator[tuple[Path, str]]:
    """(file, language) of a list."""
    path = corpus / "scoring" / f"language_key_{name}.lst"
    for number, line in enumerate(text_lines(path), start=1):
        fields = line.split()
        if len(fields) != 2 or "/" not in fields[0]:
            raise ValueError(f"{path}:{number}: {line!r} is not `folder/path language`; restore the file")
        yield corpus / fields[0].partition("/")[2], fields[1]


def _relevant(corpus: Path, split: str, queries: set[str], documents: set[str]) -> set[tuple[str, str]]:
    """Pairs (query, document) of the ground truth that the lists know; other words that it marks are no queries."""
    path = corpus / "scoring" / f"groundtruth_quesst14_{split}" / f"quesst14_{split}.rttm"
    if not path.is_file():
        raise ValueError(f"{path}: not found; unpack the corpus again")
    pairs = set()
    for line in text_lines(path):
        fields = line.split()
        if len(fields) > 5 and fields[0] == "LEXEME" and fields[5] in queries and fields[1] in documents:
            pairs.add((fields[5], fields[1]))
    if not pairs:
        raise ValueError(f"{path}: says of no listed document that it holds a listed query; unpack the corpus again")
    return pairs
