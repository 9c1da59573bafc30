"""A method: what each answer of a step weighs. Only `weights` is needed."""

from gpg_vl import Estimator


class BestOfGroup(Estimator):
    """Imitate the best answers of each group whose rewards differ; the others weigh nothing."""

    def weights(self, rewards_BG, lengths_BG):
        rewards_BG = rewards_BG.nan_to_num(0.0)  # NaN: could not be scored
        highest_B1 = rewards_BG.amax(1, keepdim=True)
        is_best_BG = (rewards_BG == highest_B1) & (rewards_BG > rewards_BG.amin(1, keepdim=True))
        tokens = (lengths_BG * is_best_BG).sum().clamp(min=1)
        return is_best_BG / tokens  # the mean over all tokens of the best answers
