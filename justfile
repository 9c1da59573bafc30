# Commands for daily work: `just check`, `just test`... (https://just.systems)

set shell := ["bash", "-euo", "pipefail", "-c"]
python := ".venv/bin/python"

# list the recipes
default:
    @just --list

# what takes seconds: lint, format, types, floors
check:
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    .venv/bin/pyright --pythonpath {{python}}
    {{python}} -m pytest tests/test_architecture.py

# every test that runs on each push; `just test tests/policy` runs some
test *ARGS:
    {{python}} -m pytest -n logical {{ARGS}}

# all stages of a push, in fresh environments (20 minutes)
slow:
    .ci/run

# what is too long for every push (90 minutes)
nightly:
    .ci/run nightly

# the page of a run in a real browser; `pip install -e '.[browser]'` and chromium first
browser *ARGS:
    GPG_VL_NEEDS_BROWSER=1 {{python}} -m pytest tests/browser {{ARGS}}

# README, docs and examples: commands, code blocks, links, the tree
docs:
    {{python}} -m pytest tests/test_readme.py tests/test_tutorial.py tests/test_one_file.py
