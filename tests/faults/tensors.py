"""Faults in what is computed: scores, weights, steps, sampling, pictures and loading, one line
each, that the suite must see."""

from tests.faults.fault import Fault, within

FAULTS: list[Fault] = [
    *within(
        "training/learner.py",
        "training/test_step_loss.py::"
        "test_every_token_meets_its_own_weight_ratio_and_reference_in_whatever_order_they_come",
        {
            "the ratio is taken with the first tokens of the micro-batch": (
                "self.sampled_N[index_n]",
                "self.sampled_N[: len(index_n)]",
            ),
            "the divergence is taken from the first tokens of the micro-batch": (
                "self.reference_N[index_n]",
                "self.reference_N[: len(index_n)]",
            ),
            "the divergence weighs like the first tokens of the micro-batch": (
                "self.shares_N[index_n]",
                "self.shares_N[: len(index_n)]",
            ),
            "tokens weigh like the first of the micro-batch": (
                "self.weights_N[index_n]",
                "self.weights_N[: len(index_n)]",
            ),
            "a missing probability is that of certainty": (
                "torch.where(sampled_n.isnan(), before_n, sampled_n)",
                "sampled_n.nan_to_num(0.0)",
            ),
            "policy and reference change places in the divergence": (
                "k3(logprobs_n, self.reference_N[index_n])",
                "k3(self.reference_N[index_n], logprobs_n)",
            ),
        },
    ),
    *within(
        "training/learner.py",
        "training/test_step_loss.py::test_the_slope_of_every_token_is_its_own_too",
        {
            "the gradient flows through the present probability that stands for a missing one": (
                "logprobs_n.detach()",
                "logprobs_n",
            )
        },
    ),
    *within(
        "training/learner.py",
        "training/test_step_loss.py::test_halves_of_a_microbatch_keep_their_own_sampled_tokens",
        {
            "after out of memory the second half has the first one's sampled tokens": (
                "slice(tokens, None)",
                "slice(0, None)",
            ),
            "after out of memory the cut counts answers instead of tokens": (
                "sum(sum(item.group.lengths) for item in batch[:middle])",
                "sum(len(item.group.lengths) for item in batch[:middle])",
            ),
        },
    ),
    *within(
        "training/learner.py",
        "training/test_step_loss.py::test_only_an_older_answer_is_held_against_what_was_sampled",
        {
            "answers of the present version count as old": (
                "completion.version == version",
                "completion.version < version",
            ),
            "one old token is enough to forget the others": (
                "is_present_N.all()",
                "is_present_N.any()",
            ),
        },
    ),
    *within(
        "training/learner.py",
        "training/test_step_loss.py::test_a_rank_trains_on_its_own_rows_of_everybodys_matrices",
        {
            "every rank takes the weights of the first": (
                "weights_BG[batch.own_rows].tolist()",
                "weights_BG[: len(batch.groups)].tolist()",
            ),
            "every rank takes the shares of the first": (
                "shares_BG[batch.own_rows].tolist()",
                "shares_BG[: len(batch.groups)].tolist()",
            ),
        },
    ),
    *within(
        "training/learner.py",
        "training/test_step_loss.py::test_updates_of_a_rollout_end_at_the_first_that_is_skipped"
        "_and_the_last_step_taken_is_reported",
        {
            "further updates follow a skipped one": (
                "        if update.skipped:\n            return update\n",
                "",
            ),
            "the first update of a rollout is told instead of the last": (
                "            update = further\n",
                "",
            ),
        },
    ),
    *within(
        "training/learner.py",
        "training/test_step_loss.py::"
        "test_a_loss_or_a_gradient_that_is_no_number_is_named_and_changes_nothing",
        {
            "only a loss and a gradient that are both no number are skipped": (
                "math.isfinite(loss) and math.isfinite(norm)",
                "math.isfinite(loss) or math.isfinite(norm)",
            )
        },
    ),
    *within(
        "training/learner.py",
        "training/test_learner.py::"
        "test_divergence_needs_a_reference_and_also_trains_zero_variance_groups",
        {
            "groups of a divergence alone are left out": (
                "any(item.weights) or any(item.shares)",
                "any(item.weights)",
            )
        },
    ),
    *within(
        "training/learner.py",
        "training/test_step_loss.py::"
        "test_out_of_memory_on_any_process_all_begin_again_and_that_one_halves",
        {
            "a process that had enough memory does not begin the step again": (
                "if not self.processes.any(own is None):",
                "if own is not None or not self.processes.any(own is None):",
            ),
            "a process that had enough memory halves its micro-batches too": (
                "                if own is None:\n",
                "                if batches:\n",
            ),
        },
    ),
    *within(
        "policy/out_of_memory.py",
        "training/test_step_loss.py::test_what_a_failed_try_held_is_free_before_the_next",
        {
            "what a failed try held is kept until the next one has begun": (
                "    traceback.clear_frames(error.__traceback__)\n",
                "",
            )
        },
    ),
    *within(
        "training/learner.py",
        "policy/test_dropout.py::test_masks_are_those_of_the_seed_and_of_the_update",
        {
            "all updates drop the same inputs": (
                '"dropout", self.schedule.last_epoch, self',
                '"dropout", 0, self',
            )
        },
    ),
    *within(
        "policy/group_forward.py",
        "policy/test_dropout.py::test_layers_that_run_again_drop_the_same_inputs",
        {
            "layers that run again drop other inputs": (
                "preserve_rng_state=draws",
                "preserve_rng_state=False",
            )
        },
    ),
    *within(
        "training/learner.py",
        "training/test_step_loss.py::"
        "test_a_resumed_state_has_the_rates_of_the_config_which_may_be_others",
        {
            "a changed learning rate is passed over by a run that goes on": (
                "        self._put_back(own)\n",
                "",
            ),
            "a run that goes on begins its schedule anew": (
                '_lr"] * factor(schedule.last_epoch)',
                '_lr"] * factor(0)',
            ),
        },
    ),
    *within(
        "training/optimizers.py",
        "training/test_optimizers.py",
        {
            "biases and norms decay": ("if parameter.ndim < 2:", "if parameter.ndim < 1:"),
            "all updates are rounded by the same numbers": (
                '"rounding", updates, index',
                '"rounding", index',
            ),
            "resumed moments of narrow weights are narrow": (
                "self.state[parameter][name] = value.to(loaded.device)",
                "pass",
            ),
        },
    ),
    *within(
        "policy/rounding.py",
        "training/test_optimizers.py",
        {
            "weights are rounded to the nearest": (
                "noise.random_(0, 1 << _DROPPED_BITS, generator=generator)",
                "noise.fill_(1 << (_DROPPED_BITS - 1))",
            ),
        },
    ),
    *within(
        "policy/load.py",
        "policy/test_adapter_files.py::test_a_small_adapter_is_asked_in_bfloat16_as_it_is_trained",
        {
            "an adapter that another config trains is merged to be asked": (
                "return asked if asked.trains_adapters else None",
                "return asked if asked == config else None",
            ),
        },
    ),
    *within(
        "policy/adapters.py",
        "policy/test_adapter_files.py::"
        "test_a_small_adapter_that_is_merged_into_bfloat16_is_kept_on_average",
        {
            "an adapter that is merged is rounded to the nearest": (
                "merged = rounded_by_chance(merged, seed)",
                "pass",
            ),
        },
    ),
    *within(
        "training/rehearsal.py",
        "training/test_rehearsal.py::test_nothing_is_left_of_it",
        {
            "gradients of the rehearsal are kept": (
                "    learner.optimizer.zero_grad(set_to_none=True)\n",
                "",
            ),
            "the run goes on without its cache of features": (
                "        forward.policy = policy\n",
                "        pass\n",
            ),
        },
    ),
    *within(
        "rollout/transformers_engine.py",
        "rollout/test_transformers_engine.py::"
        "test_out_of_memory_fewer_prompts_go_at_once_and_the_tokens_are_the_same",
        {
            "fewer prompts at once are forgotten after a batch": (
                "            sampled = self._sample(prompts[batch], sampling, seeds[batch])\n",
                "            sampled = self._sample(prompts[batch], sampling, seeds[batch])\n"
                "            self.prompts_at_once = 32 if sampled else self.prompts_at_once\n",
            )
        },
    ),
    *within(
        "training/microbatches.py",
        "training/test_step_loss.py",
        {
            "a micro-batch must be smaller than the budget": (
                "shared=shared) <= budget",
                "shared=shared) < budget",
            ),
            "groups that share a picture through a third are torn apart": (
                "if cluster[0] & own_pictures:",
                "if cluster[0] >= own_pictures:",
            ),
            "a cluster remembers only the pictures of its last group": (
                "                pictures |= cluster[0]\n",
                "",
            ),
            "the rectangle is as high as its lowest group": (
                "rows = max(len(item.weights) for item in batch)",
                "rows = min(len(item.weights) for item in batch)",
            ),
        },
    ),
    *within(
        "policy/shared_prefix.py",
        "policy/test_decoding.py::test_some_of_the_prompts_keep_all_that_is_their_own",
        {
            "prompts that stay see the padding of the first": (
                "self.visible_PL[which],",
                "self.visible_PL[: len(which)],",
            ),
            "prompts that stay go on at the positions of the first": (
                "self.next_position_P[which],",
                "self.next_position_P[: len(which)],",
            ),
        },
    ),
    *within(
        "policy/shared_prefix.py",
        "policy/test_shared_prefix.py::test_what_a_token_may_attend_to_by_hand",
        {
            "a window reaches one token too far": (
                "at_Q - at_K < window)",
                "at_Q - at_K <= window)",
            ),
            "a window reaches one token too far into the prompt": (
                "torch.arange(length, device=visible_PL.device) < window",
                "torch.arange(length, device=visible_PL.device) <= window",
            ),
        },
    ),
    *within(
        "policy/shared_prefix.py",
        "policy/test_group_forward.py::"
        "test_what_a_checkpointed_try_without_enough_memory_held_is_free_at_once",
        {
            "the graph of a prompt and the cache that it keeps hold each other": (
                "recorded, self.recorded = self.recorded, {}",
                "recorded = self.recorded",
            )
        },
    ),
    *within(
        "policy/shared_prefix.py",
        "policy/test_shared_prefix.py::test_a_closed_recorder_passes_states_on_and_keeps_none",
        {
            "layers that run again in the backward fill the cache again": (
                "if self.is_open:",
                "if True:",
            )
        },
    ),
    *within(
        "policy/chunked_head.py",
        "policy/test_chunked_head.py::test_many_chunks_of_a_narrow_type_are_summed_in_a_wide_one",
        {
            "the gradient of a half-size head is rounded at each chunk": (
                "torch.promote_types(weight_VD.dtype, torch.float32)",
                "weight_VD.dtype",
            )
        },
    ),
    *within(
        "policy/decoding.py",
        "policy/test_decoding.py::test_rows_that_stay_go_on_as_if_they_had_been_alone",
        {
            "the first rows keep their tokens, not those that stay": (
                "self.cache.keep(rows_pr.flatten())",
                "self.cache.keep(torch.arange(rows_pr.numel(), device=rows_pr.device))",
            ),
            "rows with prompts of their own go on at the positions of the first": (
                "self.next_position[rows]",
                "self.next_position[: len(rows)]",
            ),
            "rows with prompts of their own are laid out prompt by prompt in turn": (
                "self.next_position = following.repeat_interleave(rows)",
                "self.next_position = following.repeat(rows)",
            ),
        },
    ),
    *within(
        "rollout/transformers_engine.py",
        "policy/test_decoding.py",
        {
            "finished questions leave only all at once": (
                "has_finished_prompt = not all(unfinished)",
                "has_finished_prompt = not any(unfinished)",
            ),
            "finished rows stay and unfinished ones leave": (
                "group=group: group[row].done",
                "group=group: not group[row].done",
            ),
            "an impossible token can be drawn at the edge": (
                "return drawn.minimum(last_possible)",
                "return drawn",
            ),
            "all answers have one stream": ("np.random.PCG64(seed)", "np.random.PCG64(0)"),
        },
    ),
    *within(
        "policy/group_forward.py",
        "policy/test_group_forward.py::"
        "test_scores_of_pieces_are_put_in_the_order_that_was_asked_for",
        {
            "scores stay in the order of the pieces": (
                "order = torch.cat(indices).argsort()",
                "order = torch.arange(len(torch.cat(indices)), device=indices[0].device)",
            )
        },
    ),
    *within(
        "policy/group_forward.py",
        "policy/test_group_forward.py::"
        "test_a_piece_of_single_tokens_which_no_layer_sees_takes_nothing_from_the_others",
        {
            "a piece without a gradient takes away the others'": (
                "if gradient is None:\n        return total\n",
                "if gradient is None:\n        return None\n",
            ),
            "the loss of pieces is their mean": (
                "torch.stack(losses).sum())",
                "torch.stack(losses).mean())",
            ),
        },
    ),
    *within(
        "policy/group_forward.py",
        "policy/test_group_forward.py::test_both_types_must_agree_up_to_their_limits",
        {
            "it is enough to agree in one type": (
                "return exact_holds and narrow_holds",
                "return exact_holds or narrow_holds",
            ),
            "the two limits of a narrow type add up": (
                "max(ROUNDING * own, NEGLIGIBLE)",
                "ROUNDING * own + NEGLIGIBLE",
            ),
        },
    ),
    *within(
        "policy/group_forward.py",
        "policy/test_group_forward.py::"
        "test_the_check_takes_no_features_that_were_made_in_another_type",
        {
            "the exact check takes features of the narrow type": (
                "vision=Vision(self.model, None))",
                "vision=self.policy.vision)",
            ),
            "the exact check is at temperature 1": (
                "GroupForward(policy, self.rule.temperature, tok",
                "GroupForward(policy, 1.0, tok",
            ),
        },
    ),
    *within(
        "policy/load.py",
        "policy/test_policy_facts.py",
        {
            "videos may be said": ('for kind in ("image", "video"):', 'for kind in ("image",):'),
            "the tokenizer's own end is no end": (
                "for end in [*listed, tokenizer.eos_token_id]:",
                "for end in listed:",
            ),
            "features of another type are taken": (
                "hashlib.sha256(dtype.encode())",
                "hashlib.sha256()",
            ),
            "features are remembered under a projector that is trained": (
                'if part != "language":',
                'if part == "vision":',
            ),
        },
    ),
    *within(
        "pictures.py",
        "test_pictures.py",
        {
            "large whole numbers are negative ones": (
                "stored = stored.view(np.uint32)",
                "stored = stored.view(np.int32)",
            ),
            "a missing number of a map is of its range": (
                "values[values == float(missing)] = np.nan",
                "pass",
            ),
            "grey with transparency shows what lies beneath": (
                '_TRANSPARENT = {"RGBA", "LA", "PA", "La", "RGBa"}',
                '_TRANSPARENT = {"RGBA"}',
            ),
            "a transparent colour is shown": (
                "in _TRANSPARENT or clear is not None:",
                "in _TRANSPARENT:",
            ),
            "a size is that of the stored picture": ("_SIDEWAYS = {5, 6, 7, 8}", "_SIDEWAYS = {0}"),
            "a phone picture lies on its side": (
                "return picture.transpose(turn)",
                "return picture",
            ),
            "a float picture is cut to its range": ('"I;16N", "I", "F"}', '"I;16N", "I"}'),
            "one number that is none spoils the range": (
                "finite = values[np.isfinite(values)]",
                "finite = values",
            ),
            "a palette's transparent grey is that of the file": (
                "return clear * _PNG_STEPS[stored]",
                "return clear",
            ),
        },
    ),
    *within(
        "policy/encode.py",
        "policy/test_pictures.py",
        {
            "a prompt may fill the window": (
                "input_ids.shape[1] >= policy.window",
                "input_ids.shape[1] > policy.window",
            ),
        },
    ),
    *within(
        "policy/vision.py",
        "policy/test_vision.py::test_a_picture_is_named_by_its_patches_and_by_how_they_stand",
        {
            "pictures of equal patches are one, whatever their grid": (
                "for _, value in sorted(picture.items()):\n        hasher",
                'for value in [picture["pixel_values"]]:\n        hasher',
            )
        },
    ),
    *within(
        "policy/vision.py",
        "policy/test_pictures.py",
        {
            "features are written in place": (
                'partial = path.with_suffix(f".{os.getpid()}.half")',
                "partial = path",
            ),
            "the shape is not in a picture's name": ('f"{name}{tuple(value.shape)}"', 'f"{name}"'),
            "deep layers come back in the order of their names": ('f"{place:03d}"', 'f"{place}"'),
            "a full memory is too full": (
                "while self.size > self.max_bytes:",
                "while self.size >= self.max_bytes:",
            ),
        },
    ),
    *within(
        "policy/sizes.py",
        "policy/test_policy_facts.py::test_a_size_by_hand",
        {"every tower keeps two tensors of its feed-forward part": ("_KEPT.get(family, 2)", "2")},
    ),
    *within(
        "methods/estimator.py",
        "methods/test_estimators.py",
        {
            "seven groups of 25 are eight": (
                "math.ceil(share * groups_per_step - 1e-9)",
                "math.ceil(share * groups_per_step)",
            )
        },
    ),
    *within(
        "methods/gpg.py",
        "methods/test_estimators.py",
        {
            "groups without a score leave the denominator": (
                "min_groups=len(rewards_BG)",
                "min_groups=1",
            )
        },
    ),
    *within(
        "methods/gpg.py",
        "methods/test_gpg.py",
        {
            "a spread of exactly the threshold is informative": (
                "highest_B - lowest_B > ZERO_VARIANCE_RANGE",
                "highest_B - lowest_B >= ZERO_VARIANCE_RANGE",
            ),
            "unscored answers count in the mean": (
                "count_B1 = is_scored_BG.sum(1, keepdim=True).clamp(min=1)",
                "count_B1 = rewards_BG.shape[1]",
            ),
        },
    ),
    *within(
        "rollout/collect.py",
        "rollout/test_collect.py",
        {
            "two runs sample alike": (
                'address = context.seed, "rollout"',
                'address = 0, "rollout"',
            ),
            "the cursor counts this rank's share only": (
                "cursor += groups_per_step",
                "cursor += context.groups_per_rank",
            ),
            "the cut goes by rank before prompt index": (
                "sorted(informative)",
                "list(informative)",
            ),
            "answers are sampled at another temperature": (
                "temperature=config.temperature)",
                "temperature=1.0)",
            ),
        },
    ),
]
