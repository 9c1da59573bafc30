"""Rewards and data of gpg_vl for TRL's trainers.

    from gpg_vl.integrations.trl import dataset, reward

    trainer = GRPOTrainer(model, reward_funcs=[reward("boxes")], train_dataset=rows)

TRL calls a reward function with a list per column of the data set, one value per completion, beside
`prompts`, `completions` and `completion_ids`. Here every row becomes a `Sample`, as a row of a file
does in a config, and a verifier scores its completion. TRL itself is not imported.
"""

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gpg_vl.api import experiment_of
from gpg_vl.boxes import Frame
from gpg_vl.config import loading
from gpg_vl.config.plugins import unknown_key
from gpg_vl.config.python_values import Overrides, as_key_values
from gpg_vl.config.schema import Config, Part, Source
from gpg_vl.data.columns import cells
from gpg_vl.data.rows import PICTURE_COLUMNS, RowFormat, checked, renamed
from gpg_vl.errors import UnusableSampleError, UserError, one_line, shown
from gpg_vl.experiment import Experiment, build_style, kind_of, lone_verifier
from gpg_vl.pictures import open_picture
from gpg_vl.prompts import Message, Style
from gpg_vl.types import Mode, Sample, Verdict
from gpg_vl.verifiers import ALIASES
from gpg_vl.verifiers.base import Verifier, fault

TRUTHS = ("solution", "ground_truth", "truth", "target", "label")
"""Columns that hold the true answer where there is no column `answer`, the surest first."""
SAMPLE = "gpg_vl_sample"
"""Column of `dataset` that holds the fields of a sample as JSON."""
DECLARATIONS = ("columns", "defaults", "image_root", "answer_index", "box_format", "decimal")
"""What of a source is about one row, so that it can be declared here."""
_OF_TRL = {"trainer_state", "log_extra", "log_metric", "environments"}
"""What TRL gives a reward function beside the columns of the data set."""
_LOG = logging.getLogger("gpg_vl")


def reward(
    verifier: Part | Verifier | None = None,
    *,
    mode: Mode | None = None,
    style: Part | Style | None = None,
    frame: str | Frame | None = None,
    name: str = "",
    **declarations: Any,
) -> "Reward":
    """Make a reward function for TRL's `reward_funcs`.

    Args:
        verifier: "boxes", "./rewards.py:Stars", {"kind": "boxes", "measure": "giou"}, or a verifier
            object; None = that of each row's column `answer_kind`, which is needed only then.
        mode: strict (a well-formed answer) | lenient (answers in any format) | reference (the
            authors' published rule); None = strict.
        style: prompt style, which says what is well-formed: "think" (`<think>...</think>
            <answer>...</answer>`) | "answer" | your own; None = think.
        frame: coordinate frame of the boxes that the model writes: pixels | norm1 | norm1000 |
            resized, or a model family such as qwen2_5_vl; None = pixels.
        name: name in TRL's logs; empty = that of the verifier.
        declarations: what a source under `data:` of a config declares of its rows: columns={
            "answer": "gold"}, defaults={"answer_kind": "boxes"}, image_root="pictures",
            answer_index=0, box_format="xywh", decimal=",".

    Raises:
        UserError: there is no such verifier, mode, style, frame or declaration.

    Example:
        reward("number", style="answer")(completions=["<answer>3</answer>"], prompts=["?"],
                                         answer=[3]) == [1.0]
    """
    for key in declarations:
        if key not in DECLARATIONS:
            raise UserError(unknown_key(f"reward: {key}", key, list(DECLARATIONS)))
    values = {"recipe": "trl", **declarations}  # a source has an origin, which is not read here
    source = loading.parse(Source, values, "reward")
    how = _Settings(verifier, mode, style, frame)
    if verifier is not None:
        how.verifier_of("")  # a mistake shows now, not at the first step
    return Reward(how, source, name or _name_of(verifier))


@dataclass(frozen=True, eq=False)
class _Settings:
    """Choice of a verifier, of which one is made for each kind of answers."""

    verifier: Part | Verifier | None
    mode: Mode | None
    style: Part | Style | None
    frame: str | Frame | None

    def verifier_of(self, kind: str) -> Verifier:
        """Return the verifier of a kind of answers; of every kind, where one is named."""
        chosen = kind if self.verifier is None else self.verifier
        return lone_verifier(chosen, mode=self.mode, style=self.style, frame=self.frame)


class Reward:
    """A reward function of TRL, which `reward` makes. It can be pickled if its verifier can."""

    def __init__(self, settings: _Settings, source: Source, name: str) -> None:
        self.settings = settings
        self.source = source
        self.__name__ = name
        self._kind = _kind_named(settings.verifier)
        self._verifiers: dict[str, Verifier] = {}
        self._reported = set[str]()
        self._has_read = False
        """True as soon as a row could be read: then no column is missing."""

    def __repr__(self) -> str:
        return f"<reward {self.__name__} of gpg_vl>"

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Any] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Score one completion of each row.

        Args:
            prompts: texts or chats.
            completions: texts or chats.
            completion_ids: not used.
            columns: a list per column of the data set, and what TRL gives beside them.

        Returns:
            Rewards; None = the row or the answer could not be scored, which is logged.

        Raises:
            UserError: no row could be read so far: a column has another name, or is missing.
        """
        del completion_ids
        given = {key: values for key, values in columns.items() if key not in _OF_TRL}
        verdicts: list[Verdict] = []
        unreadable: list[str] = []
        for place, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            row = {key: values[place] for key, values in given.items()}
            try:
                sample = self._sample(row, prompt)
            except ValueError as error:
                unreadable.append(str(error))
                verdicts.append(Verdict(reward=math.nan, reason=f"fault: {one_line(error)}"))
            else:
                verdicts.append(self._scored(_text(completion), sample))
        self._has_read |= len(unreadable) < len(verdicts)
        # a later call may be about a single row, and one broken row ends no training
        if unreadable and not self._has_read:
            raise UserError(f"reward {self.__name__}: no row can be scored: {unreadable[0]}")
        self._log(verdicts, columns)
        return [None if math.isnan(each.reward) else each.reward for each in verdicts]

    def _sample(self, row: Mapping[str, Any], prompt: Any) -> Sample:
        """Return the row of a completion as a sample.

        Raises:
            ValueError: it cannot be read.
        """
        if isinstance(row.get(SAMPLE), str):
            return Sample(**json.loads(row[SAMPLE]))
        values = renamed(row, self.source)
        if self._kind:
            values["answer_kind"] = self._kind
        elif self.settings.verifier is not None and cells.is_missing(values.get("answer_kind")):
            values["answer_kind"] = "own"  # the verifier is named, whatever the kind is called
        if cells.is_missing(values.get("question")):
            values["question"] = _question(prompt)
        if cells.is_missing(values.get("answer")):
            for name in TRUTHS:
                if not cells.is_missing(values.get(name)):
                    values["answer"] = values.pop(name)
                    break
        shown_pictures = _take_pictures(values)
        root = self.source.image_root
        row_format = RowFormat(
            image_root=Path(root) if root else None,
            follow_links=root is not None,
            answer_index=self.source.answer_index,
            box_format=self.source.box_format,
            decimal=self.source.decimal,
        )
        sample = checked(values, origin="row", row_format=row_format)
        if self.settings.verifier is None:
            try:
                kind_of(sample)
            except UserError as error:  # here it is a mistake of the row alone
                raise ValueError(str(error)) from None
        return replace(sample, columns={**sample.columns, **shown_pictures})

    def _scored(self, text: str, sample: Sample) -> Verdict:
        """Score a text; as in a run, an error of a verifier is counted and reported."""
        verifier = self._verifier(sample)
        try:
            return verifier(text, sample)
        except UserError:  # something that only the user can mend: math-verify is not installed
            raise
        except Exception as error:
            return fault(error)

    def _verifier(self, sample: Sample) -> Verifier:
        """Return the verifier of a sample, made at its first use."""
        kind = "" if self.settings.verifier is not None else kind_of(sample)
        if kind not in self._verifiers:
            self._verifiers[kind] = self.settings.verifier_of(kind)
        return self._verifiers[kind]

    def _log(self, verdicts: Sequence[Verdict], given: Mapping[str, Any]) -> None:
        """Hand parts of the scores and their reasons to TRL's logs; warn of what failed, once."""
        failed = [verdict for verdict in verdicts if math.isnan(verdict.reward)]
        for verdict in failed:
            if verdict.verifier_error not in self._reported:
                self._reported.add(verdict.verifier_error)
                _LOG.warning("reward %s: not scored: %s", self.__name__, verdict.verifier_error)
        log_metric, log_extra = given.get("log_metric"), given.get("log_extra")
        if log_metric is not None and verdicts:
            for part in ("accuracy", "format"):
                values = [verdict.parts[part] for verdict in verdicts if part in verdict.parts]
                if values:
                    log_metric(f"{self.__name__}/{part}", sum(values) / len(values))
            log_metric(f"{self.__name__}/not scored", len(failed) / len(verdicts))
        if log_extra is not None:
            log_extra(f"{self.__name__}: read", [verdict.answer for verdict in verdicts])
            log_extra(f"{self.__name__}: why", [one_line(verdict.reason) for verdict in verdicts])


def _name_of(verifier: Part | Verifier | None) -> str:
    """Return the name of a verifier in logs."""
    if verifier is None:
        return "gpg_vl"
    if isinstance(verifier, Mapping):
        verifier = str(verifier.get("kind"))
    if isinstance(verifier, str):
        return verifier.rpartition(":")[2]
    return getattr(verifier, "__name__", type(verifier).__name__)


def _kind_named(verifier: Part | Verifier | None) -> str:
    """Return the kind of answers that a shipped verifier scores; empty = each row says it."""
    if isinstance(verifier, Mapping):
        verifier = str(verifier.get("kind"))
    if isinstance(verifier, str):
        return verifier if verifier in ALIASES else ""
    path = f"{type(verifier).__module__}:{type(verifier).__name__}"
    return {path: kind for kind, path in ALIASES.items()}.get(path, "")


def _text(completion: Any) -> str:
    """Return the words of a completion: of a chat, those of the assistant's last turn."""
    if isinstance(completion, str):
        return completion
    for turn in reversed(completion):
        if turn["role"] == "assistant":
            return _words(turn.get("content"))
    return ""


def _question(prompt: Any) -> str:
    """Return the words of a prompt: of a chat, those of the user's last turn."""
    if isinstance(prompt, str):
        return prompt
    for turn in reversed(prompt):
        if turn["role"] == "user":
            return _words(turn.get("content")) or "?"
    return "?"


def _words(content: Any) -> str:
    """Return the text of a turn, whose content is a text or a list of parts."""
    if not isinstance(content, list):
        return "" if content is None else str(content)
    return "".join(part.get("text") or "" for part in content if part.get("type") == "text")


def _take_pictures(values: dict[str, Any]) -> dict[str, Any]:
    """Replace opened pictures of a row by their sizes, and return them.

    A verifier needs no more of them; as pictures of a sample they would be encoded for every
    completion. Pictures in another form stay in the row.
    """
    taken: dict[str, Any] = {}
    for name in PICTURE_COLUMNS:
        cell = values.get(name)
        pictures: list[Any] = list(cell) if isinstance(cell, list | tuple) else [cell]
        if pictures and all(hasattr(picture, "getbbox") for picture in pictures):
            taken[name] = values.pop(name)
            values["sizes"] = [picture.size for picture in pictures]
    return taken


# --- data -----------------------------------------------------------------------------------------


def dataset(
    data: str | Path | Config | Experiment | Iterable[Sample],
    overrides: Overrides = (),
    *,
    style: Part | Style | None = None,
) -> Any:
    """Return samples as a `datasets.Dataset` for TRL: prompts, pictures and what `reward` reads.

    Args:
        data: a config by name or file, a loaded config, or an experiment, whose training data are
            taken; or samples.
        overrides: knobs of the config that differ.
        style: how questions are asked; None = as the config says, for samples "think".

    Raises:
        UserError: the config cannot be used, or a sample cannot be asked.
    """
    from datasets import Dataset

    samples: Any = data
    if isinstance(data, str | Path | Config | Experiment):
        experiment = experiment_of(data, None, as_key_values(overrides))
        samples, style = experiment.train_data.samples, style or experiment.style
    elif overrides:
        raise UserError("dataset: overrides are knobs of a config, got samples; leave them out")
    elif not isinstance(data, Iterable):
        raise _no_samples(data)
    if not isinstance(style, Style):
        style = build_style(style or "think", Path())
    rows = [_row(sample, style) for sample in samples]
    if not rows:
        raise UserError("dataset: got no samples, expected at least one")
    if not any(row["images"] for row in rows):
        for row in rows:
            del row["images"]
    return Dataset.from_list(rows)


def _no_samples(given: object) -> UserError:
    return UserError(
        f"dataset: got {shown(given)} ({type(given).__name__}), expected a config by name or file, "
        "a config of load_config, an Experiment, or samples [gpg_vl.Sample(...), ...]"
    )


def _row(sample: Sample, style: Style) -> dict[str, Any]:
    """Return the row of one sample."""
    if not isinstance(sample, Sample):
        raise _no_samples(sample)
    try:
        messages = style.messages(sample)
        images = [open_picture(image) for image in sample.images]
    except (ValueError, UnusableSampleError) as error:
        raise UserError(f"dataset: {one_line(sample.id)}: {error}") from None
    fields = asdict(replace(sample, images=(), columns={}))
    return {
        "prompt": [_turn(message) for message in messages],
        "images": _in_order(messages, images),
        SAMPLE: json.dumps(fields, ensure_ascii=False, default=_refuse),
    }


def _turn(message: Message) -> dict[str, Any]:
    """Return a message as TRL takes it; a table needs the same keys in every part."""
    parts: list[dict[str, Any]] = []
    for part in message["content"]:
        parts.append({"type": part["type"], "text": part.get("text")})
    return {"role": message["role"], "content": parts}


def _in_order(messages: Sequence[Message], images: Sequence[Any]) -> list[Any]:
    """Return the images in the order of their places; TRL fills places one after the other."""
    numbers: list[int] = []
    for message in messages:
        numbers += [part["number"] for part in message["content"] if "number" in part]
    if not numbers:
        return list(images)
    return [images[number - 1] for number in numbers]


def _refuse(value: Any) -> Any:
    raise UserError(
        f"dataset: got {shown(value)} ({type(value).__name__}) in a sample, expected texts, "
        "numbers, lists and mappings"
    )
