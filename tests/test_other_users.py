"""The model in other people's programs: transformers' Auto classes, pipeline and Trainer; peft."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import TOKENS
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    Trainer,
    TrainingArguments,
    pipeline,
)

from vlm_utils.architecture import MultiImageProcessor, MultiImageVLM
from vlm_utils.collate import collate
from vlm_utils.datasets import EncodedSamples, build_tasks
from vlm_utils.loading import load_checkpoint
from vlm_utils.profiles import REPOSITORY


@pytest.fixture
def folder(model, processor, tmp_path) -> Path:
    """A small model and its processor, saved."""
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in
               zip(first.parameters(), second.parameters(), strict=True))


# --- Auto classes and pipeline -----------------------------------------------------------------

@pytest.mark.parametrize("door", [AutoModel, AutoModelForImageTextToText])
def test_auto_classes_read_a_saved_model(door, folder, model):
    again = door.from_pretrained(folder)
    assert type(again) is MultiImageVLM and same_weights(model, again)


def test_importing_the_architecture_opens_the_doors(folder):
    """In a fresh process: nothing else of the course has been imported."""
    code = ("import sys, vlm_utils.architecture; from transformers import AutoProcessor; "
            "print(type(AutoProcessor.from_pretrained(sys.argv[1])).__mro__)")
    done = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=REPOSITORY,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "MultiImageProcessor" in done.stdout and "ProcessorMixin" in done.stdout


def test_auto_processor_makes_the_batch_of_the_course(folder, processor, make_sample):
    from vlm_utils.datasets import encode_samples
    samples = [make_sample(3, seed=1), make_sample(1, "Is there a lake in <image_1>?", seed=2)]
    expected = collate(encode_samples(samples, processor, for_generation=True),
                       processor.pad_token_id, left=True)
    auto = AutoProcessor.from_pretrained(folder)
    assert isinstance(auto, MultiImageProcessor) and auto.layout == processor.layout
    for images in ([s.images for s in samples], [i for s in samples for i in s.images]):
        batch = auto(images=images, text=[s.prompt for s in samples], return_tensors="pt",
                     padding=True)
        assert batch.keys() == expected.keys()
        for name, values in expected.items():
            assert torch.equal(batch[name], values), name
    assert "pixel_values" not in auto(text="What is a lake?")


def test_a_prompt_that_does_not_fit_its_images_is_named(folder, picture):
    auto = AutoProcessor.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"prompts have \[2\] <image> placeholders and 1 images"):
        auto(images=picture(), text="<image><image>What changed?")
    with pytest.raises(ValueError, match="prompt 1: the prompt names <image_2>"):
        auto(images=[picture(), picture()], text=["<image>A?", "<image>Is it in <image_2>?"])
    with pytest.raises(ValueError, match="prompt 0: the sample is .* tokens long"):
        auto(text="What changed? " * 200)
    with pytest.raises(TypeError, match="unknown options.*truncation"):
        auto(text="What changed?", truncation=True)
    with pytest.raises(ValueError, match="not a chat"):
        auto.apply_chat_template([{"role": "user", "content": "What changed?"}])


def test_a_setting_of_the_processor_can_still_be_changed(folder):
    assert AutoProcessor.from_pretrained(folder, layout="prepended").layout == "prepended"
    with pytest.raises(TypeError, match="layuot"):
        AutoProcessor.from_pretrained(folder, layuot="prepended")


def test_pipeline_answers_as_the_course_does(make_sample):
    """The trained model in data/, with one prompt, a batch of two, and images put in front."""
    from vlm_utils.answering import answer_samples
    model, processor = load_checkpoint(REPOSITORY / "data" / "tiny_vlm")
    samples = [make_sample(2, seed=1), make_sample(1, "Describe the image.", seed=2)]
    expected = answer_samples(model, processor, samples)
    ask = pipeline("image-text-to-text", model=str(REPOSITORY / "data" / "tiny_vlm"),
                   device="cpu")
    answers = ask(images=[s.images for s in samples], text=[s.prompt for s in samples],
                  return_full_text=False)
    assert [answer["generated_text"] for answer in answers] == expected
    alone = ask(images=samples[0].images, text="What changed?")
    assert alone[0]["generated_text"] == "What changed?" + expected[0]
    assert len(set(expected)) == 2 and all(expected)


def test_generation_settings_are_saved_and_read(folder, model):
    assert model.generation_config is model.language_model.generation_config
    model.generation_config.max_new_tokens = 7
    model.save_pretrained(folder)
    again = MultiImageVLM.from_pretrained(folder)
    assert again.language_model.generation_config.max_new_tokens == 7
    ids = torch.randint(5, 20, (1, 3))
    assert again.generate(ids, eos_token_id=-1).shape == (1, 7)
    (folder / "generation_config.json").unlink()        # as models were saved before
    older = MultiImageVLM.from_pretrained(folder)
    assert older.generation_config.eos_token_id == model.config.text_config.eos_token_id


# --- Trainer -----------------------------------------------------------------------------------

def token_accuracy(predicted) -> dict[str, float]:
    """What people write: logits beside the labels that they predict."""
    guesses, labels = predicted.predictions.argmax(-1)[:, :-1], predicted.label_ids[:, 1:]
    learnt = labels != -100
    return {"accuracy": float((guesses == labels)[learnt].mean()), "tokens": int(learnt.sum())}


def make_trainer(model, processor, samples, tmp_path, **settings) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "run"), per_device_eval_batch_size=4, report_to=[],
        use_cpu=True, save_strategy="no", disable_tqdm=True,
        **{"max_steps": 2, "learning_rate": 1e-2, "per_device_train_batch_size": 4} | settings)
    return Trainer(model=model, args=arguments, train_dataset=samples, eval_dataset=samples,
                   data_collator=partial(collate, pad_token_id=processor.pad_token_id),
                   processing_class=processor, compute_metrics=token_accuracy)


@pytest.fixture
def samples(earth_table, processor) -> EncodedSamples:
    """Ten samples of one to three images, so that batches differ in length and in images."""
    mixture = {"describe 1": 3, "compare 2": 3, "select 3": 4}
    return EncodedSamples(build_tasks(earth_table, mixture, seed=0), processor)


def test_trainer_evaluates_with_metrics(model, processor, samples, tmp_path):
    """Batches of different lengths are put together, and no answer token is lost or made up."""
    trainer = make_trainer(model, processor, samples, tmp_path)
    found = trainer.evaluate()
    expected = sum(label != -100 for i in range(len(samples)) for label in samples[i]["labels"][1:])
    assert found["eval_tokens"] == expected and np.isfinite(found["eval_loss"])
    batch = collate([samples[i] for i in range(len(samples))], processor.pad_token_id)
    with torch.no_grad():
        logits = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
    learnt = batch["labels"][:, 1:] != -100
    right = (logits.argmax(-1)[:, :-1] == batch["labels"][:, 1:])[learnt].float().mean()
    assert found["eval_accuracy"] == pytest.approx(right.item())


def test_trainer_trains_saves_and_the_course_reads_it(model, processor, samples, tmp_path):
    trainer = make_trainer(model, processor, samples, tmp_path, max_steps=30)
    before = trainer.evaluate()
    encoder = [p.clone() for p in model.vision_encoder.parameters()]
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < 0.7 * before["eval_loss"]
    assert after["eval_accuracy"] > before["eval_accuracy"]
    assert all(torch.equal(a, b) for a, b in
               zip(encoder, model.vision_encoder.parameters(), strict=True))
    trainer.save_model(str(tmp_path / "saved"))
    again, read = load_checkpoint(tmp_path / "saved")
    assert same_weights(model, again) and read.tokens_per_image == TOKENS


def test_trainer_accumulates_as_one_large_batch(make_model, processor, samples, tmp_path):
    """Trainer hands over num_items_in_batch: a mean of means would weigh short answers more."""
    weights = []
    for name, batch, accumulation in (("whole", 8, 1), ("parts", 2, 4)):
        model = make_model()
        make_trainer(model, processor, samples, tmp_path / name, max_steps=1,
                     per_device_train_batch_size=batch, optim="sgd", learning_rate=0.1,
                     gradient_accumulation_steps=accumulation, max_grad_norm=0.0).train()
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    start = torch.cat([p.detach().flatten() for p in make_model().parameters()])
    assert (weights[0] - start).abs().max() > 1e-4
    torch.testing.assert_close(weights[0], weights[1], atol=1e-6, rtol=1e-4)


# --- adapters ----------------------------------------------------------------------------------

@pytest.fixture
def adapter(folder, samples, processor, tmp_path):
    """A trained LoRA adapter beside its base, and the answers (logits) of the two together."""
    from peft import LoraConfig, get_peft_model
    base, _ = load_checkpoint(folder)
    wrapped = get_peft_model(base, LoraConfig(
        r=2, target_modules=r"language_model.*\.(q|v)_proj", modules_to_save=["projector"]))
    batch = collate([samples[i] for i in range(4)], processor.pad_token_id)
    optimizer = torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        wrapped(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    wrapped.eval().save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        return tmp_path / "adapter", batch, wrapped(**batch).logits


def test_an_adapter_is_loaded_with_its_base(adapter, folder):
    path, batch, expected = adapter
    model, processor = load_checkpoint(path, layout="prepended")
    assert type(model) is MultiImageVLM and processor.layout == "prepended"
    assert not model.training
    with torch.no_grad():
        found = model(**batch).logits
        untrained = load_checkpoint(folder)[0](**batch).logits
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found, untrained, atol=1e-1)
    assert not any("lora" in name for name in model.state_dict())


def test_an_adapter_without_its_base_says_what_it_is(adapter, folder):
    path, _, _ = adapter
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(FileNotFoundError, match="adapter is a LoRA adapter of the model in .*saved"
                                                ", and there is no model: write its folder"):
        load_checkpoint(path)
    settings = path / "adapter_config.json"
    settings.write_text(settings.read_text().replace(f'"{folder}"', "null"))
    with pytest.raises(FileNotFoundError, match="does not say of which model"):
        load_checkpoint(path)


def test_an_adapter_without_peft_names_what_to_install(adapter, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match="is a LoRA adapter: python -m pip install peft"):
        load_checkpoint(adapter[0])


# --- a vision encoder that is trained ----------------------------------------------------------

def test_an_encoder_that_was_trained_is_saved_and_loaded_as_trained(
        make_model, processor, make_sample, tmp_path):
    """Its weights, and that it trains: a run that goes on would otherwise go on with half."""
    from small_models import batch_of
    model = make_model(frozen=False).train()
    before = [p.clone() for p in model.vision_encoder.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(**batch_of([make_sample(2)], processor)).loss.backward()
    optimizer.step()
    moved = [not torch.equal(a, b) for a, b in
             zip(before, model.vision_encoder.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2
    for name, trains in (("trained", True), ("frozen", False)):
        if not trains:
            model.freeze_vision_encoder()
        model.save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
        again, _ = load_checkpoint(tmp_path / name)
        info = MultiImageVLM.from_pretrained(tmp_path / name, output_loading_info=True)
        assert info[0].vision_encoder.embeddings.cls_token.requires_grad == trains
        assert same_weights(model, again)
        assert {p.requires_grad for p in again.vision_encoder.parameters()} == {trains}
        assert all(p.requires_grad for p in again.language_model.parameters())
