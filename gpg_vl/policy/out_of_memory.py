"""Recognise a lack of memory, and free what the failed computation held, so that it may be retried.

Whoever catches such an error computes less at once and tries again.
"""

import traceback

import torch

_WORDS = (
    "can't allocate memory",  # the allocator of the CPU
    "CUDA error: out of memory",  # an allocation that goes past the allocator of torch
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""Parts of messages that have no error class of their own."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return True if a computation failed for lack of memory, on a GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return any(words in str(error) for words in _WORDS)


def free_memory_of(error: RuntimeError) -> None:
    """Free the tensors of a failed computation: the variables of all functions that it left.

    The error's traceback holds them. And the allocator of CUDA keeps what is freed, in blocks that
    the next try, with other sizes, may not fit.
    """
    traceback.clear_frames(error.__traceback__)
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
