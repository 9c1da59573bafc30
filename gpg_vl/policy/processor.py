"""Load the processor of a checkpoint, also where torchvision is absent or cannot be imported.

transformers 5 needs torchvision for the video processor of Qwen-VL, even if there are no videos.
Here the same processor class is built without that part; it still saves the settings for videos. A
torchvision whose binary does not match torch is worse than none, because transformers tries to use
it; so it is hidden.
"""

import importlib
import importlib.util
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any, Literal

from gpg_vl.errors import UserError, one_line

_QWEN = {
    "qwen2_vl": ("Qwen2VLProcessor", "Qwen2VLVideoProcessor"),
    "qwen2_5_vl": ("Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor"),
    "qwen3_vl": ("Qwen3VLProcessor", "Qwen3VLVideoProcessor"),
}
"""Classes of the processor and of its video processor, for each family."""

LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""Options for transformers to load a folder: no request to a hub, no code from a checkpoint."""

INSTALL_TORCHVISION = (
    "install the torchvision that matches your torch (see pytorch.org/get-started); images work "
    "without it"
)


@cache
def torchvision_works() -> bool:
    """Return True if torchvision can be imported.

    If it is installed and cannot be imported, hide it from all code in this process.
    """
    if importlib.util.find_spec("torchvision") is None:
        return False
    try:
        importlib.import_module("torchvision")
    except (RuntimeError, ImportError, OSError):
        for name in list(sys.modules):
            if name.split(".")[0] == "torchvision":
                del sys.modules[name]
        # With None as an entry, the import system raises ModuleNotFoundError.
        sys.modules["torchvision"] = None  # type: ignore[assignment]
        return False
    return True


def choose_backend(requested: Literal["auto", "pil", "torchvision"]) -> str:
    """Choose the library that resizes images: torchvision where it works, else Pillow.

    Raises:
        UserError: torchvision is requested and does not work.
    """
    if requested == "torchvision" and not torchvision_works():
        raise UserError(
            "policy.image_backend: got torchvision, which cannot be imported; "
            f"{INSTALL_TORCHVISION}"
        )
    if requested != "pil" and torchvision_works():
        return "torchvision"
    return "pil"


def load_processor(folder: Path, backend: str, key: str = "policy.model") -> Any:
    """Load the processor of a checkpoint.

    Args:
        backend: library that resizes images.
        key: config key that messages begin with.

    Raises:
        UserError: a part of it is missing or cannot be read.
    """
    torchvision_works()  # hides a broken one before transformers is imported

    try:
        processor = _assemble(folder, backend)
    except Exception as error:  # for files that it cannot use, transformers raises any exception
        if isinstance(error, ImportError) and not torchvision_works():
            raise UserError(
                f"{key}: {folder}: this processor needs torchvision; {INSTALL_TORCHVISION}"
            ) from None
        why = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(f"{key}: {folder}: its processor cannot be loaded: {why}") from error
    if not processor.chat_template:
        raise UserError(
            f"{key}: {folder}: has no chat template; copy chat_template.jinja or chat_template.json"
            " from its base model"
        )
    if processor.tokenizer.pad_token_id is None:
        raise UserError(
            f"{key}: {folder}: its tokenizer has no pad token; name one in tokenizer_config.json, "
            'for instance "pad_token": "<|endoftext|>" (any special token that no answer contains '
            "will do)"
        )
    return processor


def _assemble(folder: Path, backend: str) -> Any:
    """Build the processor with an image processor of `backend`."""
    from transformers import AutoImageProcessor, AutoTokenizer

    images: Any = AutoImageProcessor.from_pretrained(folder, backend=backend, **LOCAL)
    family = json.loads((folder / "config.json").read_text())["model_type"]
    if family in _QWEN:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, **LOCAL)
        settings, _ = _processor_class(family).get_processor_dict(folder, **LOCAL)
        template = settings.get("chat_template") or tokenizer.chat_template
        return image_only(family, images, tokenizer, template, _video_settings(folder))
    from transformers import AutoProcessor

    processor: Any = AutoProcessor.from_pretrained(folder, **LOCAL)
    processor.image_processor = images
    processor.chat_template = processor.chat_template or processor.tokenizer.chat_template
    return processor


def _video_settings(folder: Path) -> dict[str, Any] | None:
    """Read the video settings of a checkpoint, to save them unchanged; None if there are none."""
    # Newer checkpoints keep them as a part of the processor's file, older ones in their own file.
    newer = folder / "processor_config.json"
    if newer.exists():
        settings = json.loads(newer.read_text()).get("video_processor")
        if settings:
            return settings
    older = folder / "video_preprocessor_config.json"
    if older.exists():
        return json.loads(older.read_text()) or None
    return None


def limit_pixels(processor: Any, min_pixels: int | None, max_pixels: int | None) -> None:
    """Set the smallest and largest image area of a Qwen-VL processor, where they are given.

    Raises:
        UserError: the processor has no such limits.
    """
    images = processor.image_processor
    if min_pixels is max_pixels is None:
        return
    if "shortest_edge" not in images.size or "longest_edge" not in images.size:
        raise UserError(
            f"policy.min_pixels and policy.max_pixels belong to Qwen-VL; a {type(images).__name__} "
            f"has the sizes {images.size}"
        )
    images.size = {
        "shortest_edge": min_pixels or images.size["shortest_edge"],
        "longest_edge": max_pixels or images.size["longest_edge"],
    }


def image_only(
    family: str,
    images: Any,
    tokenizer: Any,
    chat_template: str,
    videos: dict[str, Any] | None = None,
) -> Any:
    """Build the processor of a Qwen-VL family without its video part.

    That part is not used here, and it cannot be built without torchvision. Its settings are saved
    nevertheless: plain transformers, vLLM and TRL need them to load a Qwen-VL processor.

    Args:
        videos: video settings to save; None = those of the family, with the patches of `images`.
    """
    image_only_class = _image_only_class(_processor_class(family))
    processor = image_only_class(images, tokenizer, chat_template=chat_template)
    if not videos:
        videos = {
            "video_processor_type": _QWEN[family][1],
            "patch_size": images.patch_size,
            "temporal_patch_size": images.temporal_patch_size,
            "merge_size": images.merge_size,
        }
    processor.video_settings = videos
    return processor


def _processor_class(family: str) -> Any:
    """Return the processor class of transformers for a Qwen-VL family."""
    import transformers

    return getattr(transformers, _QWEN[family][0])


@cache
def _image_only_class(parent: Any) -> Any:
    """Return a subclass of a Qwen-VL processor class that has no video processor."""
    from transformers import ProcessorMixin

    class ImageOnly(parent):
        def __init__(
            self,
            image_processor: Any = None,
            tokenizer: Any = None,
            chat_template: str | None = None,
        ) -> None:
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

    # The saved processor config names the class, and plain transformers must find it.
    ImageOnly.__name__ = ImageOnly.__qualname__ = parent.__name__
    return ImageOnly
