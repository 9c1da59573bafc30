"""Write the table of docs/scale.md: which model can be trained by which method on which card.

    python benchmarks/scale_table.py                    # print it
    python benchmarks/scale_table.py --to docs/scale.md # write it between the page's two marks

Each cell is what `gpg-vl plan` says of configs/geoqa_recommended.yaml with another model, method
and card: 32 groups of 8 answers, at most 512 tokens each, a picture of 512 visual tokens and 256 of
text, the vision tower frozen. The sizes of the models are those of their config.json, as published
on 2026-11-30; no file is downloaded. It is arithmetic: nothing is run.
"""

import argparse
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fresh_process import markdown

from gpg_vl.config.loading import load
from gpg_vl.policy.sizes import size_of
from gpg_vl.preflight.memory import GB, GPU_SIZES_GB, Machine, Workload, fits, needed, settle

CONFIG = "geoqa_recommended"
CARDS_GB = (24.0, 48.0, 80.0)
BEGIN, END = "<!-- table: python benchmarks/scale_table.py -->", "<!-- end of the table -->"


@dataclass(frozen=True, slots=True)
class Model:
    """Sizes of a published Qwen2.5-VL that differ between its sizes."""

    name: str
    width: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    vocabulary: int = 152_064
    tower_inner: int = 3456

    @property
    def config(self) -> dict[str, Any]:
        """Sizes as in its config.json."""
        return {
            "model_type": "qwen2_5_vl",
            "hidden_size": self.width,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_heads,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": self.name == "3B",
            "vision_config": {
                "depth": 32,
                "hidden_size": 1280,
                "intermediate_size": self.tower_inner,
                "out_hidden_size": self.width,
                "num_heads": 16,
                "patch_size": 14,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
            },
        }


MODELS = (
    Model("3B", 2048, 11_008, 36, 16, 2, vocabulary=151_936, tower_inner=3420),
    Model("7B", 3584, 18_944, 28, 28, 4, tower_inner=3420),
    Model("32B", 5120, 27_648, 64, 40, 8),
    Model("72B", 8192, 29_568, 80, 64, 8),
)
LORA = "policy.language=lora optimizer.lr=1e-5"
METHODS = {
    "full, float32": "",
    "full, bfloat16, 8-bit Adam": "policy.weights=bfloat16 optimizer.kind=adamw8bit",
    "LoRA": LORA,
    "QLoRA (NF4)": f"{LORA} policy.quantise=nf4",
}
"""Words beside the config, by method."""


PROMPTS_AT_ONCE = (32, 16, 8, 4, 2, 1)
"""Groups that are sampled at once: the usual number, then fewer where keys and values need it."""


@dataclass(frozen=True, slots=True)
class Cell:
    """Judgement of `plan` on a model, a method and a card."""

    gb: float
    """Gigabytes at the peak."""
    tokens: int
    """Largest number of tokens in one forward pass."""
    checkpointing: bool
    at_once: int
    """Groups that are sampled at once."""

    def __str__(self) -> str:
        text = f"{self.gb:.0f} GB, {self.tokens:,}"
        if self.checkpointing:
            text += " ckpt"
        if self.at_once < PROMPTS_AT_ONCE[0]:
            text += f", {self.at_once} at once"
        return text


def workload_of(model: Model, words: str) -> Workload:
    """Return the run of the config with a model and a method."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(model.config))
        config = load(CONFIG, [f"policy.model={folder}", *words.split()])
        return Workload(config=config, size=size_of(config.policy), machine=Machine(gb=None))


def cell(run: Workload, gb: float) -> Cell | None:
    """Return what fits a card of so many GB; None = nothing does."""
    for at_once in PROMPTS_AT_ONCE:
        engine = {"kind": "transformers", "prompts_at_once": at_once}
        rollout = run.config.rollout.model_copy(update={"engine": engine})
        config = run.config.model_copy(update={"rollout": rollout})
        tried = replace(run, config=config, machine=Machine(gb=gb))
        if fits(tried):
            limits = settle(tried)
            return Cell(needed(tried) / GB, limits.tokens, limits.checkpointing, at_once)
    return None


def smallest_card(run: Workload) -> str:
    """Return the smallest card on the market that holds a run."""
    return next((f"{gb:g} GB" for gb in GPU_SIZES_GB if cell(run, gb)), "none")


def table() -> str:
    """Return the table in Markdown."""
    lines: list[tuple[str, ...]] = []
    for model in MODELS:
        for method, words in METHODS.items():
            run = workload_of(model, words)
            found = [str(cell(run, gb) or "does not fit") for gb in CARDS_GB]
            lines.append((model.name, method, *found, smallest_card(run)))
    cards = tuple(f"{gb:g} GB" for gb in CARDS_GB)
    head = ("Qwen2.5-VL", "method", *cards, "smallest card")
    return markdown(head, lines)


def written(page: str) -> str:
    """Return the page with the table of today between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to", type=Path, help="the page to write into")
    options = parser.parse_args()
    if options.to is None:
        print(table())
    else:
        options.to.write_text(written(options.to.read_text()))


if __name__ == "__main__":
    main()
