"""The checkpoint's processor, also where torchvision is absent or cannot be loaded.

transformers 5 wants torchvision for Qwen-VL's video processor, even when no video is ever shown; without it the same processor class is
built without that part. A torchvision whose binary does not match torch is worse than none, because transformers believes in it: it is
hidden.
"""

import importlib
import importlib.util
import sys
from functools import cache
from typing import Any, Literal

from gpg_vl.types import UserError

_QWEN_PROCESSORS = {"qwen2_vl": "Qwen2VLProcessor", "qwen2_5_vl": "Qwen2_5_VLProcessor", "qwen3_vl": "Qwen3VLProcessor"}

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


def load_processor(path: str, backend: str) -> Any:
    """The processor of a checkpoint, its images resized by `backend`."""
    torchvision_works()  # before transformers looks for it
    from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, AutoTokenizer

    images: Any = AutoImageProcessor.from_pretrained(path, backend=backend)
    family = AutoConfig.from_pretrained(path).model_type
    if not torchvision_works() and family in _QWEN_PROCESSORS:
        return image_only(family, images, AutoTokenizer.from_pretrained(path))
    try:
        processor: Any = AutoProcessor.from_pretrained(path)
    except (ImportError, OSError):
        if torchvision_works():
            raise
        raise UserError(f"policy.model: the processor of a {family} needs torchvision; {INSTALL_TORCHVISION}") from None
    processor.image_processor = images
    return processor


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


def image_only(model_type: str, image_processor: Any, tokenizer: Any) -> Any:
    """The processor of a Qwen-VL family without its video part."""
    import transformers

    parent = getattr(transformers, _QWEN_PROCESSORS[model_type])
    return _image_only_class(parent)(image_processor, tokenizer, chat_template=tokenizer.chat_template)


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

    ImageOnly.__name__ = ImageOnly.__qualname__ = parent.__name__  # what the saved processor config names
    return ImageOnly
