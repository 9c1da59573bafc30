"""Count the bytes that layers save for the backward pass, by how they are stored and trained.

The formulas were derived from autograd's saved tensors; `tests/preflight/test_activations.py`
counts those.
"""

from dataclasses import dataclass

from gpg_vl.policy.sizes import Matrix, Stack
from gpg_vl.preflight.storage import BYTES, Storage

_READS = {
    "q_proj": "attention",
    "k_proj": "attention",
    "v_proj": "attention",
    "gate_proj": "feed-forward",
    "up_proj": "feed-forward",
}
"""Input that matrices read together with others, by their names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Facts of a stack's training that decide what its layers save."""

    dtype: str
    """Type in which the forward computes."""
    needed: tuple[Matrix, ...]
    """Matrices of a layer whose inputs the backward needs: those that are trained or adapted."""
    is_full: bool
    """True if the weights themselves are trained, norms included."""
    residual: int
    """Bytes of a number of the residual stream."""
    casts: bool
    """True if each matrix casts its input by itself, so that each of them saves a copy."""
    rank: int = 0
    """Rank of the adapters; 0 = there are none."""
    dropout: bool = False
    """True if adapters drop some of their inputs, and save which."""

    @classmethod
    def of(cls, stack: Stack, storage: Storage) -> "Kept":
        """Return how a config trains the language model or the tower."""
        policy = storage.policy
        training = policy.vision if stack.is_tower else policy.language
        is_half = policy.dtype == "bfloat16"
        is_wide = training == "full" and policy.weights == "float32"
        residual = storage.narrow
        if is_half and is_wide and not stack.is_tower:
            residual = 4  # that of the embeddings; a tower's begins with a convolution in bfloat16
        if training == "full":
            needed = stack.matrices
        else:
            needed = storage.chosen(stack.matrices) if training == "lora" else ()
        return cls(
            dtype=policy.dtype,
            needed=needed,
            is_full=training == "full",
            residual=residual,
            casts=is_half and (is_wide or training == "lora" or stack.layer_norm),
            rank=policy.lora.rank if training == "lora" else 0,
            dropout=training == "lora" and policy.lora.dropout > 0,
        )


def saved_bytes(stack: Stack, kept: Kept, tokens: float, checkpointing: bool) -> float:
    """Return the bytes that a stack of layers saves for the backward pass of so many tokens.

    With one layer's tensors more, for the layer whose gradient is being computed.
    """
    whole_layer = layer_bytes(stack, kept)
    per_layer = whole_layer
    if checkpointing:  # only the input of each layer is saved
        per_layer = stack.width * kept.residual
    # An adapter computes from a float32 copy of its input, which exists for one matrix at a time.
    cast = 0
    if kept.rank and kept.dtype == "bfloat16":
        cast = 4 * max((matrix.inputs for matrix in kept.needed), default=0)
    return tokens * (stack.layers * per_layer + whole_layer + cast)


def layer_bytes(stack: Stack, kept: Kept) -> float:
    """Return the bytes that one layer saves for the backward pass of one token.

    They are the tensors inside the feed-forward part, what norms and attention save, and the inputs
    of matrices whose gradient is computed. In bfloat16 the matrix products are half as wide, but
    norms compute in float32.
    """
    compute = BYTES[kept.dtype]
    # The input of the matrix downwards is one of `inner_kept`, and is counted with the inputs.
    inner = (stack.inner_kept - 1) * compute * stack.inner
    heads = _norm_bytes(kept, compute) * (stack.queries + stack.keys) * stack.normed
    return inner + _norms_bytes(stack, kept) + heads + _attention(stack, kept) + _inputs(kept)


def _norms_bytes(stack: Stack, kept: Kept) -> float:
    """Return the bytes of the two norms of a layer."""
    if stack.layer_norm:  # one kernel, which saves its input alone
        return 2 * BYTES[kept.dtype] * stack.width
    return 2 * _norm_bytes(kept, kept.residual) * stack.width


def _norm_bytes(kept: Kept, normed: int) -> int:
    """Return the bytes of an RMS norm for one number: its input, and what a trained weight scales.

    Args:
        normed: bytes of what the weight scales.
    """
    wide = max(4, BYTES[kept.dtype])
    return wide + normed if kept.is_full else wide


def _attention(stack: Stack, kept: Kept) -> float:
    """Return what attention saves, without the inputs of its matrices."""
    if kept.dtype == "bfloat16":
        if stack.is_tower:
            return 12.3 * stack.width
        return 3.4 * stack.queries + 5 * stack.keys
    single = 24.3 * stack.width if stack.is_tower else 6.4 * stack.queries + 8 * stack.keys
    return 2 * single if kept.dtype == "float64" else single


def _inputs(kept: Kept) -> float:
    """Return what trained and adapted matrices save: their inputs, and an adapter's inner one."""
    compute = BYTES[kept.dtype]
    seen: set[str] = set()
    count = 0
    for matrix in kept.needed:
        read = matrix.name if kept.casts else _READS.get(matrix.name, matrix.name)
        if read not in seen:
            count += compute * matrix.inputs
        seen.add(read)
        count += compute * kept.rank
        if kept.dropout:
            count += matrix.inputs  # a byte that says whether it was dropped
    return count
