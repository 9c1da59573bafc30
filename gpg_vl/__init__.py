"""gpg_vl: reinforcement-learning fine-tuning of vision-language models with Group Policy Gradient (arXiv 2504.02546)."""

__version__ = "0.1.0"
