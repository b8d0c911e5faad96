"""Models from where they are kept: embedded in data/, joined from the hub, or a checkpoint."""

from __future__ import annotations

from pathlib import Path

from vlm_utils.architecture import MultiImageProcessor, MultiImageVLM, join_pretrained
from vlm_utils.profiles import Profile, data_folder, get_device, output_folder
from vlm_utils.sources.hub import fetch_all


def load_base_model(profile: Profile, **settings) -> tuple[MultiImageVLM, MultiImageProcessor]:
    """The model a profile starts from, its vision encoder frozen, on the best device.

    settings: of MultiImageProcessor, as layout="prepended".
    Raises MissingFiles where the full profile's parts are neither cached nor to be had.
    """
    if profile.base_model is not None:
        return load_checkpoint(data_folder() / profile.base_model, **settings)
    return _join_parts(profile, **settings)


def load_checkpoint(folder: str | Path, **settings) -> tuple[MultiImageVLM, MultiImageProcessor]:
    """A model and its processor as train() wrote them. Raises FileNotFoundError if not there."""
    folder = Path(folder)
    recover_checkpoint(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"no model in {folder}: config.json is missing")
    model = MultiImageVLM.from_pretrained(folder).freeze_vision_encoder().eval()
    return model.to(get_device()), MultiImageProcessor.from_pretrained(folder, **settings)


def recover_checkpoint(folder: str | Path) -> None:
    """Put the last checkpoint back where a crash came between moving it away and its successor in.

    That leaves FOLDER.old and no FOLDER. Anything else is left as it is.
    """
    folder = Path(folder)
    old = folder.with_name(folder.name + ".old")
    if old.is_dir() and not folder.exists():
        old.rename(folder)


def lesson_checkpoint(profile: Profile) -> Path:
    """Where lesson 04 writes its model."""
    return output_folder() / profile.name / "lesson_04"


def find_trained_model(profile: Profile) -> tuple[Path, str]:
    """The checkpoint of lesson 04 where it has been run, else the embedded one; and which it is.

    Raises FileNotFoundError where there is neither.
    """
    folder = lesson_checkpoint(profile)
    recover_checkpoint(folder)
    if (folder / "config.json").is_file():
        return folder, "the checkpoint that lesson 04 wrote"
    if profile.trained_model is not None:
        return data_folder() / profile.trained_model, "the trained model in data/"
    raise FileNotFoundError(f"no trained model for profile {profile.name!r}: run lesson 04 first; "
                            f"it writes {folder}")


def _join_parts(profile: Profile, **settings) -> tuple[MultiImageVLM, MultiImageProcessor]:
    """A pretrained ViT and a pretrained language model, with a new projector between them."""
    # Fetched before anything is built: what is missing is said first, and all of it.
    vision_folder, text_folder = fetch_all([profile.vision_encoder, profile.language_model])
    model, processor = join_pretrained(
        vision_folder, text_folder, profile.max_images, profile.merge_factor, **settings)
    return model.to(get_device()), processor
