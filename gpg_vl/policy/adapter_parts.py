"""Refuse adapters that do not fit the parts that a config trains, by names alone. No torch.

`plan` asks with the little that a config.json and the header of a file tell, loading with the names
of the model.
"""

from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from itertools import chain

from gpg_vl.config.schema import PolicyConfig
from gpg_vl.errors import UserError, shown
from gpg_vl.policy.part_names import PARTS, is_head, part_of_module


def meant(targets: Sequence[str], matrices: Collection[str]) -> list[str]:
    """Return the matrices that names of `policy.lora.targets` mean.

    Args:
        targets: paths of matrices, or the ends of them.
        matrices: their paths, or the last words where no more is known.
    """
    ends = tuple(f".{target}" for target in targets)
    last_words = tuple(f".{target.rpartition('.')[2]}" for target in targets)
    found: list[str] = []
    for matrix in matrices:
        if f".{matrix}".endswith(ends if "." in matrix else last_words):
            found.append(matrix)
    return found


def check_targets(matrices: Mapping[str, Collection[str]], config: PolicyConfig) -> None:
    """Refuse targets that match nothing, and a part set to lora without any matrix of them.

    Args:
        matrices: part set to lora -> its matrices in layers: their paths, or the last words.

    Raises:
        UserError: a part has no matrix, or a name of `policy.lora.targets` matches none.
    """
    for part, names in matrices.items():
        if not names:
            raise UserError(
                f"policy.{part}: got lora, and the {part} of this model has no matrices in layers; "
                f"set policy.{part} to frozen, or to full"
            )
    targets = config.lora.targets
    all_names = [*chain.from_iterable(matrices.values())]
    for target in targets:
        if not meant([target], all_names):
            words = sorted({name.rpartition(".")[2] for name in all_names})
            nearest = get_close_matches(target, words, n=1)
            advice = f"did you mean {nearest[0]}? They" if nearest else "they"
            raise UserError(
                f"policy.lora.targets: {shown(target)} matches no matrix of the parts set to lora; "
                f"{advice} have {', '.join(words)}"
            )
    for part, names in matrices.items():
        if targets and not meant(targets, names):
            raise UserError(
                f"policy.lora.targets: {', '.join(targets)} match no matrix of {part}, and "
                f"policy.{part} is lora; set it to frozen, or name matrices of it"
            )


def check_parts(
    adapted: Collection[str], whole: Collection[str], config: PolicyConfig, origin: str
) -> None:
    """Refuse an adapter of other parts than the config trains.

    Args:
        adapted: modules that have an adapter.
        whole: parameters that the files hold as a whole.
        origin: key and folder that messages begin with.

    Raises:
        UserError: a part is trained otherwise than by the adapter, or it changes the head.
    """
    if any(map(is_head, adapted)):
        raise UserError(
            f"{origin}: its adapter changes the head (lm_head), which is not trained here; merge "
            "it first (gpg-vl export --merged), and name that folder"
        )
    for name in sorted(whole):
        part = part_of_module(name)
        if getattr(config, part) != "full":
            raise UserError(
                f"{origin}: its adapter holds {name} as a whole, and policy.{part} is "
                f"{getattr(config, part)}; set policy.{part} to full, or merge the adapter first"
            )
    parts, whole_parts = set(map(part_of_module, adapted)), set(map(part_of_module, whole))
    for part in PARTS:
        how = getattr(config, part)
        if (how == "lora") != (part in parts):
            has = "has matrices" if part in parts else "has no matrix"
            remedy = "lora" if part in parts else "frozen"
            raise UserError(
                f"{origin}: its adapter {has} in {part}, and policy.{part} is {how}; set "
                f"policy.{part} to {remedy}"
            )
        if how == "full" and part not in whole_parts:
            refuse_lack(f"the tensors of {part}", part, origin)


def refuse_lack(what: str, part: str, origin: str) -> None:
    """Refuse an adapter that lacks tensors of a part that is trained as a whole.

    Raises:
        UserError: always.
    """
    raise UserError(
        f"{origin}: its adapter lacks {what}, and policy.{part} is full; set policy.{part} to "
        "frozen, or merge the adapter first"
    )
