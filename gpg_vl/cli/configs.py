"""The commands that show configs: configs, show, schema."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gpg_vl.cli.application import (
    ConfigName,
    Overrides,
    app,
    console,
    load_config,
    print_line,
    with_sentences,
)


@app.command()
@with_sentences
def configs(
    benchmarks: Annotated[
        bool, typer.Option("--benchmarks", help="The shipped benchmarks instead.")
    ] = False,
) -> None:
    """The shipped configs, with what each promises.

    Use one by its name: gpg-vl show NAME prints it, gpg-vl train NAME trains with it, and
    gpg-vl evaluate NAME --model RUN asks a benchmark. The files are YAML; gpg-vl show NAME >
    mine.yaml begins one of your own.
    """
    from gpg_vl.cli.listing import print_names, print_remark
    from gpg_vl.config import resources

    kind = "evaluation" if benchmarks else "configs"
    # the ones that run offline come first
    names = sorted(resources.names(kind), key=lambda name: (not name.startswith("digits"), name))
    print_names([(name, resources.summary_line(kind, name)) for name in names])
    if benchmarks:
        print_remark("\nAsk one with: gpg-vl evaluate NAME --model RUN")
    else:
        print_remark("\nLook at one with gpg-vl show NAME, train with gpg-vl train NAME.")
        # a pipe has names alone on its output; the person beside it reads this one
        typer.echo("The benchmarks: gpg-vl configs --benchmarks", err=not console.is_terminal)


@app.command()
@with_sentences
def show(
    config: ConfigName = "digits",
    overrides: Overrides = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also the knobs that are at their defaults.")
    ] = False,
) -> None:
    """A config as YAML, with the sentence of each knob; also that of a run folder.

    What is printed is a config itself: gpg-vl show digits > mine.yaml
    """
    from gpg_vl.config.commented import with_sentences as commented
    from gpg_vl.config.loading import load_run
    from gpg_vl.config.paths import is_file

    run = Path(config)
    is_run = is_file(run / "config.yaml")
    loaded = load_run(run, overrides or ()) if is_run else load_config(config, overrides)
    for line in _heading(config, is_run, everything):
        print_line(f"# {line}")
    print()
    width = min(console.width, 100) if console.is_terminal else 100
    print(commented(loaded, everything=everything, width=width), end="")


def _heading(config: str, is_run: bool, everything: bool) -> list[str]:
    """Return the comments on top: the promise of a file, and what is left out."""
    from gpg_vl.config import resources

    lines: list[str] = []
    if not is_run and "=" not in config:
        first = resources.find("configs", config).read_text().partition("\n")[0]
        if first.startswith("#"):
            lines.append(first.removeprefix("#").strip())
    if not everything:
        lines.append("Everything else is at its default; --all shows it.")
    return lines


@app.command()
@with_sentences
def schema(
    benchmark: Annotated[
        bool, typer.Option("--benchmark", help="Of a benchmark instead of a config.")
    ] = False,
) -> None:
    """The JSON schema of a config, for editors that complete and check YAML.

    Write it once beside your configs, and begin each with the line
    # yaml-language-server: $schema=gpg_vl.schema.json
    """
    import json

    print(json.dumps(json_schema(benchmark=benchmark), indent=2))


def json_schema(*, benchmark: bool = False) -> dict[str, Any]:
    """Return the JSON schema of a config or a benchmark: sentences, names of the shipped parts."""
    from gpg_vl import methods, prompts, rollout
    from gpg_vl.config import schema as sections
    from gpg_vl.config.knobs import sentences_of
    from gpg_vl.config.schema import BenchmarkSpec, Config

    kind = BenchmarkSpec if benchmark else Config
    made = kind.model_json_schema()
    offered = {
        "prompt": prompts.ALIASES,
        "estimator": methods.ESTIMATORS,
        "engine": rollout.ALIASES,
    }
    for section in (made, *made["$defs"].values()):
        for key, sentence in sentences_of(getattr(sections, section["title"])).items():
            section["properties"][key]["description"] = sentence
        for key, names in offered.items():
            knob = section["properties"].get(key)
            if knob:
                knob["anyOf"].insert(0, {"enum": list(names)})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}
