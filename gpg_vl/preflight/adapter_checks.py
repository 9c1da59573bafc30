"""Check by names and sizes alone what adapters are put on, or trained on. No torch.

What is refused here, training would refuse too, after seconds of imports or the weights of a model.
"""

from gpg_vl.config.schema import PolicyConfig
from gpg_vl.errors import UserError, shown
from gpg_vl.policy.adapter_files import AdapterFiles, check_parts
from gpg_vl.policy.part_names import PARTS
from gpg_vl.policy.sizes import Size
from gpg_vl.preflight.memory import Workload


def check_adapters(workload: Workload) -> None:
    """Refuse adapters that cannot be trained: new ones, or one on disk of other parts.

    Raises:
        UserError: a part set to lora would get none, a target matches nothing, or the adapter that
            the run begins with is not of the parts that the config trains.
    """
    policy = workload.config.policy
    if not policy.trains_adapters:
        return
    if workload.adapter is None:
        _check_targets(policy, workload.size)
    else:
        _check_files(workload.adapter, policy)


def can_train(workload: Workload) -> bool:
    """Return True if the adapters of a run can be trained, or if it has none."""
    try:
        check_adapters(workload)
    except UserError:
        return False
    return True


def parts_to_train_on(adapter: AdapterFiles) -> dict[str, str]:
    """Return how a config trains each part to train an adapter on; empty = no config does."""
    parts = adapter.trained_parts
    is_whole = parts["language"] == "full" or "lora" not in parts.values()
    if is_whole or adapter.adapts_head:
        return {}
    return parts


def _check_files(adapter: AdapterFiles, policy: PolicyConfig) -> None:
    """Refuse an adapter of other parts than the config trains."""
    origin = f"policy.model: {adapter.folder}"
    check_parts(adapter.adapted, adapter.whole, policy, origin)
    for part, how in adapter.trained_parts.items():
        if getattr(policy, part) == "full" and how != "full":
            raise UserError(
                f"{origin}: its adapter lacks the tensors of {part}, and policy.{part} is full; "
                f"set policy.{part} to frozen, or merge the adapter first"
            )


def _check_targets(policy: PolicyConfig, size: Size) -> None:
    """Refuse targets that match nothing, and a part set to lora without any matrix of them."""
    by_part: dict[str, set[str]] = {}
    for part in PARTS:
        if getattr(policy, part) == "lora":
            by_part[part] = {matrix.name for matrix in size.matrices(part)}
    for part, names in by_part.items():
        if not names:
            raise UserError(
                f"policy.{part}: got lora, and the {part} of this model has no matrices in layers; "
                f"set policy.{part} to frozen, or to full"
            )
    all_names = set[str]().union(*by_part.values())
    targets = policy.lora.targets
    wanted = {target.rpartition(".")[2] for target in targets}  # one may be a whole path
    for target in targets:
        if target.rpartition(".")[2] not in all_names:
            raise UserError(
                f"policy.lora.targets: {shown(target)} matches no matrix of the parts set to lora; "
                f"they have {', '.join(sorted(all_names))}"
            )
    for part, names in by_part.items():
        if targets and not names & wanted:
            raise UserError(
                f"policy.lora.targets: {', '.join(targets)} match no matrix of {part}, and "
                f"policy.{part} is lora; set it to frozen, or name matrices of it"
            )
