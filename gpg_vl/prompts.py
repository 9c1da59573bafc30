"""Define prompt styles: the instruction in the prompt, and the format of the answer.

A verifier reads an answer through the style of its prompt, so that the format is defined in one
place.
"""

import re
import unicodedata
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from gpg_vl.parsing.markup import SPECIAL_TOKEN
from gpg_vl.types import Sample

ALIASES = {"answer": "gpg_vl.prompts:AnswerOnly", "think": "gpg_vl.prompts:Style"}

Message = dict[str, Any]
"""Chat message in the layout of the transformers chat templates: {"role": ..., "content":
[{"type": "image"}, {"type": "text", "text": ...}]}. An image has its place here; its content is
that of the sample."""

_TAG = re.compile(r"</?(?:think|answer)>")
_FILLERS = frozenset("\u034f\u115f\u1160\u2800\u3164\uffa0")
"""Invisible characters, although their Unicode categories are letters, marks or symbols."""


def _is_blank(text: str) -> bool:
    """Return True where no character is visible: spaces, zero-width and control characters."""
    return all(unicodedata.category(sign)[0] in "CZ" or sign in _FILLERS for sign in text)


class Reading(NamedTuple):
    """An answer that was read strictly, or the reason why it could not be read."""

    answer: str
    """Inside of the answer tags, stripped; empty where the text is malformed."""
    problem: str
    """Reason why the text is malformed; empty where it is well-formed."""


@dataclass(frozen=True, kw_only=True)
class Style:
    """Think first, then answer: `<think>...</think><answer>...</answer>` and nothing else.

    Example:
        Style().read("<think>two and two</think><answer>4</answer>") == Reading("4", "")
    """

    think: Literal["required", "optional", "absent", "opened"] = "required"
    """required: words between the tags | optional: tags, perhaps empty | absent: no tags |
    opened: the prompt ends inside <think>."""
    instruction: str = (
        "Output the thinking process in <think> </think> and the final answer in <answer> </answer>"
        " tags."
    )
    """Appended to the question."""
    template: str = "{question} {instruction}"
    """Text of the user's turn, with {question} and {instruction} in it."""
    system: str = ""
    """System message; empty = none."""

    def messages(self, sample: Sample) -> list[Message]:
        """Return the chat that asks the question, images first."""
        # the instruction first: a question may itself contain "{instruction}"
        text = self.template.replace("{instruction}", self.instruction)
        text = text.replace("{question}", sample.question).strip(" ")
        content: list[Message] = [{"type": "image"} for _ in sample.images]
        content.append({"type": "text", "text": text})
        messages: list[Message] = [{"role": "user", "content": content}]
        if self.system:
            system = {"role": "system", "content": [{"type": "text", "text": self.system}]}
            messages.insert(0, system)
        return messages

    def misfit(self, template: str) -> str:
        """Check that this style fits a chat template that begins the answer by itself.

        Args:
            template: the last thought tag that it writes: <think> where it leaves a thought open,
                </think> where it closes one, else empty.

        Returns:
            The reason why it does not fit; empty = it fits.
        """
        required = {"<think>": "opened", "</think>": "absent"}.get(template, self.think)
        if self.think == required:
            return ""
        what = "opens <think>" if template == "<think>" else "writes a whole thought"
        return (
            f"the chat template {what} by itself, so no answer is well-formed with think: "
            f"{self.think}; set prompt.think to {required}"
        )

    @property
    def opening(self) -> str:
        """Beginning of the answer that is already the end of the prompt."""
        return "<think>" if self.think == "opened" else ""

    def read(self, text: str) -> Reading:
        """Read a whole completion strictly: exactly one well-formed answer, which ends it."""
        special = SPECIAL_TOKEN.search(text)
        if special is not None:
            return Reading("", f"special token {special[0]}")
        tags = _TAG.findall(text)
        expected = ["<answer>", "</answer>"]
        if self.think != "absent":
            expected = ["<think>", "</think>", *expected]
        if self.opening:
            expected = expected[1:]
        if tags != expected:
            found = " ".join(tags[:6]) or "none"
            return Reading("", f"expected the tags {' '.join(expected)}, got {found}")
        return self._read_pieces(_TAG.split(text))

    def write(self, answer: str, thought: str = "") -> str:
        """Write the completion that gives an answer in this style."""
        body = f"<answer>{answer}</answer>"
        if self.think == "absent":
            return body
        return f"<think>{thought}</think>{body}".removeprefix(self.opening)

    def _read_pieces(self, pieces: list[str]) -> Reading:
        """Read the texts between the tags.

        Args:
            pieces: [before, thought, between, answer, behind]; [thought, between, answer, behind]
                where the prompt opens the thought; [before, answer, behind] without a thought.
        """
        answer = pieces[-2].strip()
        outside = [pieces[-1]]
        if self.think == "absent":
            outside.append(pieces[0])
        else:
            outside.append(pieces[-3])
            if not self.opening:
                outside.append(pieces[0])
            if self.think == "required" and _is_blank(pieces[-4]):
                return Reading("", "empty thought")
        if any(map(str.strip, outside)):
            return Reading("", "text outside the tags")
        if not answer:
            return Reading("", "empty answer")
        return Reading(answer, "")


@dataclass(frozen=True, kw_only=True)
class AnswerOnly(Style):
    """No thought, only `<answer>...</answer>`.

    For tiny models, and for questions that need no reasoning.
    """

    think: Literal["required", "optional", "absent", "opened"] = "absent"
    instruction: str = ""
