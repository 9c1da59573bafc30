"""Tell the part of a model from the names of its parameters. No torch."""

PARTS: tuple[str, ...] = ("language", "projector", "vision")
"""Parts of a model that a config names."""
_PROJECTORS = (".merger.", ".deepstack_merger_list.", ".multi_modal_projector.", ".connector.")
_TOWERS = (".visual.", ".vision_tower.", ".vision_model.")


def part_of(name: str) -> str:
    """Return the part of the model that a parameter belongs to, by its name."""
    # First the projectors: that of Qwen-VL lies inside the tower, as `visual.merger`.
    if any(pattern in name for pattern in _PROJECTORS):
        return "projector"
    if any(pattern in name for pattern in _TOWERS):
        return "vision"
    return "language"


def part_of_module(name: str) -> str:
    """Return the same of a module or parameter whose part may be the first word of its name."""
    return part_of(f".{name}.")


def is_head(module: str) -> bool:
    """Return True if a module is the head, before transformers 5 or since then."""
    return module.rpartition(".")[2] == "lm_head"
