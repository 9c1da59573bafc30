"""Write a run folder, and find things in it again. No torch.

    runs/<name>/  config.yaml  environment.json  identity.json  metrics.jsonl  left_out.jsonl
                  rollouts/000051.jsonl.gz  pictures.jsonl  images/  bad_steps/
                  checkpoints/  evaluation/  report.html

Logs are append-only; there is one rollouts file per step. What is JSON is JSON as the
standard has it: a number that is NaN or infinite is null.
"""

from gpg_vl.run_folder.find import (
    checkpoint_path,
    complete_checkpoints,
    config_folder,
    evaluation_path,
    is_evaluated,
    make_parent,
    newest_checkpoint,
    refuse_to_overwrite,
    score_of,
)
from gpg_vl.run_folder.journal import group_row, rounded_boxes
from gpg_vl.run_folder.json_lines import json_text, json_value, now
from gpg_vl.run_folder.kept_pictures import content_name, image_name
from gpg_vl.run_folder.left_out import left_out_rows
from gpg_vl.run_folder.log import Callback, RunFolder, Tracker
from gpg_vl.run_folder.machine import environment, read_environment, write_header
from gpg_vl.run_folder.metric_rows import idle_steps_at_end, metric_rows

__all__ = [
    "Callback",
    "RunFolder",
    "Tracker",
    "checkpoint_path",
    "complete_checkpoints",
    "config_folder",
    "content_name",
    "environment",
    "evaluation_path",
    "group_row",
    "idle_steps_at_end",
    "image_name",
    "is_evaluated",
    "json_text",
    "json_value",
    "left_out_rows",
    "make_parent",
    "metric_rows",
    "newest_checkpoint",
    "now",
    "read_environment",
    "refuse_to_overwrite",
    "rounded_boxes",
    "score_of",
    "write_header",
]
