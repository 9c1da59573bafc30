"""How a question is asked and what an answer must look like. Each style owns its words and its grammar.

A verifier reads answers through the style that asked for them, so the format has one home.
"""

import re
import unicodedata
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from gpg_vl.parsing.markup import SPECIAL_TOKEN
from gpg_vl.types import Sample

ALIASES = {
    "answer": "gpg_vl.prompts:AnswerOnly",
    "think": "gpg_vl.prompts:Style",
}

Message = dict[str, Any]
"""A chat message: {"role": ..., "content": [{"type": "image", "image": ...}, {"type": "text", "text": ...}]}."""

_TAG = re.compile(r"</?(?:think|answer)>")
_FILLERS = frozenset("\u034f\u115f\u1160\u2800\u3164\uffa0")
"""Signs that show nothing, although Unicode files them under letters, marks or symbols."""


def _blank(text: str) -> bool:
    """Whether a text shows nothing: empty, spaces, or zero-width and control characters."""
    return all(unicodedata.category(sign)[0] in "CZ" or sign in _FILLERS for sign in text)


class Reading(NamedTuple):
    """An answer as the style's grammar reads it."""

    answer: str
    """Inside of the answer tags, stripped; empty where the text is malformed."""
    problem: str
    """Why the text is malformed; empty where it is well-formed."""


@dataclass(frozen=True, kw_only=True)
class Style:
    """Think first, then answer: `<think>...</think><answer>...</answer>` and nothing else.

    Example:
        Style().read("<think>two and two</think><answer>4</answer>") == Reading("4", "")
    """

    think: Literal["required", "optional", "absent", "opened"] = "required"
    """required: words between the tags | optional: tags, perhaps empty | absent: no tags | opened: the prompt ends inside <think>."""
    instruction: str = "Output the thinking process in <think> </think> and the final answer in <answer> </answer> tags."
    """Appended to the question."""
    template: str = "{question} {instruction}"
    """Where question and instruction stand in the user's turn."""
    system: str = ""
    """System message; empty = none."""

    def messages(self, sample: Sample) -> list[Message]:
        """The chat that asks the question, images first."""
        words = self.template.replace("{instruction}", self.instruction).replace("{question}", sample.question).strip(" ")
        content: list[Message] = [{"type": "image", "image": image} for image in sample.images]
        asked: list[Message] = [{"role": "user", "content": [*content, {"type": "text", "text": words}]}]
        return [{"role": "system", "content": [{"type": "text", "text": self.system}]}, *asked] if self.system else asked

    def misfit(self, template: str) -> str:
        """Why a chat template that begins the answer by itself cannot be used with this style; empty = it can.

        Args:
            template: the last thought tag that it writes: <think> where it leaves a thought open, </think> where it closes one, else empty.
        """
        wanted = {"<think>": "opened", "</think>": "absent"}.get(template, self.think)
        if self.think == wanted:
            return ""
        what = "opens <think>" if template == "<think>" else "writes a whole thought"
        return f"the chat template {what} by itself, so no answer is well-formed with think: {self.think}; set prompt.think to {wanted}"

    @property
    def opening(self) -> str:
        """What the prompt already says of the answer."""
        return "<think>" if self.think == "opened" else ""

    def read(self, text: str) -> Reading:
        """Read a whole completion strictly: exactly one well-formed answer, which ends it."""
        if special := SPECIAL_TOKEN.search(text):
            return Reading("", f"special token {special[0]}")
        tags = _TAG.findall(text)
        expected = ["<answer>", "</answer>"]
        if self.think != "absent":
            expected = ["<think>", "</think>", *expected]
        if self.opening:
            expected = expected[1:]
        if tags != expected:
            return Reading("", f"expected the tags {' '.join(expected)}, got {' '.join(tags[:6]) or 'none'}")
        return self._inside(_TAG.split(text))

    def write(self, answer: str, thought: str = "") -> str:
        """The completion that gives an answer in this style."""
        body = f"<answer>{answer}</answer>"
        return body if self.think == "absent" else f"<think>{thought}</think>{body}".removeprefix(self.opening)

    def _inside(self, pieces: list[str]) -> Reading:
        answer, outside = pieces[-2].strip(), [pieces[-1]]
        if self.think == "absent":
            outside.append(pieces[0])
        else:
            thought = pieces[-4].strip()
            outside += [pieces[-3], *([] if self.opening else [pieces[0]])]
            if self.think == "required" and _blank(thought):
                return Reading("", "empty thought")
        if any(piece.strip() for piece in outside):
            return Reading("", "text outside the tags")
        return Reading(answer, "") if answer else Reading("", "empty answer")


@dataclass(frozen=True, kw_only=True)
class AnswerOnly(Style):
    """No thought, only `<answer>...</answer>`: for tiny models and for questions answered at a glance."""

    think: Literal["required", "optional", "absent", "opened"] = "absent"
    instruction: str = ""
