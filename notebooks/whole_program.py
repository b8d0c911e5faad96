"""The whole program on one page: from images to a trained, tested, saved, freed model.
Copy it and change it: it needs torch, transformers, datasets and the folder data/.
Lessons: 01 lines 22-60, 02 62-94, 03 96-109, 04 120-143, 05 111-118, 06 145-150."""
import argparse, gc, json, random, weakref
from pathlib import Path
import torch
from datasets import load_dataset
from torch import nn
from transformers import (
    LlamaConfig, LlamaForCausalLM, PreTrainedConfig, PreTrainedTokenizerFast, ViTConfig,
    PreTrainedModel, ViTImageProcessorPil, ViTModel, get_cosine_schedule_with_warmup)

DATA = Path(__file__).resolve().parents[1] / "data"
COMPARE, SELECT, RATE, WARMUP, CHOICES, TESTS = 16, 16, 2e-3, 30, 3, 400
DEVICE = torch.accelerator.current_accelerator() or "cpu"   # cuda, mps or cpu
parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=1300)
parser.add_argument("--output", default=f"{DATA.parent}/build/whole_program")
args = parser.parse_args()
random.seed(0)

# 01 The model: encoded images take the places of <image> tokens among the words.
class Config(PreTrainedConfig):
    model_type = "multi_image_vlm"
class MultiImageVLM(PreTrainedModel):
    config_class = Config
    def __init__(self, config):
        super().__init__(config)
        vit, lm = ViTConfig(**config.vision_config), LlamaConfig(**config.text_config)
        seen, out = 4 * vit.hidden_size, lm.hidden_size
        self.vision_encoder = ViTModel(vit, add_pooling_layer=False)
        self.projector = nn.ModuleDict({"layers": nn.Sequential(    # names as stored
            nn.Linear(seen, out), nn.GELU(), nn.Linear(out, out), nn.LayerNorm(out))})
        self.language_model = LlamaForCausalLM(lm)
        self.post_init()

    def embed(self, input_ids, images):             # (images, tokens, 4 * vision_dim)
        words = self.language_model.get_input_embeddings()(input_ids)
        places = (input_ids == self.config.image_token_id).unsqueeze(-1)
        assert places.sum() == images[..., 0].numel(), "as many places as image tokens"
        return words.masked_scatter(places, self.projector["layers"](images))

    def forward(self, input_ids, images, **more):   # logits (batch, length, vocabulary)
        return self.language_model(inputs_embeds=self.embed(input_ids, images), **more)

    def generate(self, input_ids, images, labels=None, **more):
        embeds = self.embed(input_ids, images)      # (batch, length, text_dim)
        return self.language_model.generate(inputs_embeds=embeds, **more)

# Load its three parts pretrained, and freeze the encoder: each image is encoded once.
tokenizer = PreTrainedTokenizerFast.from_pretrained(DATA / "tiny_vlm_base")
image_processor = ViTImageProcessorPil.from_pretrained(DATA / "tiny_vlm_base")
model = MultiImageVLM.from_pretrained(DATA / "tiny_vlm_base").to(DEVICE)
model.vision_encoder.requires_grad_(False)

def encode(pictures):
    pixels = image_processor(pictures, return_tensors="pt")["pixel_values"].to(DEVICE)
    patches = model.vision_encoder(pixels).last_hidden_state[:, 1:]
    n = int(patches.shape[1]**0.5) // 2             # 2 x 2 patches become one token
    return patches.unflatten(1, (n, 2, n, 2)).transpose(2, 3).flatten(1, 2).flatten(2)

# 02 Two data sets. A sample is (encoded images, question, answer).
def facts(text, sized):                             # {"desert", "small lake, top left"}
    scene, sizes = json.loads(text), ("", "small ", "large ")
    return {scene["cover"]} | {f"{sizes[f['size'] * sized]}{f['kind']}, {f['place']}"
                               for f in scene["features"]}

def comparisons(table, count):
    sites = [(encode(frames), [facts(text, sized=True) for text in texts])
             for frames, texts in zip(table["frames"][:count], table["scenes"])]
    for seen, scenes in (sites[i % len(sites)] for i in range(count)):
        pairs = [random.sample(range(len(scenes)), 2) for _ in range(3)]
        a, b = max(pairs, key=lambda pair: scenes[pair[0]] != scenes[pair[1]])
        old, new = "".join(scenes[a] - scenes[b]), "".join(scenes[b] - scenes[a])
        yield seen[[a, b]], "What changed?", f"From {old or 'none'} to {new or 'none'}."

def selections(table, count):
    images, captions = encode(table["image"][:count]), table["caption_0"][:]
    scenes = [facts(text, sized=False) for text in table["scene"][:count]]
    for target in (i % len(scenes) for i in range(count)):
        others = [row for row in random.sample(range(len(scenes)), 20)
                  if not scenes[target] <= scenes[row]]     # the caption is not true
        rows = random.sample([target, *others[:CHOICES - 1]], CHOICES)
        caption = captions[target][0].lower() + captions[target][1:-1]
        answer = f"<image_{rows.index(target) + 1}>"
        yield images[rows], f"Which image shows: {caption}?", answer

sequences, scenes = (load_dataset(
    "parquet", data_dir=f"{DATA}/tiny_earth/{name}", cache_dir=args.output)
    for name in ("sequences", "scenes"))
learnt = [*comparisons(sequences["train"], COMPARE * args.steps),
          *selections(scenes["train"], SELECT * args.steps)]
tests = {"comparison": [*comparisons(sequences["test"], TESTS)],
         "selection": [*selections(scenes["test"], TESTS)]}

# 03 A batch: images in one flat stack; texts padded on the left; only answers learnt.
def collate(samples, answered=True):
    ids, labels = [], []
    for images, question, answer in samples:
        places = "<image>" * images.shape[1]
        names = "".join(f"{places}<image_{k + 1}>" for k in range(len(images)))
        prompt = tokenizer(f"{names}{question}\n")["input_ids"]
        answer = tokenizer(answer + tokenizer.eos_token)["input_ids"] * answered
        ids.append({"input_ids": prompt + answer})
        labels.append(torch.tensor([-100] * len(prompt) + answer))
    batch = dict(tokenizer.pad(ids, padding_side="left", return_tensors="pt"))
    batch["labels"] = nn.utils.rnn.pad_sequence(labels, True, -100, "left")
    batch["images"] = torch.cat([images for images, *_ in samples])
    return {name: values.to(DEVICE) for name, values in batch.items()}

# 05 The tests: how many answers, the likeliest token each time, are exactly right?
def test(when):
    for task, samples in tests.items():
        ids = model.generate(**collate(samples, answered=False), max_new_tokens=32)
        said = [s.split(tokenizer.eos_token)[0] for s in tokenizer.batch_decode(ids)]
        answers = [answer for *_, answer in samples]
        right, often = map(str.__eq__, said, answers), max(map(answers.count, answers))
        print(f"{task} {when}: {sum(right)} of {TESTS} right; by guessing {often}")

# 04 The training: Muon for matrices, AdamW for the rest, both on a cosine schedule.
test("before training")
matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
optimizers = [torch.optim.Muon(matrices, RATE, 0.05, adjust_lr_fn="match_rms_adamw"),
              torch.optim.AdamW(others, RATE, betas=(0.9, 0.98), weight_decay=0)]
schedules = [get_cosine_schedule_with_warmup(o, WARMUP, args.steps) for o in optimizers]
loader = torch.utils.data.DataLoader(learnt, COMPARE + SELECT, True, collate_fn=collate)
for step, batch in enumerate(loader, start=1):
    loss = model(**batch).loss
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer, schedule in zip(optimizers, schedules):
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    print(f"step {step}: loss {loss.item():.3f}", end="\r")
test("after training")

# Save, load again, and see that nothing was lost.
for part in (model, tokenizer, image_processor):
    part.save_pretrained(args.output)
again = MultiImageVLM.from_pretrained(args.output).to(DEVICE)
print("loaded again, equal:", torch.equal(model(**batch).logits, again(**batch).logits))

# 06 Free the memory and prove it: no name may hold the models or their weights.
proof = [weakref.ref(thing) for thing in (model, again, *model.parameters())]
del model, again, matrices, others, optimizers, optimizer, schedules, schedule, loss
gc.collect()
torch.cuda.empty_cache()
print("freed:", all(reference() is None for reference in proof))
