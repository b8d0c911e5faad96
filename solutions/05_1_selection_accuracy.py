import re


def selection_accuracy(predictions: list[str], answers: list[str]) -> float:
    """Share of all selections that are right, between 0 and 1.

    An answer is an identifier, "<image_2>". A prediction is right if it
    names this image and no other, whatever else it says. One that names
    no image, or several, is wrong.
    """
    right = 0
    for prediction, answer in zip(predictions, answers, strict=True):
        named = set(re.findall(r"<image_\d+>", prediction))
        right += named == {answer}
    return right / len(answers)
