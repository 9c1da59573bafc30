"""One-line faults of the project's own that the suite must see; `python -m tests.faults.run` makes them one by one."""
