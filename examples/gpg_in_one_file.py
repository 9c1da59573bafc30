"""Group Policy Gradient (GPG, arXiv 2504.02546) in one file: a tiny vision-language model learns to
count squares from rewards alone.

    python examples/gpg_in_one_file.py

Needs torch, transformers, Pillow and numpy; no GPU, no download, nothing of gpg_vl. It is the slow
way on purpose: every answer is a row of its own with its own copy of the picture and the question.
The package computes picture and question once per group and gets the same numbers
(tests/test_one_file.py holds both side by side).

One step:
  1. ask B questions about B pictures, sample G answers to each            (rollout)
  2. give each answer a reward                                             (verify)
  3. turn the rewards into one weight per answer                           (method)
  4. loss = -sum(weight * log-probability of the answer), one update       (train)

Shape letters: B groups (questions), G answers of a group, L tokens of a question, T tokens of an
answer, V words of the vocabulary.
"""

import argparse
import random
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

MARKS = ("<pad>", "<start>", "<image>", "<stop>", "<end>")
QUESTION = ("how", "many", "squares", "?")
WORDS = (*MARKS, *QUESTION, "1", "2", "3", "4")
PAD, START, IMAGE, STOP, END = range(5)
BANNED = (PAD, START, IMAGE, STOP)  # markers of the prompt; an answer never holds one
MOST_SQUARES = 4
MAX_TOKENS = 3  # "3 <end>" is a perfect answer; there is room to be wrong in other ways


@dataclass(frozen=True)
class Question:
    """One picture and one question, as the model reads them, and the true answer."""

    input_ids: tuple[int, ...]  # [L], one <image> for each visual token
    pixel_values: Tensor  # [patches, values of a patch]
    image_grid_thw: Tensor  # [1, 3] patches in time, height and width
    truth: int


# --- the model and the data -----------------------------------------------------------------------


def build_model(seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """A Qwen2.5-VL with 0.3 million random weights: the real architecture, very small."""
    torch.manual_seed(seed)
    text = {
        "vocab_size": len(WORDS),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "pad_token_id": PAD,
        "eos_token_id": END,
        "bos_token_id": None,
        # Of 16 rotary frequencies 4 turn with time, 6 with height and 6 with width.
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [4, 6, 6],
        },
    }
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "num_heads": 4,
        "intermediate_size": 128,
        "out_hidden_size": 64,
        "patch_size": 14,
        "spatial_merge_size": 2,  # 2 x 2 patches become one visual token
        "window_size": 112,
        "fullatt_block_indexes": [1],
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=IMAGE,
        vision_start_token_id=START,
        vision_end_token_id=STOP,
        tie_word_embeddings=True,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def make_question(draw: random.Random) -> Question:
    """A black picture with one to four white squares, and "how many squares?"."""
    truth = draw.randint(1, MOST_SQUARES)
    picture = Image.new("RGB", (56, 56))
    for place in draw.sample(range(4), truth):
        left, top = 28 * (place % 2) + draw.randint(2, 8), 28 * (place // 2) + draw.randint(2, 8)
        picture.paste("white", (left, top, left + 16, top + 16))
    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 28**2, "longest_edge": 56**2})
    pixels = processor(images=[picture], return_tensors="pt")
    visual_tokens = int(pixels["image_grid_thw"].prod()) // 4
    words = [WORDS.index(word) for word in QUESTION]
    return Question(
        input_ids=(START, *[IMAGE] * visual_tokens, STOP, *words),
        pixel_values=pixels["pixel_values"],
        image_grid_thw=pixels["image_grid_thw"],
        truth=truth,
    )


# --- the policy: log-probabilities and samples ----------------------------------------------------


def next_token_logprobs(model, question: Question, ids_GT: Tensor, banned=BANNED) -> Tensor:
    """[G, T + 1, V] log-probabilities of the token after the question and after each answer token.

    Args:
        ids_GT: the answers so far, padded on the right. Attention only looks back, so padding at
            the end changes nothing before it.
        banned: tokens that have probability zero.
    """
    group_size = len(ids_GT)
    question_GL = torch.tensor(question.input_ids).repeat(group_size, 1)
    input_ids = torch.cat([question_GL, ids_GT], dim=1)
    is_image = (input_ids == model.config.image_token_id).long()
    pixel_type = next(model.parameters()).dtype
    output = model(
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        mm_token_type_ids=is_image,  # without it the positions would be those of plain text
        pixel_values=question.pixel_values.to(pixel_type).repeat(group_size, 1),  # G copies
        image_grid_thw=question.image_grid_thw.repeat(group_size, 1),
        use_cache=False,
    )
    logits = output.logits[:, len(question.input_ids) - 1 :].clone()
    logits[..., list(banned)] = -torch.inf
    return logits.log_softmax(-1)


@torch.no_grad()
def sample_answers(model, question: Question, group_size: int) -> list[list[int]]:
    """G answers, token by token, each up to <end> or MAX_TOKENS. No top-k and no top-p: what is
    sampled is what is scored."""
    ids_GT = torch.empty(group_size, 0, dtype=torch.long)
    for _ in range(MAX_TOKENS):
        last_GV = next_token_logprobs(model, question, ids_GT)[:, -1]
        ids_GT = torch.cat([ids_GT, torch.multinomial(last_GV.exp(), 1)], dim=1)
    answers = ids_GT.tolist()
    return [ids[: ids.index(END) + 1] if END in ids else ids for ids in answers]


def answer_logprobs(
    model, question: Question, answers: list[list[int]], banned=BANNED
) -> list[Tensor]:
    """The log-probability of every token of every answer, with gradients: G tensors [T]."""
    longest = max(map(len, answers))
    ids_GT = torch.tensor([answer + [END] * (longest - len(answer)) for answer in answers])
    all_GTV = next_token_logprobs(model, question, ids_GT, banned)[:, :-1]
    logprobs_GT = all_GTV.gather(-1, ids_GT[..., None]).squeeze(-1)
    return [row[: len(answer)] for row, answer in zip(logprobs_GT, answers, strict=True)]


# --- the rewards, and the method ------------------------------------------------------------------


def reward(answer: list[int], truth: int) -> float:
    """1 for exactly the right number and an end, 0.2 for another number, 0 for anything else."""
    numbers = [WORDS.index(str(number)) for number in range(1, MOST_SQUARES + 1)]
    if len(answer) != 2 or answer[0] not in numbers or answer[1] != END:
        return 0.0
    return 1.0 if answer[0] == numbers[truth - 1] else 0.2


def gpg_weights(rewards_BG: Tensor, lengths_BG: Tensor) -> Tensor:
    """[B, G] the whole method: what each token of an answer weighs in the loss.

    Eq. 6: the advantage is the reward minus the mean of its group. Nothing divides by a standard
    deviation.
    Eq. 5 (aggregation `group_token`): the mean over all tokens of a group, then over the groups.
    Eq. 7: a group whose rewards are all equal (zero variance, M of B) has no advantage and adds
    nothing, but it stands in the mean over B. alpha = B / (B - M) repairs that: the mean over B
    times alpha is the mean over the B - M informative groups.
    """
    groups = len(rewards_BG)
    advantages_BG = rewards_BG - rewards_BG.mean(dim=1, keepdim=True)
    informative_B = rewards_BG.amax(dim=1) - rewards_BG.amin(dim=1) > 1e-6
    alpha = groups / max(1, int(informative_B.sum()))
    tokens_B1 = lengths_BG.sum(dim=1, keepdim=True)
    weights_BG = alpha * advantages_BG / tokens_B1 / groups
    # By rounding the advantages of a zero-variance group may be 1e-17 instead of 0.
    return weights_BG.masked_fill(~informative_B[:, None], 0.0)


def gpg_loss(
    model,
    questions: list[Question],
    answers: list[list[list[int]]],
    weights_BG: Tensor,
    banned=BANNED,
) -> Tensor:
    """[] minus the weighted log-likelihood. No ratio, no clipping, no divergence, no critic and no
    reference model. Zero-variance groups are not computed at all."""
    loss = weights_BG.new_zeros(())
    for question, group, weights_G in zip(questions, answers, weights_BG, strict=True):
        if not weights_G.any():
            continue
        logprobs = answer_logprobs(model, question, group, banned)
        for weight, logprobs_T in zip(weights_G, logprobs, strict=True):
            loss = loss - weight * logprobs_T.sum()
    return loss


# --- the loop -------------------------------------------------------------------------------------


def train(
    steps: int, *, groups: int = 16, group_size: int = 8, lr: float = 1e-3, seed: int = 0, log=print
) -> list[float]:
    """Train from random weights; the mean reward of each step."""
    model, draw = build_model(seed), random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    history = list[float]()
    for step in range(steps):
        questions = [make_question(draw) for _ in range(groups)]
        answers = [sample_answers(model, question, group_size) for question in questions]
        rewards_BG, lengths_BG = torch.zeros(groups, group_size), torch.zeros(groups, group_size)
        for b, group in enumerate(answers):
            for g, answer in enumerate(group):
                rewards_BG[b, g] = reward(answer, questions[b].truth)
                lengths_BG[b, g] = len(answer)
        weights_BG = gpg_weights(rewards_BG, lengths_BG)

        history.append(float(rewards_BG.mean()))
        informative = int((weights_BG != 0).any(dim=1).sum())
        shown = " ".join(WORDS[token] for token in answers[0][0])
        log(
            f"step {step:3}  mean reward {history[-1]:.2f}  informative groups {informative}/"
            f"{groups}  truth {questions[0].truth}, first answer: {shown}"
        )
        if informative == 0:  # nothing to learn from: no step
            continue
        optimizer.zero_grad()
        gpg_loss(model, questions, answers, weights_BG).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return history


def main(arguments: list[str] | None = None) -> list[float]:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--groups", type=int, default=16, help="questions per step (B)")
    parser.add_argument("--group-size", type=int, default=8, help="answers per question (G)")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    return train(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()
