"""Sentences for synthetic speech: a lexicon and a grammar of our own.

A sentence is a path through word classes; the words of a class are drawn evenly, so that the language is exactly a
class bigram but for the agreement of optional parts, and a decoder can use the same kind of model.
"""

from collections.abc import Sequence

import numpy as np


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NOUNS = _words("""
    apple baker bank barn basket beach bell bird blanket boat bottle bowl box bridge brother bucket butcher
    cabin camera candle captain carpet castle cat chair cherry church city clock cloud coat coin corner cousin
    cow cup dancer desk doctor dog dollar door dragon dress driver duck eagle engine farmer father feather field
    finger fish flower forest fox friend garden gate giant glass glove goat guard guitar hammer harbor hat hill
    horse hotel house island jacket judge jungle kettle key king kitchen ladder lake lamp lawyer leaf lemon
    letter lion magnet market mask meadow melon mirror monkey mother mountain mouse nail neighbor nurse ocean
    office onion orange oven painter palace paper parrot pencil people piano picture pilot pirate planet plate
    pocket poet pool potato puzzle queen rabbit radio river road robot rocket roof rose sailor school shadow
    sheep ship shirt shoe singer sister snake soldier spider spoon stable station statue stone storm student
    sugar summer table teacher temple thief thumb ticket tiger tower toy train tree truck turkey uncle valley
    village violin voice wagon watch water whale wheel widow window winter wizard wolf yard zebra
""")
ADJECTIVES = _words("""
    angry big bitter black blue bold brave bright brown busy calm cheap clever cold cruel curious damp dark deep
    dirty dull eager early easy empty faint famous fancy fat fierce foolish fresh friendly funny gentle giant
    gloomy golden grand gray great greedy green happy heavy hollow honest huge humble hungry jealous kind large
    lazy little lonely long loud lucky mighty modern muddy narrow nervous noble noisy odd old orange pale
    patient plain pleasant polite poor pretty proud purple quick quiet rare red rich rough round royal rusty sad
    shallow sharp shiny short shy silent silly silver simple sleepy slim slow small smooth soft sour strange
    strong sturdy sweet tall tender thick thin tiny tired tough ugly vast violet warm weak wealthy weary white
    wicked wide wild wise wooden yellow young
""")
VERBS = _words("""
    admire answer ask avoid bake borrow break bury call carry catch chase check clean climb cook count cover
    cross deliver describe destroy discover draw dress enjoy enter examine fear fetch fill find finish fix
    follow forget gather greet guard guess hate hear help hide hire hurt imagine inspect invent join kick kiss
    know lift like list load lock love measure mention move need notice obey offer open order paint pass pay
    phone pick plant play please point polish praise prefer promise protect pull punish push reach remember
    remove repair replace rescue return roll save search see sell serve sew shake share shout smell sort steal
    study teach thank throw tickle touch trust turn visit warn wash watch wave weigh welcome whisper wish worry
    wrap write
""")
# Verbs whose past is not made by the rule are used in the present only.
IRREGULAR = frozenset(
    _words("break catch draw find forget hear hide hurt know pay see sell sew shake steal teach throw write")
)
NAMES = _words("""
    Adam Alice Andrew Anna Arthur Barbara Ben Betty Carol Charlie Clara Daniel David Diana Edgar Emma Felix
    Fiona Frank George Grace Hannah Harry Helen Isaac Jack Jane Julia Kate Kevin Laura Leo Lucy Martin Mary
    Nathan Nora Oliver Oscar Paul Peter Quentin Rachel Robert Rosa Samuel Sarah Simon Thomas Tina Victor Vera
    Walter Wendy
""")
ADVERBS = _words("""
    again alone always badly boldly calmly carefully daily easily gladly happily lately loudly nearly never
    often once partly quickly quietly rarely sadly safely seldom silently slowly softly soon suddenly today
    together twice usually yesterday
""")
PREPOSITIONS = _words("""
    about above across after against along among around before behind below beside between beyond by for from in
    inside into near of off on over past through to toward under upon with without
""")
NUMBERS = _words("""
    two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety
""")
DETERMINERS = _words("the a this that my your his her our their every another each some one")
PLURAL_DETERMINERS = _words("the these those my your his her our their some many few all most both")
AUXILIARIES = _words("will can may must should could would might")
PRONOUNS = _words("he she it they we you nobody everybody somebody")
CONJUNCTIONS = _words("and but since because until when before though")

# Word class -> what may follow it, with its weight. "" is the sentence's start and end.
GRAMMAR = {
    "": {"determiner": 4, "plural_determiner": 2, "name": 3, "pronoun": 2, "number": 1},
    "determiner": {"adjective": 2, "noun": 3},
    "adjective": {"noun": 5, "adjective": 1},
    "noun": {"past": 4, "auxiliary": 2, "preposition": 2, "conjunction": 1, "adverb": 1, "": 3},
    "plural_determiner": {"plural_adjective": 2, "plural": 3, "number": 1},
    "number": {"plural": 3, "plural_adjective": 1},
    "plural_adjective": {"plural": 1},
    "plural": {"past": 4, "auxiliary": 2, "preposition": 2, "conjunction": 1, "adverb": 1, "": 3},
    "name": {"past": 5, "auxiliary": 3, "conjunction": 1, "": 2},
    "pronoun": {"past": 3, "auxiliary": 3},
    "auxiliary": {"verb": 4, "adverb": 1},
    "verb": {"determiner": 4, "plural_determiner": 2, "name": 2, "number": 1},
    "past": {"determiner": 4, "plural_determiner": 2, "name": 2, "number": 1},
    "preposition": {"determiner": 4, "plural_determiner": 2, "name": 1, "number": 1},
    "adverb": {"past": 1, "verb": 1, "preposition": 1, "": 2},
    "conjunction": {"determiner": 3, "name": 2, "plural_determiner": 1, "pronoun": 2},
}
WORDS_IN_SENTENCE = (4, 12)


def plural(noun: str) -> str:
    """A noun's plural, by the rule."""
    irregular = {"leaf": "leaves", "thief": "thieves", "wolf": "wolves", "mouse": "mice", "roof": "roofs"}
    if noun in irregular:
        return irregular[noun]
    if noun in ("sheep", "fish", "people"):
        return noun
    return _with_s(noun)


def past(verb: str) -> str:
    """A regular verb's past."""
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ied"
    if verb in ("prefer", "wrap"):
        return verb + verb[-1] + "ed"
    return verb + "ed"


def _with_s(word: str) -> str:
    if word.endswith(("s", "x", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


def vocabulary(words_per_class: int | None = None) -> dict[str, Sequence[str]]:
    """The words of each class; at most `words_per_class` of the open ones, evenly picked."""

    def some(words: Sequence[str]) -> Sequence[str]:
        if words_per_class is None or words_per_class >= len(words):
            return words
        return [words[i * len(words) // words_per_class] for i in range(words_per_class)]

    nouns, adjectives, verbs = some(NOUNS), some(ADJECTIVES), some(VERBS)
    return {
        "determiner": DETERMINERS,
        "adjective": adjectives,
        "noun": nouns,
        "plural_determiner": PLURAL_DETERMINERS,
        "number": some(NUMBERS),
        "plural_adjective": adjectives,
        "plural": [plural(noun) for noun in nouns],
        "name": some(NAMES),
        "pronoun": PRONOUNS,
        "auxiliary": AUXILIARIES,
        "verb": verbs,
        "past": [past(verb) for verb in verbs if verb not in IRREGULAR],
        "preposition": some(PREPOSITIONS),
        "adverb": some(ADVERBS),
        "conjunction": CONJUNCTIONS,
    }


def sentence(words: dict[str, Sequence[str]], generator: np.random.Generator) -> tuple[list[str], list[str]]:
    """A random sentence of `WORDS_IN_SENTENCE` words: its words and the class of each."""
    while True:
        classes = _classes(generator)
        if WORDS_IN_SENTENCE[0] <= len(classes) <= WORDS_IN_SENTENCE[1]:
            return [words[c][generator.integers(len(words[c]))] for c in classes], classes


def _classes(generator: np.random.Generator) -> list[str]:
    found, at = [], ""
    while len(found) <= WORDS_IN_SENTENCE[1]:
        following = GRAMMAR[at]
        weights = np.array(list(following.values()), dtype=float)
        at = list(following)[generator.choice(len(weights), p=weights / weights.sum())]
        if at == "":
            break
        found.append(at)
    return found
