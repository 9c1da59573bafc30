"""Complete names of configs, benchmarks and knobs in a shell."""

from pathlib import Path
from typing import Any

Completed = list[str]


def complete_config(ctx: Any, incomplete: str) -> Completed:
    """Complete the first word: a shipped config, a YAML file, or already a knob."""
    found = _named("configs", incomplete)
    return found or complete_knob(ctx, incomplete)


def complete_benchmark(ctx: Any, incomplete: str) -> Completed:
    """Complete a shipped benchmark, a YAML file, or a knob."""
    found = _named("evaluation", incomplete)
    return found or complete_knob(ctx, incomplete)


def _named(kind: Any, incomplete: str) -> Completed:
    from gpg_vl.config import resources

    files = [str(path) for path in Path().glob("*.y*ml")]
    return [name for name in (*resources.names(kind), *files) if name.startswith(incomplete)]


def complete_knob(ctx: Any, incomplete: str) -> Completed:
    """Complete key=value: sections up to their dot, keys, and the values that a key takes.

    bash splits words at "=": behind `policy.vision=` it asks for the value alone, and the key and
    the sign are the two words before it.
    """
    before = _words_before(ctx)
    if before and before[-1] == "=":
        before.pop()
    if before and "=" not in before[-1] and "=" not in incomplete:
        values = _values(ctx, before[-1])
        if values:
            return [value for value in values if value.startswith(incomplete)]
    key, sign, value = incomplete.partition("=")
    if sign:
        return [f"{key}={other}" for other in _values(ctx, key) if other.startswith(value)]
    return _keys(ctx, incomplete)


def _words_before(ctx: Any) -> list[str]:
    """Return the words of the arguments that are already there."""
    words: list[str] = []
    for param in ctx.command.params:
        value: Any = ctx.params.get(param.name)
        if value and param.param_type_name == "argument":
            words += [value] if isinstance(value, str) else value
    return words


def _known(ctx: Any) -> list[Any]:
    """Return the knobs that a command takes."""
    from gpg_vl.config.knobs import knobs_of
    from gpg_vl.config.schema import BenchmarkSpec, Config

    of_benchmark = knobs_of(BenchmarkSpec, "benchmark.") if ctx.info_name == "evaluate" else ()
    return [*knobs_of(Config), *of_benchmark]


def _keys(ctx: Any, incomplete: str) -> Completed:
    """Return the keys that begin so, sections that are not yet entered as one word."""
    depth = incomplete.count(".") + 1
    found: dict[str, None] = {}
    for knob in _known(ctx):
        steps = knob.key.split(".")
        ending = "." if len(steps) > depth else "="
        found[".".join(steps[:depth]) + ending] = None
    matching = [word for word in found if word.startswith(incomplete)]
    if len(matching) != 1:
        return matching
    word = matching[0]
    if word.endswith("."):
        return _keys(ctx, word)
    # with a second candidate the shell writes no blank behind the sign
    return [word, *(word + value for value in _values(ctx, word[:-1]))]


def _values(ctx: Any, key: str) -> Completed:
    """Return the words that a knob takes, else its default, else how a value of it begins."""
    for knob in _known(ctx):
        if knob.key != key:
            continue
        words = [word for word in knob.allowed.split(" | ") if word.replace("_", "").isalnum()]
        if len(words) > 1 and not knob.allowed.startswith("list of"):
            return words
        if knob.default:
            return [knob.default]
        return ["[" if "list of" in knob.allowed else "{" if "{" in knob.allowed else "null"]
    return []


def complete_page_of_knobs(incomplete: str) -> Completed:
    """Complete what `gpg-vl knobs` explains: a section, a part, a knob."""
    from gpg_vl.cli.knob_pages import all_pages

    pages = all_pages()
    names = list(pages)
    for page in pages.values() if incomplete else ():
        names += [knob.key for knob in page.knobs]
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]
