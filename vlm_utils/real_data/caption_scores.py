"""Captions compared with all that people wrote: BLEU-4, ROUGE-L and CIDEr-D.

Three of the five scores that papers on captions report. METEOR and SPICE run in Java, and no
package gives them without it: they are not here.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
import sacrebleu

from vlm_utils.real_data.records import RealData
from vlm_utils.real_data.scores import check_predictions, refuse_other_kinds

ORDERS, SIGMA, BETA = (1, 2, 3, 4), 6.0, 1.2


def caption_scores(data: RealData, predictions: pd.DataFrame) -> dict[str, float]:
    """BLEU-4, ROUGE-L and CIDEr-D of a table of `predict`, against `rows["references"]`.

    bleu_4: of all texts together, 0 to 100. rouge_l: the mean, 0 to 1. cider_d: the mean, 0 to 10;
    papers print it times 100 and call it CIDEr. Raises ValueError without one prediction for each
    sample.
    """
    check_predictions(data, predictions)
    texts, references = list(predictions["prediction"]), list(data.rows["references"])
    return {"samples": len(texts), "bleu_4": bleu_4(texts, references),
            "rouge_l": float(np.mean([rouge_l(text, right) for text, right
                                      in zip(texts, references, strict=True)])),
            "cider_d": float(np.mean(cider_d(texts, references)))}


def words(text: str) -> list[str]:
    """Small letters, no punctuation: what the usual scorer's tokenizer, which is Java, leaves of a
    plain sentence. A hyphen parts two words, an apostrophe does not, and neither do accents and
    vowel signs, however they are composed."""
    text = unicodedata.normalize("NFC", text.lower()).replace("\u2019", "'")
    if text.isascii():                      # nearly always
        return re.findall(r"[\w']+", text)
    return "".join(sign if sign in "_'" or unicodedata.category(sign)[0] in "LMN" else " "
                   for sign in text).split()


def bleu_4(texts: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Shared runs of one to four words (Papineni et al. 2002), by sacrebleu, without smoothing."""
    _check_pairs(texts, references)
    most = max(map(len, references))        # sacrebleu wants as many for each; it leaves None out
    streams = [[" ".join(words(right[k])) if k < len(right) else None for right in references]
               for k in range(most)]
    return sacrebleu.corpus_bleu([" ".join(words(text)) for text in texts], streams,
                                 smooth_method="none", tokenize="none", force=True).score


def rouge_l(text: str, references: Sequence[str]) -> float:
    """The longest common subsequence of words (Lin 2004), as the usual scorer has it.

    The best precision and the best recall, of whichever references, with recall weighing more
    (beta 1.2).
    """
    _check_pairs([text], [references])
    said, shares = words(text), []
    for reference in references:
        right = words(reference)
        common = _common(said, right)
        shares.append((common / max(len(said), 1), common / max(len(right), 1)))
    precision, recall = (max(values) for values in zip(*shares, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _check_pairs(texts: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raise ValueError unless there is one text at least, and with each a list of references."""
    if not len(texts) == len(references) > 0:
        raise ValueError(f"{len(texts)} texts and {len(references)} lists of references: give one "
                         "for each, and at least one")
    refuse_other_kinds(texts, "the texts")
    for number, right in enumerate(references):
        if isinstance(right, str) or not len(right):
            raise ValueError(f"the references of text {number} are {right!r:.60}: give a list of "
                             "texts, even of one")
        refuse_other_kinds(right, f"the references of text {number}")


def _common(first: list[str], second: list[str]) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for word in first:
        before = row
        row = [0]
        for k, other in enumerate(second):
            row.append(before[k] + 1 if word == other else max(row[-1], before[k + 1]))
    return row[-1]


def cider_d(texts: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """How close each text is to what people say of its image and of no other: each 0 to 10.

    Runs of one to four words are weighed by how rare they are: log(images / images whose references
    hold them), so a score depends on all images given, and is 0 for a single one. The variant D,
    which the usual scorer means by "CIDEr", counts a run no more often than the reference does and
    fades with the difference in length (Vedantam et al. 2015).
    """
    _check_pairs(texts, references)
    held = Counter(run for right in references
                   for run in set().union(*(_runs(reference) for reference in right)))
    images = math.log(len(references))

    def weighed(text: str) -> list[dict]:
        counts = _runs(text)
        return [{run: count * (images - math.log(max(1, held[run])))
                 for run, count in counts.items() if len(run) == n} for n in ORDERS]

    scores = []
    for text, right in zip(texts, references, strict=True):
        vectors, total = weighed(text), 0.0
        for reference in right:
            apart = _pairs(text) - _pairs(reference)
            alike = [_clipped_cosine(a, b)
                     for a, b in zip(vectors, weighed(reference), strict=True)]
            total += np.mean(alike) * math.exp(-apart**2 / (2 * SIGMA**2))
        scores.append(float(10 * total / len(right)))
    return scores


def _runs(text: str) -> Counter:
    """How often each run of one to four words stands in a text."""
    said = words(text)
    return Counter(tuple(said[k:k + n]) for n in ORDERS for k in range(len(said) - n + 1))


def _pairs(text: str) -> int:
    """The length as the usual scorer measures it: in pairs of words."""
    return max(0, len(words(text)) - 1)


def _clipped_cosine(said: dict, right: dict) -> float:
    lengths = math.sqrt(sum(v * v for v in said.values()) * sum(v * v for v in right.values()))
    shared = sum(min(value, right.get(run, 0.0)) * right.get(run, 0.0)
                 for run, value in said.items())
    return shared / lengths if lengths else 0.0
