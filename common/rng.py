"""Randomness: seeds, a generator per step, and the state of every global generator."""

import random

import numpy as np
import torch


def seed_all(seed):
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def step_rng(seed, step):
    """A CPU generator that depends on (seed, step) alone, so that a step's noise is the same after
    a resume, on any device, and in any number of processes."""
    entropy = np.random.SeedSequence(seed % 2**64, spawn_key=(step,)).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(entropy[0]) << 32 | int(entropy[1]))


def rng_state():
    """Every global generator's state, which torch.load reads with weights_only=True.

    Of CUDA's it is that of the GPU in use.
    """
    kind, keys, pos, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],
        "numpy": (
            kind,
            torch.from_numpy(keys.astype(np.int64)),
            int(pos),
            int(has_gauss),
            float(gauss),
        ),
    }


def set_rng_state(state):
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        # process 0's, for all: each has drawn as much on its own GPU, from the same seed
        torch.cuda.set_rng_state(state["cuda"][0])
    kind, keys, pos, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), pos, has_gauss, gauss))
