"""Check by names and sizes alone what adapters are put on, or trained on. No torch.

What is refused here, training would refuse too, after seconds of imports or the weights of a model.
"""

from gpg_vl.errors import UserError
from gpg_vl.policy.adapter_files import AdapterFiles
from gpg_vl.policy.adapter_parts import check_parts, check_targets
from gpg_vl.policy.part_names import PARTS
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
    adapter = workload.adapter
    if adapter is None:
        words: dict[str, set[str]] = {}
        for part in PARTS:
            if getattr(policy, part) == "lora":
                words[part] = {matrix.name for matrix in workload.size.matrices(part)}
        check_targets(words, policy)
    else:
        check_parts(adapter.adapted, adapter.whole, policy, f"policy.model: {adapter.folder}")


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
