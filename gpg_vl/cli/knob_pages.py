"""The pages of `gpg-vl knobs`: the knobs of a config by section, and those of shipped parts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from gpg_vl import methods, prompts, rollout, verifiers
from gpg_vl.config.knobs import Knob, knobs_of, knobs_of_part, sections_of, summary_of_part
from gpg_vl.config.schema import BenchmarkSpec, Config, Source
from gpg_vl.errors import UserError, shown


@dataclass(frozen=True, kw_only=True)
class Page:
    """The knobs that are listed under one name."""

    name: str
    summary: str = ""
    title: str = ""
    """Sentence above the knobs; empty = they explain themselves."""
    knobs: Sequence[Knob] = ()
    kinds: Sequence[str] = ()
    """Names of the parts that the knob takes."""
    is_listed: bool = True


@dataclass(frozen=True, kw_only=True)
class PageOfPart:
    """The knobs of a shipped part, read from its source when they are asked for."""

    name: str
    key: str
    """Knob that takes the part."""
    path: str
    """`module:Name` of its class."""
    kinds: Sequence[str] = ()
    is_listed: bool = False
    """Listed on the page of the knob that takes it."""

    @property
    def summary(self) -> str:
        """First line about the class."""
        return summary_of_part(self.path)

    @property
    def title(self) -> str:
        """Sentence above the knobs: how the part is chosen, and what it is."""
        chosen = f"{self.key}.ANSWER_KIND" if self.key == "verifiers" else self.key
        return f"{chosen}={self.name}: {self.summary}"

    @property
    def knobs(self) -> Sequence[Knob]:
        """Its fields; those of a verifier are written behind the answer kind of its name."""
        inside = f"{self.key}.{self.name}" if self.key == "verifiers" else self.key
        return knobs_of_part(self.path, f"{inside}.")


Pages = Mapping[str, Page | PageOfPart]


def all_pages() -> Pages:
    """Return the pages by their names: sections first, then parts, source and benchmark."""
    aliases = _aliases()
    every = [_with_names(knob, aliases) for knob in knobs_of(Config)]
    outer = [knob for knob in every if "." not in knob.key]
    listed = f"{', '.join(knob.key for knob in outer)}."
    found: list[Page | PageOfPart] = [Page(name="config", summary=listed, knobs=outer)]
    for key, section in sections_of(Config):
        own = [knob for knob in every if knob.key.startswith(f"{key}.")]
        found.append(_page_of_section(key, section, own))
    for key, kinds in aliases.items():
        own = [knob for knob in every if knob.key == key]
        listed = f"{', '.join(kinds)}; or one of your own."
        found.append(Page(name=key, summary=listed, knobs=own, kinds=tuple(kinds)))
        found += [PageOfPart(name=kind, key=key, path=path) for kind, path in kinds.items()]
    found.append(_page_of_section("source", Source, list(knobs_of(Source, "data.0."))))
    own = list(knobs_of(BenchmarkSpec, "benchmark."))
    title = "With --model as they are here, with --answers without the word benchmark in front."
    summary = "Knobs of a benchmark, for gpg-vl evaluate."
    found.append(Page(name="benchmark", summary=summary, title=title, knobs=own))
    return {page.name: page for page in found}


def _page_of_section(key: str, section: type, own: Sequence[Knob]) -> Page:
    summary = (section.__doc__ or "").partition("\n")[0]
    return Page(name=key, summary=summary, title=f"{key}: {summary}", knobs=own)


def _aliases() -> dict[str, dict[str, str]]:
    """Return key -> (short name of a shipped part -> import path)."""
    return {
        "estimator": methods.ESTIMATORS,
        "prompt": prompts.ALIASES,
        "rollout.engine": rollout.ALIASES,
        "verifiers": verifiers.ALIASES,
    }


def _with_names(knob: Knob, aliases: Mapping[str, Mapping[str, str]]) -> Knob:
    """Return a knob that takes parts with the names of the shipped ones."""
    if knob.key not in aliases:
        return knob
    names = " | ".join(aliases[knob.key])
    if knob.key == "verifiers":
        return knob._replace(allowed=f"{{ANSWER_KIND: {names} | module:Name}}")
    return knob._replace(allowed=f"{names} | module:Name | {{kind: NAME, ...}}")


def look_up(name: str, pages: Pages) -> Page | PageOfPart:
    """Return the page of a name, or one of the knobs that it means: lr of optimizer.lr.

    Raises:
        UserError: there is none; the message contains the nearest.
    """
    plain = name.partition("=")[0].strip(".")
    plain = plain.removeprefix("warmup.") if plain.startswith("warmup.data.") else plain
    page = pages.get(plain) or pages.get(plain.removeprefix("verifiers."))
    if page:
        return page
    every = every_knob(pages)
    exact = [knob for knob in every if knob.key == plain]
    meant = exact or [knob for knob in every if knob.key.endswith(f".{plain}")]
    if meant:
        return Page(name=plain, summary="", knobs=meant)
    lasts = [knob.key.rpartition(".")[2] for knob in every]
    nearest = get_close_matches(plain, [*pages, *(knob.key for knob in every), *lasts], n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else "gpg-vl knobs lists the sections"
    raise UserError(f"got {shown(name)}, which is no section, knob or part; {hint}")


def every_knob(pages: Pages) -> list[Knob]:
    """Return each knob once: those of an inner section are on the page of the outer one too.

    A key that several parts have, such as estimator.scale, says which part is meant.
    """
    found: dict[tuple[str, str], Knob] = {}
    for page in pages.values():
        for knob in page.knobs:
            part = "" if page.is_listed else page.name
            note = f"{knob.allowed}; of {part}" if part else knob.allowed
            found.setdefault((knob.key, part), knob._replace(allowed=note))
    return list(found.values())
