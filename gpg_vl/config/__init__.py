"""Read a config: every knob, YAML with key=value overrides, parts by name, shipped files."""
