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
SENTENCE = STATEMENT . | STATEMENT . | LINKED . | LINKED . | REQUEST . | QUESTION ? | DESCRIPTION . | DESCRIPTION . | QUANTITY . | REPORT .
STATEMENT = CLAUSE | CLAUSE WHEN | WHEN , CLAUSE | NP MODAL ACTION | NP MODAL ACTION SOON | NP ADVERB ACTED
CLAUSE = NP WENT TO_PLACE | NP TOOK THE_THING | NP TOOK THE_THING AT_PLACE | NP SAW SOMEBODY AT_PLACE | NP RESTED AT_PLACE | NP RESTED ADVERB | NP ADVERB SAW SOMEBODY
LINKED = NP RESTED LINK NP TOOK THE_THING | NP TOOK THE_THING LINK NP RESTED | LINK NP RESTED , NP WENT TO_PLACE | NP SAW SOMEBODY LINK NP RESTED | if NP did not ACTION , NP MODAL ACTION
REQUEST = please ACTION | please ACTION SOON | do not ACTION SOON | let us ACTION SOON
QUESTION = did NP ACTION | where did NP ACTION | why was DET HUMAN so FEELING | when MODAL NP ACTION | who TOOK THE_THING AT_PLACE | how many THINGS were there AT_PLACE
DESCRIPTION = there were NUMBER QUALITY THINGS AT_PLACE | DET THING AT_PLACE was QUALITY and QUALITY | DET HUMAN with DET QUALITY THING RESTED | DET HUMAN who SAW SOMEBODY RESTED ADVERB | DET ANIMAL was COMPARED than DET ANIMAL | NAME 's THING was QUALITY but not QUALITY
QUANTITY = DET THING cost NUMBER pounds | NP TOOK NUMBER THINGS EARLIER | the number is DIGIT DIGIT DIGIT DIGIT | NAME was TENS DIGIT years old EARLIER | DET TRANSPORT left CITY at CLOCK | DET TRANSPORT from CITY arrived at CLOCK
REPORT = NAME SAID that NP RESTED AT_PLACE | NAME SAID that DET THING was QUALITY | we all SAID that NAME TOOK THE_THING | NAME SAID nothing about DET THING
ACTED = SAW SOMEBODY | TOOK THE_THING | WENT TO_PLACE
ACTION = TAKE THE_THING | SEE SOMEBODY | REST AT_PLACE | GO TO_PLACE | REST SOON
NP = NAME | NAME | DET HUMAN | DET FEELING HUMAN | DET ANIMAL | the HUMANS | NUMBER HUMANS | PRONOUN | NAME and NAME
SOMEBODY = NAME | DET HUMAN | DET FEELING ANIMAL | the HUMANS | NUMBER ANIMALS | NUMBER FEELING ANIMALS
THE_THING = DET THING | DET QUALITY THING | NAME 's THING | NUMBER THINGS | some QUALITY THINGS
TO_PLACE = to the PLACE | to CITY | towards the PLACE | through the QUALITY PLACE | from CITY to CITY | past DET PLACE
AT_PLACE = near the PLACE | behind the PLACE | in the PLACE | in CITY | beside the QUALITY PLACE | outside the PLACE | under the THING
WHEN = EARLIER | at CLOCK | on WEEKDAY | in MONTH | before MEAL | after MEAL | every WEEKDAY | NUMBER days ago
SOON = today | tonight | this evening | tomorrow | next week | on WEEKDAY | in MONTH | at CLOCK
EARLIER = today | yesterday | this morning | last week | on WEEKDAY | in MONTH | at CLOCK
CLOCK = HOUR o'clock | half past HOUR | quarter past HOUR | quarter to HOUR | DIGIT minutes past HOUR
DET = the | the | my | our | their | her | his | this | that | one | another | every
PRONOUN = we | they | she | he | you | i | everybody | nobody | somebody
MODAL = can | will | must | should | could | would | might
LINK = because | while | when | before | after | although | until | and | but
NAME = anna | peter | maria | james | sofia | david | laura | simon | helen | martin | clara | oliver
HUMAN = teacher | farmer | doctor | baker | sailor | driver | painter | writer | singer | nurse | pilot | guard | child | woman
HUMANS = teachers | farmers | doctors | sailors | children | women | men | boys
ANIMAL = dog | cat | horse | cow | fox | rabbit | bird | duck | goose
ANIMALS = dogs | cats | horses | cows | foxes | rabbits | birds | ducks
THING = book | letter | basket | box | chair | table | lamp | bottle | bag | coat | key | map | picture | boat
THINGS = books | letters | apples | stones | baskets | boxes | chairs | flowers | tickets | coins
PLACE = house | garden | river | station | market | school | forest | kitchen | bridge | church | harbour | village | mountain
CITY = london | paris | dublin | cardiff | madrid | berlin | lisbon | vienna
TRANSPORT = train | bus | ship | plane | ferry
QUALITY = old | small | large | heavy | strange | bright | dark | green | red | blue | yellow | white | black | cold
FEELING = old | young | small | quiet | happy | tired | clever | strange | gentle
COMPARED = older | younger | smaller | larger | heavier
ADVERB = slowly | quickly | quietly | often | never | always | together | early
TOOK = found | carried | bought | sold | moved | dropped | lifted | borrowed | noticed
TAKE = find | carry | buy | sell | move | drop | lift | borrow
SAW = watched | followed | fed | helped | heard | met | saw
SEE = watch | follow | feed | help | hear | meet
WENT = walked | ran | travelled | hurried | drove | returned
GO = walk | run | travel | hurry | drive | return
RESTED = waited | slept | sang | danced | laughed | smiled | worked | stayed
REST = wait | sleep | sing | dance | laugh | smile | work | stay
SAID = said | thought | knew | believed | explained | promised
DIGIT = zero | one | two | three | four | five | six | seven | eight | nine
NUMBER = two | three | four | five | six | seven | eight | nine | ten | eleven | twelve | fifteen | TENS | TENS DIGIT | one hundred
TENS = twenty | thirty | forty | fifty | sixty | seventy | eighty | ninety
HOUR = one | two | three | four | five | six | seven | eight | nine | ten | eleven | twelve
WEEKDAY = monday | tuesday | wednesday | thursday | friday | saturday | sunday
MONTH = january | february | march | april | may | june | july | august | september | october | november | december
MEAL = breakfast | lunch | dinner | supper
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
