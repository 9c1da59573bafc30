"""Define the commands. Imports of the package wait until a command runs, so `--help` is quick."""

try:
    from gpg_vl.cli import configs, evaluate, export, knobs, prepare, report, train
    from gpg_vl.cli.application import app, main
except KeyboardInterrupt:  # Ctrl-C before there is a command that could take it
    raise SystemExit(130) from None

__all__ = ["app", "configs", "evaluate", "export", "knobs", "main", "prepare", "report", "train"]
