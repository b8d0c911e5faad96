"""Where the model looks: the right positions, shares of one whole, and a model left as it was."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib import image as mpl_image

from vlm_utils import plots
from vlm_utils.datasets import Sample
from vlm_utils.evaluation import attention_to_images, eager_attention


@pytest.mark.parametrize(("layout", "identifiers"), [
    ("interleaved", "after"), ("interleaved", "before"), ("interleaved", "none"),
    ("prepended", "after")])
@pytest.mark.parametrize("prompt", [
    "<image><image><image>What changed?", "Look at <image_2>:<image>and<image><image>",
    "<image>What is in <image_1>?<image><image>"])
def test_maps_are_cut_out_where_the_placeholders_stand(
        make_model, make_processor, picture, monkeypatch, prompt, layout, identifiers):
    """Attention that says where it stands: a map that is off by one token says other numbers."""
    model, processor = make_model(), make_processor(layout=layout, identifiers=identifiers)
    ids = processor.encode_prompt(prompt, 3)

    def forward(inputs_embeds, **kwargs):
        length = inputs_embeds.shape[1]
        seen = torch.zeros(1, 2, length, length)
        seen[0, :, -1] = torch.arange(1., length + 1)       # only the last position is to be read
        seen[0, 1] *= 3                                     # heads that differ: the mean is wanted
        return SimpleNamespace(attentions=(seen, seen ** 2))

    monkeypatch.setattr(model.language_model.model, "forward", forward)
    maps = attention_to_images(model, processor, Sample(
        [picture(i) for i in range(3)], prompt, None, "refer"))
    where = np.array([i + 1. for i, token in enumerate(ids) if token == processor.image_token_id])
    assert maps.shape == (2, 3, 2, 2)
    assert maps[0].ravel() == pytest.approx(where / where.sum(), rel=1e-5)
    assert maps[1].ravel() == pytest.approx(where**2 / (where**2).sum(), rel=1e-5)


def test_the_real_attention_is_read(model, processor, make_sample):
    """Queries of zero look everywhere alike; those of the model do not."""
    sample = make_sample(3)
    maps = attention_to_images(model, processor, sample)
    assert maps.shape == (1, 3, 2, 2)
    assert maps.sum(axis=(1, 2, 3)) == pytest.approx(np.ones(1), rel=1e-5)
    assert maps.std() > 1e-3
    with torch.no_grad():
        model.language_model.model.layers[0].self_attn.q_proj.weight.zero_()
    assert attention_to_images(model, processor, sample) == pytest.approx(
        np.full((1, 3, 2, 2), 1 / 12), rel=1e-5)


def test_pictures_and_their_features_are_looked_at_alike(model, processor, make_sample):
    sample = make_sample(2)
    features = model.encode_images(processor.pixel_values(sample.images))
    encoded = Sample([], sample.prompt, None, sample.task, features)
    assert attention_to_images(model, processor, encoded) == pytest.approx(
        attention_to_images(model, processor, sample), rel=1e-4)


def test_the_model_keeps_its_attention_even_if_something_fails(
        model, processor, make_sample, monkeypatch):
    """Left on eager, all that follows would be slower and take more memory."""
    language_model = model.language_model
    language_model.set_attn_implementation("sdpa")
    attention_to_images(model, processor, make_sample(2))
    assert language_model.config._attn_implementation == "sdpa"

    def fails(**kwargs):
        assert language_model.config._attn_implementation == "eager"
        raise RuntimeError("out of memory")

    monkeypatch.setattr(language_model.model, "forward", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        attention_to_images(model, processor, make_sample(2))
    assert language_model.config._attn_implementation == "sdpa"
    with pytest.raises(KeyError), eager_attention(language_model):
        raise KeyError
    assert language_model.config._attn_implementation == "sdpa"


def test_what_has_no_map_is_refused(model, make_processor, processor):
    text = Sample([], "Hello?", None, "ask", torch.zeros(0, 16, 32))
    with pytest.raises(ValueError, match="the sample has no images"):
        attention_to_images(model, processor, text)
    with pytest.raises(ValueError, match="3 tokens per image do not form a square"):
        attention_to_images(model, make_processor(tokens_per_image=3), text)


def test_the_figure_names_each_image_and_shares_one_scale(picture):
    maps = np.arange(12.).reshape(3, 2, 2) / 66
    figure = plots.draw_attention([picture(i) for i in range(3)], maps, "a question")
    axes = [axis for axis in figure.axes if axis.get_xlabel()]
    assert [axis.get_xlabel() for axis in axes] == [
        f"<image_{k}>\n{maps[k - 1].sum():.0%}" for k in (1, 2, 3)]
    shades = [axis.images[1] for axis in axes]
    assert {shade.get_clim() for shade in shades} == {(0, maps.max())}
    assert all(isinstance(shade, mpl_image.AxesImage) for shade in shades)
    with pytest.raises(ValueError, match="1 images and 3 maps"):
        plots.draw_attention([picture(0)], maps)
