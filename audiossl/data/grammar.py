"""A context-free grammar of English sentences: for synthetic speech whose test sentences are unseen and whose words are not.

Rules are lines `SYMBOL = alternative | alternative`; symbols are in capitals, everything else is a word; a comma makes a pause and
is no word. Verbs are in the past tense or follow a modal, so that subject and verb always agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Collection

    import numpy as np

Rules: TypeAlias = "dict[str, list[tuple[str, ...]]]"

_ENGLISH = """
SENTENCE = COMMAND . | COMMAND . | COMMAND . | STATEMENT . | STATEMENT . | QUESTION ? | NUMBERS .
COMMAND = please ACTION | ACTION | ACTION WHEN | NAME , please ACTION | ACTION and ACTION
ACTION = turn SWITCH THE_THING | turn SWITCH THE_THING PLACED | MOVE THE_THING to ROOM | MOVE THE_THING to NAME | put THE_THING PLACED | find THE_THING PLACED
STATEMENT = THE_THING was PLACED WHEN | we were in ROOM WHEN | NAME was in ROOM WHEN | NAME MOVED THE_THING to ROOM | NAME MOVED THE_THING to NAME WHEN | there were DIGIT COLOUR THINGS PLACED
QUESTION = where was THE_THING WHEN | was THE_THING PLACED | did NAME MOVE THE_THING to ROOM | were there DIGIT THINGS PLACED
NUMBERS = the number was DIGIT DIGIT DIGIT DIGIT | DIGIT DIGIT DIGIT and DIGIT DIGIT | please bring NAME DIGIT COLOUR THINGS
THE_THING = DET THING | DET COLOUR THING | NAME 's THING
PLACED = in ROOM | near DET THING | behind DET COLOUR THING
ROOM = the PLACE | my PLACE
DET = the | my | your
SWITCH = on | off
WHEN = now | today | tomorrow
MOVE = bring | carry
MOVED = carried
NAME = anna | peter | maria | oliver
THING = lamp | window | radio | basket | table | chair
THINGS = lamps | baskets | tables | chairs
COLOUR = red | green | blue | yellow | white
PLACE = kitchen | garden | office | bedroom
DIGIT = zero | one | two | three | four | five | six | seven | eight | nine
"""


@dataclass(frozen=True)
class Sentence:
    """words: what a transcript holds, upper case. spoken: the same with the punctuation that guides a synthesiser."""

    words: tuple[str, ...]
    spoken: str


def english() -> Rules:
    """Rules for English; the start symbol is SENTENCE."""
    rules: Rules = {}
    for line in _ENGLISH.strip().splitlines():
        symbol, _, alternatives = line.partition(" = ")
        rules[symbol] = [tuple(alternative.split()) for alternative in alternatives.split(" | ")]
    return rules


def vocabulary(rules: Rules) -> set[str]:
    """All words that sentences can hold, as transcripts write them."""
    endings = {symbol for options in rules.values() for option in options for symbol in option}
    owners = {f"{name}'S".upper() for (name,) in rules.get("NAME", [])}
    return {word.upper() for word in endings if word[0].islower()} | owners


def restrict(rules: Rules, words: Collection[str]) -> Rules:
    """Return the part of the grammar that needs only `words` (upper case); empty if no sentence is left.

    A possessive (ANNA'S) is a word of its own; `name 's` stays if one possessive is known, so a caller still checks sentences.
    """
    known = {word.lower() for word in words}
    known |= {"'s"} if any(word.endswith("'s") for word in known) else set()
    kept = rules
    while True:
        pruned = {
            symbol: [option for option in options if all(_usable(part, kept, known) for part in option)]
            for symbol, options in kept.items()
        }
        pruned = {symbol: options for symbol, options in pruned.items() if options}
        if pruned == kept:
            return pruned if "SENTENCE" in pruned else {}
        kept = pruned


def sample(rules: Rules, rng: np.random.Generator) -> Sentence:
    """Draw one sentence; each alternative of a symbol is equally likely."""
    parts: list[str] = []
    pending = ["SENTENCE"]
    while pending:
        part = pending.pop()
        if part in rules:
            options = rules[part]
            pending.extend(reversed(options[int(rng.integers(len(options)))]))
        else:
            parts.append(part)
    spoken = " ".join(parts)
    for mark in (" 's", " ,", " .", " ?"):
        spoken = spoken.replace(mark, mark[1:])
    words = spoken.upper().translate(str.maketrans("", "", ",.?")).split()
    return Sentence(tuple(words), spoken)


def _usable(part: str, rules: Rules, known: set[str]) -> bool:
    if part[0].isupper():
        return part in rules
    return part in known or part in {",", ".", "?"}
