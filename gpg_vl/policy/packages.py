"""Check that optional packages of policy and optimizer are installed, before anything is loaded."""

import importlib.util

from gpg_vl.config.schema import Config, PolicyConfig
from gpg_vl.errors import UserError
from gpg_vl.policy.adapter_files import AdapterFiles


def check_packages(config: PolicyConfig) -> None:
    """Refuse adapters and quantised weights where their packages are missing.

    Raises:
        UserError: a package is not installed; says which command installs it.
    """
    if config.trains_adapters:
        check_package("peft", "lora", "policy: lora")
    if config.quantise != "none":
        check_package("bitsandbytes", "qlora", f"policy.quantise: {config.quantise}")


def check_packages_of(adapter: AdapterFiles, key: str) -> None:
    """Refuse an adapter where the packages that read it are missing.

    Args:
        key: config key or option that messages begin with.

    Raises:
        UserError: a package is not installed; says which command installs it.
    """
    check_package("peft", "lora", f"{key}: {adapter.folder}: a LoRA adapter")
    if adapter.quantise != "none":
        need = f"{key}: {adapter.folder}: an adapter on a base model in {adapter.quantise}"
        check_package("bitsandbytes", "qlora", need)


def check_optimizers(config: Config) -> None:
    """Refuse optimizers of a run, and of its warm-up, whose package is missing.

    Raises:
        UserError: it is not installed; says which command installs it.
    """
    sections = {"optimizer": config.optimizer}
    if config.warmup.steps:
        sections["warmup.optimizer"] = config.warmup.optimizer
    for key, optimizer in sections.items():
        if optimizer.kind == "adamw8bit":
            check_package("bitsandbytes", "qlora", f"{key}.kind: adamw8bit")


def check_package(name: str, extra: str, need: str) -> None:
    """Refuse to go on without a package.

    Args:
        extra: extra of gpg-vl that installs it.
        need: what needs it, with its config key.
    """
    if importlib.util.find_spec(name) is None:
        raise UserError(
            f"{need} needs {name}, which is not installed: pip install 'gpg-vl[{extra}]'"
        )
