"""Define prompt styles: the instruction in the prompt, and the format of the answer.

A verifier reads an answer through the style of its prompt, so that the format is defined in one
place.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from gpg_vl.parsing import image_marks
from gpg_vl.parsing.image_marks import Pieces
from gpg_vl.parsing.letters import letters_of
from gpg_vl.parsing.markup import SPECIAL_TOKEN
from gpg_vl.types import Sample

ALIASES = {"answer": "gpg_vl.prompts:AnswerOnly", "think": "gpg_vl.prompts:Style"}

Message = dict[str, Any]
"""Chat message in the layout of the transformers chat templates: {"role": ..., "content":
[{"type": "image"}, {"type": "text", "text": ...}]}. An image has its place here; its content is
that of the sample: of its next image, or of image `number`, counted from 1, where the part has
one."""

_TAG = re.compile(r"</?(?:think|answer)>")
_FILLERS = frozenset("\u115f\u1160\u2800\u3164\uffa0\U00013441\U00013442\U0001d159")
"""Invisible characters, although their Unicode categories are letters or symbols."""
_ENDS_WORD = re.compile(r"(?:^|\W)(?<!\d\.)$")
_BEGINS_WORD = re.compile(r"(?!\w|\.\d)")
_NUMBER_LIKE = re.compile(r"[-+$(]*\d.{0,12}")
"""Options such as 3, 3.5 and 10 cm, in one case."""
_BETWEEN = r"(?![./:-]\S)\W{1,8}(?:(?:or|and|[a-z])\b\W{0,4}){0,2}"
"""Signs, "or" and a label between two options of a list: ", or " and " (b) ", but not in 3.5."""
_MIN_LABELS = 3
"""Labels in a row, (A) (B) (C), that are a list of options whatever their words are. Two of them
may be points of a figure: from (A) to (B)."""


def _is_blank(text: str) -> bool:
    """Return True where no character is visible.

    Categories: Z spaces; C control, zero-width and unassigned characters; M marks, such as
    variation selectors, which are nothing without a character that carries them.
    """
    return all(unicodedata.category(sign)[0] in "CMZ" or sign in _FILLERS for sign in text)


def _same_case(text: str) -> str:
    """Return a text in one case, with white space reduced to single blanks."""
    return " ".join(text.casefold().split())


def _shows_options(question: str, options: Sequence[str], letters: Sequence[str]) -> bool:
    """Return True where a question lists its options already, by their words or by their letters.

    Example:
        _shows_options("Which digit? Choices: 1, 4.", ["1", "4"], ["A", "B"]) is True
    """
    asked = _same_case(question)
    words = list(map(_same_case, options))
    # a mark in the question is the place of a picture, not an option
    by_words = not any(map(image_marks.has_marks, options))
    if by_words and all(map(_NUMBER_LIKE.fullmatch, words)):
        # a question has numbers of its own: they list the options only where they stand together
        by_words = _lists(asked, words)
    elif by_words:
        by_words = all(_contains(asked, option) for option in words)
    return by_words or _shows_labels(question, letters)


def _lists(text: str, options: Sequence[str]) -> bool:
    """Return True where options stand in their order with only signs and labels between them."""
    pattern = _BETWEEN.join(map(re.escape, options))
    return re.search(rf"(?<![\w.]){pattern}(?!\w|\.\d)", text) is not None


def _contains(text: str, words: str) -> bool:
    """Return True where a text has these words as whole words: 3 is no word of 13 or 3.5."""
    start = text.find(words)
    while start >= 0:
        end = start + len(words)
        if _ENDS_WORD.search(text[max(0, start - 2) : start]) and _BEGINS_WORD.match(text, end):
            return True
        start = text.find(words, start + 1)
    return False


def _shows_labels(question: str, letters: Sequence[str]) -> bool:
    """Return True where a question has all labels in their order: A. B. C. or (A) (B) (C)."""
    if len(letters) < _MIN_LABELS:
        return False
    end = 0
    for letter in letters:
        label = re.compile(rf"(?<![^\s,;(\[*]){re.escape(letter)}[)\].:：、]")
        found = label.search(question, end)
        if found is None:
            return False
        end = found.end()
    return True


def _letters_of(sample: Sample) -> str:
    """Return the letters of a sample's options; empty where there are more options than letters."""
    letters = letters_of(sample.choices, sample.letters)
    return letters if len(letters) == len(sample.choices) else ""


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
    options: Literal["auto", "never"] = "auto"
    """auto: options of a choice that the question does not list are written behind it, with their
    letters | never: the question is asked as it stands."""

    def messages(self, sample: Sample) -> list[Message]:
        """Return the chat that asks the question: its context, then the user's turn.

        Images stand at their marks in the text, and without marks before the first user's turn.

        Raises:
            ValueError: the marks do not agree with the number of images.
        """
        *context, (_, question) = self.turns(sample)
        turns = [*context, ("user", self._instructed(question, bool(self.option_text(sample))))]
        systems = [self.system] if self.system else []
        chat: list[tuple[str, Pieces]] = []
        for role, pieces in turns:
            if role == "system":
                systems += map(str, pieces)
            else:
                chat.append((role, pieces))
        if systems:
            chat.insert(0, ("system", ["\n\n".join(systems)]))
        numbers = _numbers(chat)
        if sample.images and not numbers:
            numbers = list(range(len(sample.images)))
            first_user = [role for role, _ in chat].index("user")
            chat[first_user] = ("user", [*numbers, *chat[first_user][1]])
        in_order = numbers == sorted(numbers)
        return [{"role": role, "content": _content(pieces, in_order)} for role, pieces in chat]

    def turns(self, sample: Sample) -> list[tuple[str, Pieces]]:
        """Return the sample's own words, turn by turn as (role, words and numbers of images).

        The last turn is the question with the options that it does not list itself. A mark is the
        place of an image in a user's turn; elsewhere it is a word.

        Raises:
            ValueError: the marks do not agree with the number of images.
        """
        question = sample.question
        options = self.option_text(sample)
        if options:
            question = question.rstrip() + options
        spoken = [(turn.role, turn.text) for turn in sample.context]
        spoken.append(("user", question))
        asked = [text for role, text in spoken if role == "user"]
        split = iter(image_marks.split_all(asked, len(sample.images)))
        turns: list[tuple[str, Pieces]] = []
        for role, text in spoken:
            turns.append((role, next(split) if role == "user" else [text]))
        return turns

    def option_text(self, sample: Sample) -> str:
        """Return what is written behind the question so that its options are seen; may be empty.

        Example:
            "\\nA. cat\\nB. dog"
        """
        letters = _letters_of(sample)
        unneeded = sample.answer_kind != "choice" or self.options == "never"
        # options that are their own letters, A to D, stand in the question or in the picture
        if unneeded or not sample.choices or list(sample.choices) == list(letters):
            return ""
        if _shows_options(sample.question, sample.choices, letters):
            return ""
        if not letters:
            return "\n" + "\n".join(sample.choices)
        lines = map(". ".join, zip(letters, sample.choices, strict=True))
        return "\n" + "\n".join(lines)

    def _instructed(self, question: Pieces, has_options: bool) -> Pieces:
        """Return the user's last turn: the template with question and instruction in it."""
        # the instruction first: a question may itself contain "{instruction}"
        template = self.template.replace("{instruction}", self.instruction)
        if has_options:  # else the instruction would stand in the line of the last option
            template = template.replace("{question} ", "{question}\n")
        before, slot, after = template.partition("{question}")
        if not slot:
            question = []
        after = after.replace("{question}", _words_of(question))
        if question and isinstance(question[-1], int):
            after = after.lstrip(" ")
        if has_options and not self.instruction:
            after = after.rstrip()
        pieces = _joined([before, *question, after])
        if pieces and isinstance(pieces[0], str):
            pieces[0] = pieces[0].lstrip(" ")
        if pieces and isinstance(pieces[-1], str):
            pieces[-1] = pieces[-1].rstrip(" ")
        return _joined(pieces)

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
        if _is_blank(answer):
            return Reading("", "empty answer")
        return Reading(answer, "")


def _numbers(chat: Sequence[tuple[str, Pieces]]) -> list[int]:
    """Return the numbers of all images of a chat, in the order of their places."""
    numbers: list[int] = []
    for _, pieces in chat:
        numbers += [piece for piece in pieces if isinstance(piece, int)]
    return numbers


def _words_of(pieces: Pieces) -> str:
    """Return pieces as words alone; images by their numbers."""
    return "".join(piece if isinstance(piece, str) else f"image {piece + 1}" for piece in pieces)


def _joined(pieces: Pieces) -> Pieces:
    """Join texts that stand side by side, and drop empty ones."""
    joined: Pieces = []
    for piece in pieces:
        last = joined[-1] if joined else None
        if isinstance(piece, str) and isinstance(last, str):
            joined[-1] = last + piece
        elif piece != "":
            joined.append(piece)
    return joined


def _content(pieces: Pieces, in_order: bool) -> list[dict[str, Any]]:
    """Return words and images as the content of a message.

    Args:
        in_order: images stand in their own order, so that they need no numbers.
    """
    content: list[dict[str, Any]] = []
    for piece in pieces:
        if isinstance(piece, str):
            content.append({"type": "text", "text": piece})
        elif in_order:
            content.append({"type": "image"})
        else:
            content.append({"type": "image", "number": piece + 1})
    return content


@dataclass(frozen=True, kw_only=True)
class AnswerOnly(Style):
    """No thought, only `<answer>...</answer>`.

    For tiny models, and for questions that need no reasoning.
    """

    think: Literal["required", "optional", "absent", "opened"] = "absent"
    instruction: str = ""
