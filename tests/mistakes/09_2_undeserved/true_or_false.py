# says: that is True or False for each answer
import string


def undeserved(truths: list[str], predictions: list[str],
               keywords: list[str]) -> list[int]:
    """Which answers does the keyword rule count although they are wrong?

    The rule, as TEOChat's script has it: in small letters and without
    punctuation, an answer counts if one of the keywords is part of both
    texts, the prediction and the truth, or if the two texts are equal.
    Undeserved is what counts and is not equal. The result is a list of
    their positions, from 0.
    """
    def plain(text: str) -> str:
        table = str.maketrans("", "", string.punctuation)
        return text.lower().translate(table)

    pairs = [(plain(a), plain(b))
             for a, b in zip(truths, predictions, strict=True)]
    return [prediction != truth
            and any(word in truth and word in prediction for word in keywords)
            for truth, prediction in pairs]
