"""Faults in runs, one line each, that the suite must see: the gate, the weights on their way,
checkpoints, the loop and its processes."""

from tests.faults.fault import Fault, within

FAULTS: list[Fault] = [
    *within(
        "rollout/gate/rounding.py",
        "rollout/gate/test_limits.py::test_any_one_figure_beyond_its_limit_is_a_gap",
        {
            "a gap is as large as its smallest figure": (
                "return max(getattr(found, name) / getattr(allowed, name)",
                "return min(getattr(found, name) / getattr(allowed, name)",
            ),
            "the signed mean is not expected to be anything": (
                "expected=float(self.gap_N.square().mean()) / 2)",
                "expected=0.0)",
            ),
            "the largest gap is the largest to one side": (
                "worst=float(size_N.max())",
                "worst=float(difference_N.max())",
            ),
        },
    ),
    *within(
        "rollout/gate/rounding.py",
        "rollout/gate/test_limits.py::test_exactly_what_may_be_holds",
        {"what is exactly allowed is not": ("return self.excess <= 1", "return self.excess < 1")},
    ),
    *within(
        "rollout/gate/rounding.py",
        "rollout/gate/test_limits.py::test_no_number_is_infinitely_far_wherever_it_stands",
        {
            "one number among others makes up for those that are none": (
                "if not self.gap_N.isfinite().all():",
                "if not self.gap_N.isfinite().any():",
            )
        },
    ),
    *within(
        "rollout/gate/rounding.py",
        "rollout/gate/test_limits.py::test_what_may_be_by_hand",
        {
            "few carriers do not widen the limits": (
                "chance = math.sqrt(max(1.0, ENOUGH_CARRIERS / max(self.carriers, 1.0)))",
                "chance = 1.0",
            ),
            "many carriers narrow the limits": (
                "max(1.0, ENOUGH_CARRIERS / max(self.carriers, 1.0))",
                "ENOUGH_CARRIERS / max(self.carriers, 1.0)",
            ),
            "the trainer's own signed mean is not added": (
                "chance * BIAS_FACTOR * standard_error + MEAN_FACTOR * rounding.bias + min_mean",
                "chance * BIAS_FACTOR * standard_error + min_mean",
            ),
            "tokens at one place count one by one": (
                "float(self._by_place(self.noise_N).norm())",
                "float(self.noise_N.norm())",
            ),
            "a limit in nats of a token does not hold for the tail": (
                "worst = tail = self.worst",
                "worst, tail = self.worst, min_worst",
            ),
        },
    ),
    *within(
        "rollout/gate/vision_gate.py",
        "rollout/gate/test_limits.py::test_the_gate_shuts_wherever_the_engine_is_off",
        {
            "grey pictures are asked and not judged": (
                "for comparison in comparisons:",
                "for comparison in comparisons[:1]:",
            ),
            "the best of all copies is judged": ("worst = max(gaps, key", "worst = min(gaps, key"),
            "the first copy's answers are judged for all": (
                "comparison.gap[replica_N == replica]",
                "comparison.gap[replica_N == 0]",
            ),
        },
    ),
    *within(
        "rollout/gate/vision_gate.py",
        "rollout/gate/test_limits.py::test_one_answer_of_other_weights_is_enough",
        {
            "stale weights pass": (
                "if completion.version != self.version:",
                "if False:",
            ),
            "newer weights than the trainer's pass": (
                "if completion.version != self.version:",
                "if completion.version < self.version:",
            ),
            "only first answers must be of these weights": (
                "for completion in group:",
                "for completion in group[:1]:",
            ),
        },
    ),
    *within(
        "rollout/gate/vision_gate.py",
        "rollout/gate/test_limits.py::"
        "test_the_first_answers_are_drawn_alike_at_every_look_and_all_others_anew",
        {
            "all answers are drawn alike at every look": (
                '"gate", number, index, self.version)',
                '"gate", number, index)',
            ),
            "first answers are drawn anew at every look": (
                '"gate", number, 0)',
                '"gate", number, 0, self.version)',
            ),
            "every question is drawn alike": (
                "number = next(self.prompt_numbers)",
                "number = 0",
            ),
            "every run asks with the same seeds": (
                "run_seed = self.gate.seed",
                "run_seed = 0",
            ),
        },
    ),
    *within(
        "rollout/gate/vision_gate.py",
        "rollout/gate/test_rounding.py::"
        "test_in_bfloat16_a_wrong_position_in_sampling_is_no_rounding",
        {
            "sampling in bfloat16 is compared with itself alone": (
                "if policy.dtype == torch.bfloat16 and not self.last_answers:",
                "if False:",
            ),
        },
    ),
    *within(
        "rollout/gate/vision_gate.py",
        "rollout/gate/test_limits.py::test_more_is_asked_until_enough_places_carry_the_rounding",
        {
            "spare questions are asked always": (
                "        if gap.carriers < ENOUGH_CARRIERS:\n",
                "        if True:\n",
            ),
            "twice as many answers as allowed": (
                "2 * per_prompt * len(prompts) <= max_completions",
                "per_prompt * len(prompts) <= max_completions",
            ),
        },
    ),
    *within(
        "rollout/gate/vision_gate.py",
        "rollout/gate/test_limits.py::test_no_more_tokens_are_compared_than_8192",
        {
            "tokens are compared without end": (
                "            and len(gap.gap_N) < MAX_COMPARED_TOKENS\n",
                "",
            )
        },
    ),
    *within(
        "rollout/gate/causes.py",
        "rollout/gate/test_causes.py::test_a_gap_must_vanish_twice_and_be_there_twice",
        {
            "an experiment that could not have shown the fault explains it": (
                "if not original.excess >= MIN_EXCESS:",
                "if False:",
            )
        },
    ),
    *within(
        "rollout/gate/causes.py",
        "rollout/gate/test_causes.py::test_what_a_cut_keeps_by_hand",
        {
            "a cut keeps one token more": (
                "min(cut, mass_NK.shape[1]) - 1]",
                "min(cut, mass_NK.shape[1] - 1)]",
            )
        },
    ),
    *within(
        "rollout/vllm/weight_files.py",
        "rollout/vllm/test_weight_files.py::"
        "test_a_folder_that_anybody_else_may_enter_read_or_write_is_refused",
        {
            "the group may enter": ("found.st_mode & 0o077", "found.st_mode & 0o007"),
            "others may enter and read": ("found.st_mode & 0o077", "found.st_mode & 0o022"),
        },
    ),
    *within(
        "rollout/vllm/weight_files.py",
        "rollout/vllm/test_weight_files.py::"
        "test_a_link_is_refused_though_it_leads_to_a_private_folder",
        {"a link is followed": ("folder.lstat()", "folder.stat()")},
    ),
    *within(
        "rollout/vllm/weight_files.py",
        "rollout/vllm/test_weight_files.py::test_a_folder_of_another_user_is_refused",
        {"another user's folder is taken": (" or found.st_uid != os.getuid()", "")},
    ),
    *within(
        "rollout/vllm/weight_files.py",
        "rollout/vllm/test_weight_files.py::"
        "test_only_what_killed_processes_of_this_machine_left_is_cleared_away",
        {
            "weight files of running processes are removed": (
                'process.isdigit() and not Path(f"/proc/{process}").exists()',
                "process.isdigit()",
            )
        },
    ),
    *within(
        "rollout/vllm/weight_files.py",
        "rollout/vllm/test_weight_files.py::"
        "test_weights_are_written_once_and_anew_after_they_were_removed",
        {
            "a weight file that was removed is used again": (
                "            self._files.clear()\n",
                "            pass\n",
            )
        },
    ),
    *within(
        "rollout/vllm/weight_files.py",
        "rollout/vllm/test_weight_files.py::"
        "test_each_kind_of_file_is_written_once_and_all_are_removed",
        {
            "whoever wants all tensors gets those that train": (
                "trainable_weights(policy, include_frozen=include_frozen)",
                "trainable_weights(policy)",
            )
        },
    ),
    *within(
        "rollout/vllm/weights.py",
        "rollout/vllm/test_weight_files.py::test_each_tensor_arrives_once_and_is_what_was_sent",
        {
            "a doubled tensor is no mistake": ("if name not in missing:", "if name not in names:"),
            "a missing tensor is not missed": ("    if missing:\n", "    if len(missing) > 1:\n"),
            "checksums are not compared": (
                "if name in expected and checksum(tensor) != expected[name]:",
                "if name not in expected:",
            ),
        },
    ),
    *within(
        "rollout/vllm/weights.py",
        "rollout/vllm/test_weight_files.py::"
        "test_what_is_trained_is_sent_and_all_of_it_where_all_is_lost",
        {
            "a tied head is not sent under its own name": (
                "parameters[HEAD] = parameters[name]",
                "pass",
            )
        },
    ),
    *within(
        "policy/adapters.py",
        "rollout/vllm/test_weight_files.py::"
        "test_an_adapter_is_sent_merged_with_what_vllm_fuses_with_its_matrix",
        {
            "of queries, keys and values only the adapted ones are sent": (
                "or _owner(own_name) in fused",
                "or name in adapted",
            ),
            "the base matrix is sent without its adapter": (
                "            if merged and name in adapted:\n",
                "            if name in quantised_layers:\n",
            ),
        },
    ),
    *within(
        "policy/adapters.py",
        "rollout/vllm/test_weight_files.py::test_an_adapter_is_added_in_float32_and_rounded_once",
        {
            "an adapter is rounded before it is added": (
                "with torch.autocast(base.device.type, enabled=False):",
                "if True:",
            )
        },
    ),
    *within(
        "policy/adapters.py",
        "rollout/vllm/test_weight_files.py::"
        "test_matrices_in_4_bits_are_sent_as_they_are_computed_with",
        {
            "matrices in 4 bits are not sent unless they are adapted": (
                "stored_apart = [*adapted, *quantised_layers]",
                "stored_apart = [*adapted]",
            )
        },
    ),
    *within(
        "policy/adapters.py",
        "policy/test_adapters.py::test_the_matrices_of_a_projector_have_other_layers_between_them",
        {
            "a pattern of numbers matches other layers too": (
                "    if _matched(chosen, modules) != set(names):\n",
                "    if not names:\n",
            )
        },
    ),
    *within(
        "rollout/gate/rounding.py",
        "rollout/gate/test_rounding.py::"
        "test_the_narrow_way_has_merged_adapters_as_an_engine_holds_them",
        {
            "the narrow way has adapters apart": (
                "with adapters.merged(dtype, at_each_use=True) if adapters else nullcontext():",
                "with nullcontext():",
            ),
            "matrices in 4 bits are converted like others": (
                "if parameter.is_floating_point():",
                "if parameter.numel():",
            ),
        },
    ),
    *within(
        "rollout/vllm/launch.py",
        "rollout/vllm/test_protocol.py::"
        "test_of_a_model_with_an_adapter_the_server_gets_what_it_will_not_be_sent",
        {
            "a server of a merged adapter serves its base": (
                "return not policy.trains_adapters or files.adapter.folder == files.folder",
                "return files.adapter.folder == files.folder",
            )
        },
    ),
    *within(
        "rollout/vllm/protocol.py",
        "rollout/vllm/test_protocol.py::test_every_field_of_a_request_is_stated",
        {
            "top-k is left to the checkpoint": ('        "top_k": 0,\n', ""),
            "videos are not banned": (
                "dict.fromkeys(policy.banned_ids, IMPOSSIBLE)",
                "dict.fromkeys(policy.banned_ids[:1], IMPOSSIBLE)",
            ),
        },
    ),
    *within(
        "rollout/vllm/protocol.py",
        "rollout/vllm/test_protocol.py::"
        "test_an_answer_becomes_a_completion_only_where_all_of_it_is_right",
        {
            "log-probabilities may be no numbers": (
                "not all(map(math.isfinite",
                "not any(map(math.isfinite",
            ),
            "an answer may be longer than asked": (
                "len(ids) != sampling.max_tokens",
                "len(ids) < sampling.max_tokens",
            ),
        },
    ),
    *within(
        "rollout/vllm/server_engine.py",
        "rollout/vllm/test_server_engine.py::"
        "test_questions_are_dealt_in_turn_and_answers_come_back_in_order",
        {
            "answers of one server take the place of another's": (
                "answers[index % self.num_replicas][index // self.num_replicas]",
                (
                    "answers[index // -(-len(requests) // self.num_replicas)]"
                    "[index % -(-len(requests) // self.num_replicas)]"
                ),
            )
        },
    ),
    *within(
        "rollout/vllm/server_engine.py",
        "rollout/vllm/test_server_engine.py::"
        "test_a_server_that_has_served_somebody_else_gets_all_tensors",
        {
            "frozen tensors of another run stay": (
                'if asleep or held_version.startswith("gpg_vl/"):',
                "if asleep:",
            )
        },
    ),
    *within(
        "rollout/vllm/server_engine.py",
        "rollout/vllm/test_server_engine.py::"
        "test_a_server_that_is_restarted_while_it_answers_is_asked_everything_again",
        {
            "a restart in the middle is not noticed": (
                "            await self._check_not_restarted(server)\n",
                "",
            )
        },
    ),
    *within(
        "rollout/vllm/server_engine.py",
        "rollout/vllm/test_server_engine.py::"
        "test_the_first_weight_sync_has_checksums_and_later_ones_have_none",
        {
            "the first weight sync has no checksums": (
                "with_checksums=not server.is_proven",
                "with_checksums=server.is_proven",
            )
        },
    ),
    *within(
        "rollout/vllm/server_engine.py",
        "rollout/vllm/test_server_engine.py::test_answers_of_other_weights_are_asked_again",
        {
            "only the first answer of a group says its weights": (
                "        for choice in choices:\n            for span",
                "        for choice in choices[:1]:\n            for span",
            )
        },
    ),
    *within(
        "rollout/vllm/server_engine.py",
        "rollout/vllm/test_server_engine.py::test_an_address_may_end_in_a_slash",
        {
            "one server under two addresses is two servers": (
                '[url.rstrip("/") for url in self.servers]',
                "list(self.servers)",
            )
        },
    ),
    *within(
        "rollout/vllm/http_client.py",
        "rollout/vllm/test_server_engine.py::test_a_health_check_takes_half_a_minute_at_most",
        {
            "a health check may take as long as an answer": (
                '"/health", {"timeout": HEALTH_TIMEOUT})',
                '"/health", {})',
            )
        },
    ),
    *within(
        "rollout/vllm/http_client.py",
        "rollout/vllm/test_server_engine.py::"
        "test_a_connection_that_the_server_is_about_to_close_takes_no_second_request",
        {
            "a connection is used again": (
                "max_keepalive_connections=0)",
                "max_keepalive_connections=64)",
            )
        },
    ),
    *within(
        "rollout/vllm/http_client.py",
        "rollout/vllm/test_server_engine.py::test_a_refusal_ends_the_run",
        {"a conflict is asked again": ("STATUS = {408, 425,", "STATUS = {408, 409, 425,")},
    ),
    *within(
        "rollout/vllm/http_client.py",
        "rollout/vllm/test_server_engine.py::"
        "test_a_server_is_on_this_machine_unless_others_are_allowed",
        {
            "a name that begins like this machine is this machine": (
                'host == "localhost" or',
                'host.startswith("localhost") or',
            )
        },
    ),
    *within(
        "training/checkpoint.py",
        "training/test_checkpoint.py::test_everything_is_on_the_disk_before_its_name_says_so",
        {
            "files get their name before they are on the disk": ("    _sync(aside)\n", ""),
            "the name itself is not flushed": ("    _sync(path.parent)\n", ""),
            "folders are flushed without their files": ('[*folder.rglob("*"), folder]', "[folder]"),
        },
    ),
    *within(
        "run_folder/kept_pictures.py",
        "run_folder/test_kept_pictures.py",
        {
            "every process writes every picture": (
                "if offer.rank == self._rank:",
                "if True:",
            ),
            "the room for pictures is not counted": (
                "        self._total += size\n",
                "",
            ),
            "pictures after a checkpoint count when a run goes on": (
                "rewind_rows(path, step)}",
                "read_rows(path)}",
            ),
            "each process takes its own first groups": (
                "everyones = everyones[:SAMPLED_GROUPS]",
                "pass",
            ),
        },
    ),
    *within(
        "run_folder/log.py",
        "run_folder/test_logs.py",
        {
            "an evaluation that is made again has two rows": (
                'keep_rows(path, lambda row: row["step"] != step or row_kind(row) != "held_out")',
                "pass",
            ),
            "logs of a killed run stay": (
                '(self.path / METRICS).write_text("".join(lines))',
                '(self.path / METRICS).open("a").write("".join(lines))',
            ),
        },
    ),
    *within(
        "run_folder/json_lines.py",
        "run_folder/test_logs.py::test_no_token_that_json_does_not_have",
        {"infinity is written": ("not math.isfinite(value)", "math.isnan(value)")},
    ),
    *within(
        "run_folder/find.py",
        "training/test_loop.py::test_an_evaluation_that_the_checkpoint_does_not_know_is_made_again",
        {"a lost score stays lost": (" and not is_unscored", "")},
    ),
    *within(
        "verifiers/boxes.py",
        "run_folder/test_journal.py::test_without_a_size_nothing_is_in_pixels",
        {
            "thousandths are drawn as pixels": (
                "    if not sample.sizes:\n        return ()\n    return tuple(",
                "    return tuple(",
            )
        },
    ),
    *within(
        "run_folder/find.py",
        "training/test_checkpoint.py::"
        "test_only_numbered_folders_with_a_state_are_whole_and_the_newest_is_the_last_step",
        {"what is half-written is whole": (" if folder.name.isdigit())", ")")},
    ),
    *within(
        "training/checkpoint.py",
        "training/test_checkpoint.py::"
        "test_a_writer_that_fails_leaves_the_older_checkpoint_and_the_next_one_is_whole",
        {
            "a checkpoint is written in its place": (
                'aside = path.with_name(path.name + ".part")',
                "aside = path",
            )
        },
    ),
    *within(
        "training/checkpoint.py",
        "training/test_checkpoint.py::test_every_process_gets_its_own_waiting_groups_back",
        {
            "every process gets the groups of the first": (
                "own_rows = carried[processes.rank]",
                "own_rows = carried[0]",
            )
        },
    ),
    *within(
        "training/checkpoint.py",
        "training/test_checkpoint.py::test_the_newest_and_the_best_are_kept",
        {"the worst are kept": ("sorted(scored)[-keep_best:]", "sorted(scored)[:keep_best]")},
    ),
    *within(
        "training/checkpoint.py",
        "training/test_checkpoint.py::test_the_words_of_an_optimizer_file_are_never_obeyed",
        {"an optimizer's file may run a program": ("weights_only=True", "weights_only=False")},
    ),
    *within(
        "training/learner.py",
        "training/test_learner.py::"
        "test_a_learner_goes_on_in_the_middle_of_its_schedule_as_if_it_had_not_stopped",
        {
            "a resumed schedule begins anew": (
                '        self.schedule.load_state_dict(saved["schedule"])\n',
                "",
            ),
            "resumed moments begin anew": (
                '        self.optimizer.load_state_dict({**saved["optimizer"], "param_groups"'
                ": groups})\n",
                "",
            ),
        },
    ),
    *within(
        "data/downloads.py",
        "data/test_downloads.py",
        {
            "a name may lead into a private network": (
                "if not is_public(address):",
                "if False:",
            ),
            "only the name server is asked who answers": (
                "_check_address(str(real.getpeername()[0]), target)",
                "pass",
            ),
            "an IPv4 address hides in an IPv6 one": (
                "inner = ip.ipv4_mapped or ip.sixtofour",
                "inner = None",
            ),
            "a redirect goes anywhere": (
                "target = self._target(url)\n        raise",
                "parts = urlsplit(url)\n"
                "            host, port = str(parts.hostname), parts.port or 80\n"
                "            target = Target(parts.scheme, host, port, parts.path, True)\n"
                "        raise",
            ),
            "each byte has its own limit of time": (
                "self.real.settimeout(self.deadline.left())\n        return",
                "return",
            ),
            "a connection that broke is a picture": (
                "if response.length:  # what",
                "if False:  # what",
            ),
            "a host without a port has every port": (
                "(port == usual and (name, None) in self.hosts)",
                "(name, None) in self.hosts",
            ),
        },
    ),
    *within(
        "data/columns/picture_cells.py",
        "data/test_picture_cells.py",
        {
            "texts that NumPy wrote are one text": ("if array is not None:", "if False:"),
            "a picture that is missing moves the others": (
                "        if not pictures:\n",
                "        if False:\n",
            ),
            "any text with the letters of base64 is a picture": (
                "return content is not None and _is_picture(content)",
                "return content is not None",
            ),
            "a decoded photo lies on its side": (
                "upright = ImageOps.exif_transpose(picture)",
                "upright = picture",
            ),
            "an empty file is no picture at all": (
                'return [b""] if is_empty_file else []',
                "return []",
            ),
            "a path may leave its root": ("if not path.is_relative_to(folder):", "if False:"),
        },
    ),
    *within(
        "data/dataset.py",
        "data/test_dataset.py::test_a_picture_in_a_file_is_known_by_name_size_and_time",
        {
            "a picture of the same size is the same": (
                "status.st_size, status.st_mtime_ns",
                "status.st_size, 0",
            )
        },
    ),
    *within(
        "data/dataset.py",
        "data/test_dataset.py::test_whatever_of_a_row_can_change_what_is_learnt_changes_the_digest",
        {"an answer may be another": ("        sample.answer,\n", "")},
    ),
    *within(
        "training/resume_check.py",
        "training/test_resume_check.py::"
        "test_more_steps_are_free_only_where_the_learning_rate_does_not_depend_on_them",
        {
            "more steps are free under any schedule": (
                'if now.get("optimizer", {}).get("schedule") == "constant":',
                "if True:",
            )
        },
    ),
    *within(
        "training/resume_check.py",
        "training/test_resume_check.py::test_another_verifier_is_no_changed_source_file",
        {
            "another verifier is a changed file": (
                " != source_hash and not is_other:",
                " != source_hash:",
            )
        },
    ),
    *within(
        "training/resume_check.py",
        "training/test_resume_check.py::"
        "test_a_run_is_finished_when_its_last_step_is_saved_and_evaluated",
        {
            "an evaluation that was dropped is not made": (
                'return is_evaluated(run, spec.name, "after", config.steps)',
                "return True",
            )
        },
    ),
    *within(
        "preflight/learnability.py",
        "preflight/test_learnability.py::"
        "test_what_reinforcement_has_little_to_work_with_is_reported",
        {"three quarters right is solved": ("if mean > NEARLY_ALL:", "if mean > 0.5:")},
    ),
    *within(
        "training/warmup_cache.py",
        "training/test_warmup_cache.py::test_the_base_model_of_an_adapter_counts_too",
        {
            "a warm-up on another base model is taken": (
                "        parts.append(weights_digest(model.folder))\n",
                "",
            )
        },
    ),
    *within(
        "training/setup.py",
        "training/test_setup.py::test_a_kept_adapter_is_not_put_on_another_base_model",
        {
            "the base of a kept adapter is not looked at": (
                "    if config.policy.model != TINY:\n        check_base",
                "    if config.policy.model == TINY:\n        check_base",
            )
        },
    ),
    *within(
        "policy/model_folder.py",
        "policy/test_model_folder.py::"
        "test_the_same_weights_in_other_files_have_the_same_digest_and_no_others",
        {
            "a digest goes beyond the end of a tensor": (
                "min(tensor.end, middle + half)",
                "middle + half",
            )
        },
    ),
    *within(
        "training/warmup_cache.py",
        "training/test_warmup_cache.py::test_another_warm_up_is_kept_elsewhere",
        {
            "a warm-up of other rewards is taken": (
                '"verifiers", "reward", "warmup"',
                '"verifiers", "warmup"',
            )
        },
    ),
    *within(
        "training/processes.py",
        "training/test_loop.py::test_a_sum_and_a_maximum_are_of_all_processes",
        {
            "a sum is one's own times all": (
                "return sum(self.all_gather(value))",
                "return value * self.count",
            ),
            "a maximum is one's own": ("return max(self.all_gather(value))", "return value"),
        },
    ),
    *within(
        "rollout/collect.py",
        "training/test_loop.py::test_everybodys_rewards_and_lengths_stand_in_rank_order",
        {
            "one's own rows are where one's rank is": (
                "first_own_row = len(rewards)",
                "first_own_row = number",
            )
        },
    ),
    *within(
        "training/loop.py",
        "training/test_loop.py::test_what_a_step_does_to_the_state",
        {
            "surplus is carried over always": (
                "carried=batch.surplus if run.config.rollout.carry_over else ()",
                "carried=batch.surplus",
            ),
            "a skipped step is a new version": (
                "version=state.version + (not update.skipped)",
                "version=state.version + 1",
            ),
            "a step without an informative group does not end bad ones": (
                "bad=state.bad + 1 if update.is_non_finite else 0",
                "bad=state.bad + 1 if update.is_non_finite else state.bad",
            ),
        },
    ),
    *within(
        "training/stop_rules.py",
        "training/test_loop.py::test_a_run_stops_at_its_limits_and_not_before",
        {
            "one idle step more": (
                "run.state.idle < run.config.rollout.idle_steps",
                "run.state.idle <= run.config.rollout.idle_steps",
            ),
            "exactly as many failures as allowed stop": (
                "if excess <= 0:",
                "if excess < 0:",
            ),
        },
    ),
    *within(
        "rollout/collect.py",
        "rollout/test_collect.py::test_the_share_of_lost_samples_is_judged_over_enough_of_them",
        {
            "exactly as many lost samples as allowed stop": (
                "if lost <= max_lost * drawn:",
                "if lost < max_lost * drawn:",
            ),
            "half of the draws are most": ("lost > drawn / 2", "lost >= drawn / 2"),
            "one row that is drawn again and again ends a run": (
                "lost_rows >= min(MIN_LOST, rows)",
                "lost >= min(MIN_LOST, rows)",
            ),
        },
    ),
    *within(
        "evaluation/evaluate.py",
        "evaluation/test_records.py::test_equal_ids_of_two_sources_are_two_questions",
        {
            "equal ids share their seeds": (
                "address = (sample.source, sample.id)",
                "address = (sample.id,)",
            ),
            "equal ids share a record": ("return sample.source, sample.id", 'return "", sample.id'),
        },
    ),
    *within(
        "training/loop.py",
        "training/test_loop.py::test_a_step_draws_updates_hands_over_and_writes_down_in_this_order",
        {
            "the engine gets the version before the step": (
                "run.engine.update_weights(run.policy, run.state.version)",
                "run.engine.update_weights(run.policy, run.state.version - 1)",
            )
        },
    ),
    *within(
        "training/metrics.py",
        "training/test_loop.py::"
        "test_checkpoints_are_compared_by_the_same_questions_at_every_evaluation",
        {
            "the last evaluation is scored by all questions": (
                "for record in records[:head]]",
                "for record in records]",
            )
        },
    ),
    *within(
        "training/held_out.py",
        "training/test_held_out.py",
        {
            "the control is not written": (
                "_save_control(guessed, evaluation_path(run.folder.path, benchmark.spec.name, "
                '"blank"))',
                "pass",
            ),
            "grey pictures are answered as often as real ones": ('{"samples": 0}', "{}"),
            "words without a picture are asked in grey": (" if sample.sizes]", "]"),
            "every evaluation has a control": (
                'if when == "after" and run.config',
                "if run.config",
            ),
            "the control of an earlier last step stays": (
                "path.unlink(missing_ok=True)",
                "pass",
            ),
        },
    ),
    *within(
        "training/metrics.py",
        "training/test_held_out.py::"
        "test_a_task_that_is_called_blank_has_the_same_name_in_every_evaluation",
        {"a task is taken for the control": (" or name == BLANK", "")},
    ),
    *within(
        "training/live_page.py",
        "training/test_live_page.py",
        {
            "pages take as much time as they like": ("REST * (end - begin)", "0.0"),
            "a page that was due too early is forgotten": (
                "if self._is_due and self._clock() >= self._not_before:",
                "if step % self._every == 0 and self._clock() >= self._not_before:",
            ),
            "a second Ctrl-C waits for the page": (
                "if run.state.step and not leaves_at_once:",
                "if run.state.step:",
            ),
            "a page that fails is tried again and again": (
                "self._is_on = False",
                "pass",
            ),
        },
    ),
    *within(
        "run_folder/small_pictures.py",
        "run_folder/test_small_pictures.py",
        {
            "a later evaluation exceeds the bound": (
                "new[: max(0, MOST - len(kept))]",
                "new",
            ),
            "small copies lie on their side": (
                "picture = open_picture(image)",
                "picture = open_picture(image).rotate(90, expand=True)",
            ),
        },
    ),
    *within(
        "run_folder/log.py",
        "test_run_folder.py::test_what_was_drawn_is_written_once_and_what_was_used_is_marked",
        {
            "a group has the weights of another": (
                "for group, of_answers in zip(groups, weights, strict=True):",
                "for group, of_answers in zip(groups, reversed(weights), strict=True):",
            )
        },
    ),
    *within(
        "training/milestones.py",
        "training/test_loop.py::test_what_is_due_after_a_step_of_seven",
        {
            "a run that is left does not save": (
                "bool(due or leaving or step",
                "bool(due or step",
            )
        },
    ),
    *within(
        "rollout/vllm/server_engine.py",
        "rollout/vllm/test_server_engine.py::test_what_is_not_said_of_servers_is_the_safe_thing",
        {
            "servers beyond this machine are allowed": (
                "    remote: bool = False\n",
                "    remote: bool = True\n",
            )
        },
    ),
    *within(
        "training/metrics.py",
        "test_run_folder.py::test_the_row_of_a_step_by_hand",
        {
            "unscored answers count in the mean reward": (
                'scored = max(sums["n:scored"], 1)',
                'scored = max(sums["n:completions"], 1)',
            ),
            "rewards of a task are divided by all answers": (
                'row[name] = total / max(sums[f"n:{name}"], 1)',
                "row[name] = total / scored",
            ),
        },
    ),
    *within(
        "training/sft.py",
        "training/test_sft.py",
        {
            "every process imitates the same": ("range(first + processes.rank, ", "range(first, "),
            "every step imitates the first solutions": (
                "first = step * config.batch_size",
                "first = 0",
            ),
        },
    ),
    *within(
        "methods/supervised.py",
        "training/test_sft.py::test_every_token_of_every_solution_weighs_the_same",
        {
            "a solution weighs the same, however long": (
                "rewards_BG.new_ones(rewards_BG.shape) / lengths_BG.sum()",
                "1 / lengths_BG / len(lengths_BG)",
            )
        },
    ),
    *within(
        "rollout/vllm/plugin.py",
        "rollout/vllm/test_server_engine.py::"
        "test_the_trainer_is_the_first_of_its_group_at_the_address_that_the_server_sees",
        {
            "the trainer is not counted in its group": (
                "world_size=workers + 1, rank=0",
                "world_size=workers, rank=0",
            ),
            "the group meets at any address": (
                "master_address=address",
                'master_address="0.0.0.0"',
            ),
        },
    ),
    *within(
        "policy/processor.py",
        "policy/test_policy_facts.py::test_a_missing_torchvision_is_named_only_where_it_is_missing",
        {
            "every failed import is a missing torchvision": (
                "if isinstance(error, ImportError) and not torchvision_works():",
                "if isinstance(error, ImportError):",
            )
        },
    ),
    *within(
        "report/model_card.py",
        "report/test_model_card.py::"
        "test_a_hub_reads_the_model_that_training_began_with_unless_there_was_none",
        {
            "a tiny model is a model of a hub": (
                'if name != "tiny" and not Path',
                "if not Path",
            )
        },
    ),
    *within(
        "report/model_card.py",
        "report/test_model_card.py::test_a_card_that_somebody_wrote_keeps_its_words",
        {
            "a head that is no YAML is one": (
                '    if not isinstance(metadata, dict):\n        return {}, "", card\n',
                "",
            )
        },
    ),
    *within(
        "report/model_card.py",
        "policy/test_plain_loading.py::"
        "test_the_program_loads_a_base_in_4_bits_as_it_was_in_training",
        {
            "the program loads a base in 4 bits as it is stored": (
                'if config.policy.quantise == "none":',
                'if config.policy.quantise != "int8":',
            )
        },
    ),
    *within(
        "report/model_card.py",
        "report/test_model_card.py::test_it_says_what_training_began_with_and_by_which_method",
        {
            "no warm-up is a warm-up of no steps": (
                "if config.warmup.steps:",
                "if config.warmup.steps >= 0:",
            )
        },
    ),
    *within(
        "report/model_card.py",
        "report/test_model_card.py::"
        "test_accuracies_stand_in_per_cent_in_the_order_of_the_run_a_row_for_each_task",
        {
            "accuracies are shares with the sign of per cent": ("{100 * fmean(", "{fmean("),
            "evaluations stand by their names": (
                '(moments.get(path.stem.rpartition("-")[2], 1), path.stem)',
                "path.stem",
            ),
        },
    ),
    *within(
        "preflight/memory.py",
        "preflight/test_memory.py::test_a_rollout_holds_the_rows_that_are_sampled_at_once",
        {
            "keys and values are those of all groups": (
                "groups = groups_sampled_at_once(workload)",
                "groups = workload.groups",
            ),
            "logits are those of the usual number of groups": (
                "groups_sampled_at_once(workload) * workload.config",
                "min(PROMPTS_AT_ONCE, workload.groups) * workload.config",
            ),
        },
    ),
    *within(
        "preflight/remedies.py",
        "preflight/test_remedies.py::test_no_change_is_offered_that_is_made_already",
        {
            "what checkpoints already is told to checkpoint": (
                "if config.learner.checkpointing is False:",
                "if True:",
            ),
            "an engine that sleeps is told to sleep": (
                'if kind == "vllm" and not options.get("sleep", 0):',
                'if kind == "vllm":',
            ),
        },
    ),
    *within(
        "preflight/remedies.py",
        "preflight/test_remedies.py::test_changes_of_training_from_the_least_to_the_most",
        {
            "everything may be frozen": (
                'if policy.vision == "full" and policy.language != "frozen":',
                'if policy.vision == "full":',
            ),
            "adapters are proposed with the rate of a whole model": (
                "if config.optimizer.lr < LORA_LR:",
                "if False:",
            ),
            "4 bits are proposed without adapters": (
                'yield lora | {"policy.quantise": "nf4"}',
                'yield {"policy.quantise": "nf4"}',
            ),
        },
    ),
    *within(
        "preflight/remedies.py",
        "preflight/test_remedies.py::"
        "test_each_change_of_computing_is_offered_where_it_changes_something",
        {
            "a rollout that fits is told to be smaller": (
                "    if _rollout_bytes(workload, limits) <= available:\n        return 0\n",
                "",
            )
        },
    ),
    *within(
        "preflight/remedies.py",
        "preflight/test_remedies.py::test_fewer_groups_at_once_are_added_to_a_change_"
        "after_which_only_the_rollout_is_too_large",
        {
            "fewer groups at once are tried on the first config alone": (
                "at_once = _fewer_prompts_at_once(changed)",
                "at_once = _fewer_prompts_at_once(workload)",
            )
        },
    ),
    *within(
        "preflight/storage.py",
        "preflight/test_storage.py",
        {
            "an adapter has one matrix": (
                "ends += matrix.inputs, matrix.outputs",
                "ends += (matrix.inputs,)",
            ),
            "what adapters leave as it was is not kept": (
                "originals = self.full if self.policy.trains_adapters else 0",
                "originals = 0",
            ),
            "small tensors have moments in 8 bits": ("if numbers < SMALLEST_8BIT:", "if False:"),
            "the scales of 4 bits have no scales": (
                "return ceil(numbers / 2) + scales + 4",
                "return ceil(numbers / 2) + 4",
            ),
            "every matrix is counted in 4 bits": (
                "return tuple(matrix for matrix in matrices if matrix.inputs % NF4_BLOCK == 0)",
                "return tuple(matrices)",
            ),
            "a path is no target": (
                'names = {target.rpartition(".")[2] for target in targets}',
                "names = set(targets)",
            ),
        },
    ),
    *within(
        "preflight/memory.py",
        "preflight/test_plan.py",
        {
            "auto never merges in the plan": (
                'return policy.dtype != "bfloat16" and policy.quantise == "none"',
                "return False",
            ),
            "a warmed-up adapter began at zero": (
                "not workload.config.warmup.steps and workload.adapter is None",
                "workload.adapter is None",
            ),
        },
    ),
    *within(
        "preflight/activations.py",
        "preflight/test_activations.py",
        {
            "frozen norms save what they scale": (
                "return wide + normed if kept.is_full else wide",
                "return wide + normed",
            ),
            "the residual stream is always float32": (
                "if is_half and is_wide and not stack.is_tower:",
                "if is_half:",
            ),
            "matrices without an adapter save their inputs": (
                'needed = storage.chosen(stack.matrices) if training == "lora" else ()',
                "needed = stack.matrices",
            ),
        },
    ),
    *within(
        "evaluation/metrics.py",
        "evaluation/test_metrics.py::"
        "test_boxes_are_handed_over_with_sides_scores_and_their_question",
        {
            "a box is handed over with its corner as its height": ("box.y2 - box.y1]", "box.y2]"),
            "classes that nobody asked about are counted": (
                'for item in truth["categories"] if item["id"] in asked]',
                'for item in truth["categories"]]',
            ),
        },
    ),
    *within(
        "evaluation/metrics.py",
        "evaluation/test_metrics.py::test_the_best_of_some_answers_needs_as_many_of_every_question",
        {
            "pass@k is told where one question has k answers": (
                "if not sampled or not all(len(each)",
                "if not sampled or not any(len(each)",
            )
        },
    ),
    *within(
        "cli/evaluate.py",
        "evaluation/test_compare.py::test_as_many_changes_are_shown_as_asked_and_all_are_written",
        {
            "every change is shown": ("in pairs[:changed]:", "in pairs:"),
            "the texts of the two files are swapped": (
                '"texts": [old.text, new.text]',
                '"texts": [new.text, old.text]',
            ),
        },
    ),
    *within(
        "cli/evaluate.py",
        "test_command_options.py::test_a_benchmark_that_is_named_twice_is_taken_once",
        {
            "a benchmark that is named twice is taken twice": (
                'list(dict.fromkeys(item for item in benchmarks if "=" not in item))',
                '[item for item in benchmarks if "=" not in item]',
            )
        },
    ),
    *within(
        "cli/train.py",
        "test_command_options.py::test_serve_shows_the_command_that_it_would_become",
        {
            "a server that is to sleep is not told that it will": (
                "more=[*options.sleeping, *_words",
                "more=[*_words",
            )
        },
    ),
    *within(
        "cli/train.py",
        "test_command_options.py::test_sft_makes_no_step_and_says_where_the_policy_is",
        {"the warm-up alone is followed by steps": ('update={"steps": 0}', "update={}")},
    ),
    *within(
        "cli/prepare.py",
        "preflight/test_audit.py",
        {
            "a run that cannot learn is no failure": (
                '{stop}", 0)\n        raise typer.Exit(1)',
                '{stop}", 0)\n        raise typer.Exit(0)',
            )
        },
    ),
    *within(
        "config/schema.py",
        "config/test_defaults.py::test_every_knob_has_the_default_that_is_written_here",
        {
            "a lost share of a tenth is borne": (
                "max_lost: float = Field(default=0.05,",
                "max_lost: float = Field(default=0.1,",
            )
        },
    ),
    *within(
        "config/schema.py",
        "config/test_defaults.py::test_every_number_has_its_borders",
        {
            "a group of one answer is a group": (
                "group_size: int = Field(default=8, ge=2)",
                "group_size: int = Field(default=8, ge=1)",
            )
        },
    ),
    *within(
        "evaluation/records.py",
        "evaluation/test_records.py",
        {
            "a file of records holds the token NaN": (
                "row[name] = json_value(value)",
                "row[name] = value",
            ),
            "what questions share is lost below the first line": (
                "records.append(replace(record, **shared))",
                "records.append(record)",
            ),
        },
    ),
    *within(
        "evaluation/evaluate.py",
        "evaluation/test_evaluate.py::test_an_interrupted_evaluation_goes_on_and_ends_the_same",
        {
            "an evaluation that goes on is another one": (
                "about = record.about or about",
                "about = about or record.about",
            )
        },
    ),
    *within(
        "verifiers/format_advice.py",
        "verifiers/test_format_advice.py",
        {
            "advice is given where many answers have the format": (
                "MALFORMED_SHARE = 0.9",
                "MALFORMED_SHARE = 0.5",
            ),
            "lenient mode is advised where answers are read leniently": (
                'verifier.mode == "strict"',
                "verifier.mode",
            ),
            "only the first task is read a second time": (
                "read = malformed[:: math.ceil(len(malformed) / MAX_READ)]",
                "read = malformed[:MAX_READ]",
            ),
        },
    ),
    *within(
        "report/trackers.py",
        "report/test_trackers.py",
        {
            "steps of a resumed run are dropped by W&B": (
                "tracker.log({axis: row.step, **row.metrics})",
                "tracker.log({axis: row.step, **row.metrics}, step=row.step)",
            ),
            "a long warm-up switches a tracker off": ("self._room += 1", "self._room += 0"),
            "a new run goes on with an old one of its name": (
                'return f"{label}-{digits[:14]}"',
                "return label",
            ),
        },
    ),
    *within(
        "report/trackers.py",
        "report/test_tracker_sends.py",
        {
            "pictures of questions reach a tracker without being asked for": (
                "shows_pictures = self._pictures and self._name in WITH_PICTURES",
                "shows_pictures = self._name in WITH_PICTURES",
            ),
            "the page that is sent has its pictures": ("if not self._pictures:", "if False:"),
        },
    ),
    *within(
        "report/answer_table.py",
        "report/test_answer_table.py",
        {
            "a text breaks the table that TensorBoard shows": ("&|!#~]", "&!#~]"),
            "half a character stops a tracker": ('"utf-8", "backslashreplace"', '"utf-8"'),
            "a picture in the table has its full size": (
                "        picture.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))\n",
                "",
            ),
        },
    ),
    *within(
        "report/tracker_checks.py",
        "report/test_tracker_checks.py",
        {
            "a server that is away refuses a run": (
                "        raise\n    if not is_logged_in:",
                '        raise _logged_out("wandb", remedy) from None\n    if not is_logged_in:',
            ),
            "a check waits without a limit": ("thread.join(CHECK_SECONDS)", "thread.join()"),
        },
    ),
    *within(
        "training/signals.py",
        "training/test_signals.py",
        {
            "the interrupt that ends an evaluation is a second request": (
                "if has_interrupted and numbers[0] == signal.SIGINT:",
                "if False:",
            ),
            "a closed terminal twice loses the step": (
                "(is_same or number == signal.SIGHUP)",
                "is_same",
            ),
            "a request that two pass on loses the step": (
                "(is_same or number == signal.SIGHUP)",
                "number == signal.SIGHUP",
            ),
            "an interrupt comes twice": (
                "is_due, self.is_due = self.is_due, False",
                "is_due = self.is_due",
            ),
            "a main thread that waits is not woken": (
                "signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)",
                "pass",
            ),
            "nohup is not respected": (
                "if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:",
                "if True:",
            ),
            "a forked process asks its parent to stop": (
                "        signal.set_wakeup_fd(-1)\n",
                "",
            ),
            "a signal that comes in a fork is lost": (
                "_before_fork.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)",
                "_before_fork.mask = set()",
            ),
            "a process hears no signal after it has forked": (
                "before=_hold_back, after_in_parent=_let_through,",
                "before=_hold_back,",
            ),
        },
    ),
    *within(
        "training/loop.py",
        "training/test_loop.py",
        {
            "a run that is asked while it saves goes on": (
                "if is_saved and not is_done and run.processes.any(run.stop.asked):",
                "if run.state.step == 0 and run.processes.any(run.stop.asked):",
            )
        },
    ),
    *within(
        "report/display.py",
        "report/test_display.py",
        {
            "the line is wider than the terminal": (
                "if taken + MIN_BAR > width:",
                "if taken > width:",
            ),
            "a figure is cut": ("if len(longer) > width:", "if len(line) > width:"),
            "a long step looks dead in a file": (
                "threading.Thread(target=self._print_each_minute, daemon=True).start()",
                "pass",
            ),
            "a line for each step goes into a file": (
                "if always or self.clock() - self._printed >= SECONDS_BETWEEN_LINES:",
                "if True:",
            ),
        },
    ),
    *within(
        "report/output.py",
        "report/test_output.py",
        {"what a reader left goes nowhere": ("os.dup2(2, 1)", "os.dup2(nowhere, 1)")},
    ),
    *within(
        "config/models.py",
        "config/test_models.py",
        {
            "a run is its oldest checkpoint": (
                'return _named(saved[-1] / "policy", path, is_newest=True)',
                'return _named(saved[0] / "policy", path, is_newest=True)',
            ),
            "a name in a folder of runs may be a hub id": (
                "if not _HUB_ID.fullmatch(name) or in_runs:",
                "if not _HUB_ID.fullmatch(name):",
            ),
            "a checkpoint that is half written is a model": (
                "if path.absolute().name.endswith(INCOMPLETE) or",
                "if",
            ),
            "a checkpoint brings no config": (
                'return _named(path / "policy", run_of(path / "policy"))',
                'return _named(path / "policy", None)',
            ),
            "a model beside the config comes before the working directory": (
                "path.is_absolute() or is_folder(path):",
                "path.is_absolute():",
            ),
        },
    ),
    *within(
        "training/rewind.py",
        "training/test_rewind.py",
        {
            "the oldest of the later checkpoints goes first": (
                "for path in reversed(self.checkpoints()):",
                "for path in self.checkpoints():",
            ),
            "the evaluation of the last step is always dropped": (
                'when = f"{self.last_step:06d}"',
                'when = "999999"',
            ),
        },
    ),
    *within(
        "training/checkpoint.py",
        "training/test_rewind.py::test_a_run_that_is_killed_while_it_drops_goes_on_soundly",
        {
            "a checkpoint is deleted under its own name": (
                "    path.rename(dropped)\n    return dropped",
                "    return path",
            )
        },
    ),
    *within(
        "preflight/prepare_data.py",
        "preflight/test_prepare_data.py",
        {"rows are written in their place": ('complete = aside / "rows"', "complete = to")},
    ),
    *within(
        "cli/prepare.py",
        "preflight/test_prepare_data.py::test_a_reader_that_stops_reading_costs_no_file",
        {
            "lines are printed before the rows are written": (
                "lines = list(lines)  # a reader",
                "lines = iter(lines)  # a reader",
            )
        },
    ),
    *within(
        "config/schema.py",
        "test_odd_names.py::test_a_name_that_leads_elsewhere_is_refused",
        {"a name may lead out of the folder": ('part in (".", ".."):', 'part == ".":')},
    ),
    *within(
        "training/checkpoint.py",
        "training/test_checkpoint.py::"
        "test_a_checkpoint_that_is_saved_again_is_there_while_the_old_one_is_deleted",
        {
            "a checkpoint is deleted before the new one is there": (
                "replaced = _put_away(path)",
                "replaced = delete(path)",
            )
        },
    ),
    *within(
        "rollout/gate/rounding.py",
        "rollout/gate/test_rounding.py::test_token_by_token_few_logits_exist_at_a_time",
        {
            "token by token all logits exist at once": (
                "states_ND.split(MAX_TOKENS_WITH_LOGITS)",
                "states_ND.split(1 << 20)",
            )
        },
    ),
    *within(
        "training/setup.py",
        "training/test_setup.py::"
        "test_an_adapter_of_the_hub_that_is_trained_on_is_where_a_divergence_begins",
        {
            "a divergence is from the base of an adapter that is trained on": (
                "    files = _starting_adapter(experiment.config)\n",
                "    files = None\n",
            )
        },
    ),
    *within(
        "training/setup.py",
        "training/test_adapter_runs.py::"
        "test_a_warm_up_and_a_divergence_leave_one_model_in_memory_with_the_warmed_up_weights",
        {
            "a second base model is loaded for the values of its adapters": (
                "    if policy.adapters is None:\n        return first_values",
                "    if start is not None:\n        return first_values",
            )
        },
    ),
    *within(
        "policy/load.py",
        "policy/test_adapters.py::"
        "test_a_policy_filled_from_a_file_is_as_if_it_had_been_loaded_from_it",
        {
            "gradients of the warm-up stay in memory": (
                "            parameters[name].grad = None\n",
                "",
            )
        },
    ),
    *within(
        "training/setup.py",
        "training/test_setup.py::test_a_run_that_would_stop_again_for_want_of_groups_is_warned",
        {
            "a run that will stop again is not warned": (
                "if idle >= run.config.rollout.idle_steps:",
                "if idle > run.config.rollout.idle_steps:",
            )
        },
    ),
    *within(
        "training/stop_rules.py",
        "training/test_loop.py::test_a_run_without_informative_groups_says_what_to_type",
        {
            "the new run has the name of an old one": (
                "if not (config.runs_path / name).exists()",
                "if name",
            ),
            "a verifier that fails is answered by a longer warm-up": (
                "if not batch.fresh or (math.isnan(mean) and first_verifier_error(batch)):",
                "if not batch.fresh:",
            ),
        },
    ),
    *within(
        "run_folder/machine.py",
        "test_run_folder.py::test_a_run_that_is_killed_while_it_is_resumed_keeps_its_header",
        {
            "a header is written in place": (
                'write_whole(folder / "config.yaml", config_yaml)',
                '(folder / "config.yaml").write_text(config_yaml)',
            )
        },
    ),
    *within(
        "cli/train.py",
        "test_command_options.py::test_a_run_that_is_stopped_says_how_to_go_on_and_ends_with_130",
        {
            "nothing is saved below the home folder's sign": (
                "find_run(resume) if resume else config.run_path",
                "resume or config.run_path",
            )
        },
    ),
    *within(
        "report/export.py",
        "report/test_export.py",
        {
            "an export is written in its place": (
                'made = aside / "model"\n            made.mkdir()',
                "made = to\n            made.mkdir()",
            ),
            "the room for a merged model is that of its adapter": (
                "if files.adapter is None or merged:\n        return _bytes",
                "if files.adapter is None:\n        return _bytes",
            ),
            "a folder that holds something is written into": (
                "if is_folder(to) and any(to.iterdir()):",
                "if is_folder(to) and not any(to.iterdir()):",
            ),
        },
    ),
    *within(
        "policy/load.py",
        "report/test_export.py::test_quantised_weights_are_merged_as_they_were_trained",
        {
            "an adapter of 4 bits is merged with its plain base": (
                'if adapter.quantise != "none":\n        quantised.quantise(model',
                'if adapter.quantise == "int8":\n        quantised.quantise(model',
            )
        },
    ),
    *within(
        "policy/model_folder.py",
        "policy/test_adapter_files.py::test_another_base_model_is_refused",
        {
            "a base with other weights passes": (
                "if begun and begun != weights_digest(base):",
                "if begun and not weights_digest(base):",
            ),
            "a base whose projector was trained passes": (
                "read_header(path).tensors.items():\n            # never",
                "[*read_header(path).tensors.items()][:9]:\n            # never",
            ),
        },
    ),
    *within(
        "config/schema.py",
        "training/test_optimizers.py::"
        "test_a_type_that_the_kernels_do_not_know_is_refused_with_the_config",
        {
            "8-bit moments of float64 weights pass": (
                'optimizer.kind == "adamw8bit" and self.policy.dtype == "float64"',
                'optimizer.kind == "adamw8bit" and self.policy.dtype == "float16"',
            )
        },
    ),
    *within(
        "preflight/adapter_checks.py",
        "preflight/test_adapter_checks.py",
        {
            "targets are checked where an adapter is trained on": (
                "    if adapter is None:\n",
                "    if True:\n",
            ),
        },
    ),
    *within(
        "policy/adapter_parts.py",
        "preflight/test_adapter_checks.py",
        {
            "an adapter of the head is trained on": (
                "if any(map(is_head, adapted)):",
                "if not adapted:",
            ),
            "a part that the adapter lacks passes": (
                'if how == "full" and part not in whole_parts:',
                'if how == "lora" and part not in parts:',
            ),
        },
    ),
    *within(
        "preflight/storage.py",
        "preflight/test_storage.py::test_an_adapter_that_is_trained_on_keeps_its_size",
        {
            "an adapter on disk is counted as if it were in all layers": (
                "            return self._on_disk(part, self.files)\n",
                "            return self.chosen(self.size.matrices(part))\n",
            )
        },
    ),
    *within(
        "policy/adapter_files.py",
        "policy/test_adapter_files.py",
        {
            "any first values of an adapter pass": (
                'if name == "init_lora_weights" and value in _PLAIN_STARTS:',
                'if name == "init_lora_weights":',
            ),
            "a cut file of tensors passes": (
                "if not header.is_readable or path.stat().st_size < header.size:",
                "if not header.is_readable:",
            ),
            "a copy of a matrix of the base is taken for a trained one": (
                "    return _OF_BASE in name\n",
                "    return not name\n",
            ),
        },
    ),
    *within(
        "policy/adapter_parts.py",
        "policy/test_adapters.py::test_a_part_that_would_get_no_adapter_is_refused",
        {
            "a part without any chosen matrix passes": (
                "not meant(targets, names)",
                "not meant(targets, all_names)",
            ),
        },
    ),
    *within(
        "policy/load.py",
        "policy/test_adapter_files.py::test_a_head_or_embedding_that_was_trained_is_not_tied_again",
        {
            "a head that was trained alone is tied again": (
                "for part in PARTS}, seed)\n    _untie(model)\n",
                "for part in PARTS}, seed)\n",
            ),
        },
    ),
    *within(
        "policy/adapters.py",
        "policy/test_adapter_files.py",
        {
            "an adapter of another family passes": (
                "if theirs != family:",
                "if not theirs:",
            )
        },
    ),
    *within(
        "policy/adapter_files.py",
        "report/test_export.py::test_a_base_of_this_machine_is_named",
        {
            "an absolute base lies in the adapter's folder": (
                'is_inside = base.parts and not base.is_absolute() and ".." not in base.parts',
                "is_inside = base.parts",
            ),
        },
    ),
]
