"""Small trainings that the tests of several processes run, in each process and alone."""

from dataclasses import replace

from small_models import beside_sequence, small_base
from small_runs import SETTINGS, small_dataset, small_processor

from vlm_utils.datasets import Recipe
from vlm_utils.loading import load_checkpoint
from vlm_utils.scaling import add_adapter
from vlm_utils.training import resume_run, start_run, train

PLAIN = replace(SETTINGS, steps=8, learning_rate=1e-3, optimizer="adamw")
SHORT = replace(PLAIN, steps=4)     # for what shows itself in the first steps


def plain_run(settings=PLAIN, model=None, dataset=None, **options):
    """A run without dropout, so that its losses depend on nothing but its data."""
    return start_run(model or small_base(small_processor()), small_processor(),
                     dataset or small_dataset(), settings, **options)


def losses(settings=PLAIN, folder=None, on_step=None, **options) -> list[float]:
    return train(plain_run(settings, **options), folder, on_step)["loss"].tolist()


def resumed(folder, **options) -> list[float]:
    return train(resume_run(folder, small_dataset(), **options), folder)["loss"].tolist()


def with_texts(encoded=True):
    """Two of three samples are texts without images, each as long as those with images or so: in a
    batch of two, often one process has images and the other has none."""
    dataset = small_dataset()
    texts = [Recipe((), f"Say {word}", "Nothing changed.", "describe")
             for word in ("it", "that", "this") for _ in range(16)]
    if not encoded:
        dataset = replace(dataset, table=replace(dataset.table, image_features=None))
    return replace(dataset, recipes=[*dataset.recipes[:24], *texts])


def beside(settings=PLAIN, dataset=None, folder=None, on_step=None, **options) -> list[float]:
    """The losses of `beside_run`."""
    return train(beside_run(settings, dataset, **options), folder, on_step)["loss"].tolist()


def beside_run(settings=PLAIN, dataset=None, **options):
    """Of a model with cross-attention, a resampler and an order of images."""
    model, processor = beside_sequence(small_processor(), latents=3, image_order=True)
    return start_run(model, processor, dataset or with_texts(), settings, **options)


def adapted(base, half=False, folder=None, on_step=None, **options) -> list[float]:
    """The losses of LoRA on the model in a folder, half: on its weights in bfloat16."""
    model = add_adapter(load_checkpoint(base)[0], rank=2, half_base=half)
    return losses(SHORT, folder, on_step, model=model, **options)


def without_a_word(function):
    """What a function returns, or the name and words of what it raises."""
    try:
        return function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
