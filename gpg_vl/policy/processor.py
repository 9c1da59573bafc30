"""The checkpoint's processor, also where torchvision is absent or cannot be loaded.

transformers 5 wants torchvision for Qwen-VL's video processor, even when no video is ever shown; the same processor class is built here
without that part, and saves its settings. A torchvision whose binary does not match torch is worse than none, because transformers
believes in it: it is hidden.
"""

import importlib
import importlib.util
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any, Literal

from gpg_vl.errors import UserError

_QWEN = {
    "qwen2_vl": ("Qwen2VLProcessor", "Qwen2VLVideoProcessor"),
    "qwen2_5_vl": ("Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor"),
    "qwen3_vl": ("Qwen3VLProcessor", "Qwen3VLVideoProcessor"),
}
"""The classes that read text with images, and videos."""

LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""How transformers loads what lies in a folder: it asks no hub and runs no code of a checkpoint's."""

INSTALL_TORCHVISION = "install the torchvision that matches your torch (see pytorch.org/get-started); images work without it"


@cache
def torchvision_works() -> bool:
    """Whether torchvision can really be imported. If it is installed and cannot, hide it from everybody in this process."""
    if importlib.util.find_spec("torchvision") is None:
        return False
    try:
        importlib.import_module("torchvision")
    except (RuntimeError, ImportError, OSError):
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        sys.modules["torchvision"] = None  # type: ignore[assignment]  # the import system's own way to say "not here"
        return False
    return True


def choose_backend(wanted: Literal["auto", "pil", "torchvision"]) -> str:
    """Who resizes images: torchvision where it works, else Pillow.

    Raises:
        UserError: torchvision was asked for and does not work.
    """
    if wanted == "torchvision" and not torchvision_works():
        raise UserError(f"policy.image_backend: got torchvision, which cannot be imported; {INSTALL_TORCHVISION}")
    return "torchvision" if wanted != "pil" and torchvision_works() else "pil"


def load_processor(folder: Path, backend: str, key: str = "policy.model") -> Any:
    """The processor of a checkpoint, its images resized by `backend`.

    Args:
        key: whom to blame in messages.

    Raises:
        UserError: a part of it is missing or cannot be read.
    """
    torchvision_works()  # before transformers looks for it
    from transformers import AutoImageProcessor, AutoTokenizer

    try:
        images: Any = AutoImageProcessor.from_pretrained(folder, backend=backend, **LOCAL)
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, **LOCAL)
        processor = _assemble(folder, images, tokenizer)
    except Exception as error:  # whatever transformers raises for files that it cannot use: a KeyError, a bare Exception...
        if isinstance(error, ImportError) and not torchvision_works():
            raise UserError(f"{key}: {folder}: this processor needs torchvision; {INSTALL_TORCHVISION}") from None
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(f"{key}: {folder}: its processor cannot be loaded: {why}") from error
    if not processor.chat_template:
        raise UserError(f"{key}: {folder}: has no chat template; copy chat_template.jinja or chat_template.json from its base model")
    if processor.tokenizer.pad_token_id is None:
        raise UserError(
            f"{key}: {folder}: its tokenizer has no pad token; name one in tokenizer_config.json, for instance "
            '"pad_token": "<|endoftext|>" (any special token that no answer contains will do)'
        )
    return processor


def _assemble(folder: Path, images: Any, tokenizer: Any) -> Any:
    family = json.loads((folder / "config.json").read_text())["model_type"]
    if family in _QWEN:
        template = _parent(family).get_processor_dict(folder, **LOCAL)[0].get("chat_template") or tokenizer.chat_template
        return image_only(family, images, tokenizer, template, _video_settings(folder))
    from transformers import AutoProcessor

    processor: Any = AutoProcessor.from_pretrained(folder, **LOCAL)
    processor.image_processor = images
    processor.chat_template = processor.chat_template or tokenizer.chat_template
    return processor


def _video_settings(folder: Path) -> dict[str, Any] | None:
    """What a checkpoint says of videos, to be saved again as it was; None = nothing."""
    for name, part in (("processor_config.json", "video_processor"), ("video_preprocessor_config.json", None)):
        if (folder / name).exists():
            content = json.loads((folder / name).read_text())
            if found := content.get(part) if part else content:
                return found
    return None


def limit_pixels(processor: Any, min_pixels: int | None, max_pixels: int | None) -> None:
    """Set the smallest and largest image area of a Qwen-VL processor, where given.

    Raises:
        UserError: the processor has no such limits.
    """
    images = processor.image_processor
    if min_pixels is max_pixels is None:
        return
    if "shortest_edge" not in images.size or "longest_edge" not in images.size:
        raise UserError(f"policy.min_pixels and policy.max_pixels belong to Qwen-VL; a {type(images).__name__} has the sizes {images.size}")
    images.size = {"shortest_edge": min_pixels or images.size["shortest_edge"], "longest_edge": max_pixels or images.size["longest_edge"]}


def image_only(family: str, images: Any, tokenizer: Any, chat_template: str, videos: dict[str, Any] | None = None) -> Any:
    """The processor of a Qwen-VL family without a video part, which nothing here uses and which cannot be built without torchvision.

    It saves one all the same: plain transformers, vLLM and TRL load no Qwen-VL processor without.

    Args:
        videos: the settings that are saved; None = the family's own, with the patches of `images`.
    """
    patches = {name: getattr(images, name) for name in ("patch_size", "temporal_patch_size", "merge_size")}
    processor = _image_only_class(_parent(family))(images, tokenizer, chat_template=chat_template)
    processor.video_settings = videos or {"video_processor_type": _QWEN[family][1], **patches}
    return processor


def _parent(family: str) -> Any:
    import transformers

    return getattr(transformers, _QWEN[family][0])


@cache
def _image_only_class(parent: Any) -> Any:
    from transformers import ProcessorMixin

    class ImageOnly(parent):
        def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
            for kind in ("image", "video"):
                token = f"<|{kind}_pad|>"
                setattr(self, f"{kind}_token", token)
                setattr(self, f"{kind}_token_id", tokenizer.convert_tokens_to_ids(token))
            for edge in ("vision_start", "vision_end"):
                setattr(self, f"{edge}_token", f"<|{edge}|>")
                setattr(self, f"{edge}_token_id", tokenizer.convert_tokens_to_ids(f"<|{edge}|>"))
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

        def to_dict(self) -> dict[str, Any]:
            return {**super().to_dict(), "video_processor": self.video_settings}

    ImageOnly.__name__ = ImageOnly.__qualname__ = parent.__name__  # what the saved processor config names
    return ImageOnly
