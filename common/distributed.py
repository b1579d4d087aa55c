"""Several processes under torchrun: each takes its share of a batch, and gradients are averaged."""

import os

import torch
import torch.distributed as dist

from .errors import UserError, first_difference


def init_processes(device, batch_size=None):
    """Join torchrun's process group, if there is one. Returns (rank, world size).

    batch_size: that of the batches which `shard` will split, refused before anything is written.
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1:
        return 0, 1
    if batch_size is not None:
        _refuse_uneven(batch_size, world)
    if not dist.is_initialized():
        if device.type == "mps":
            raise UserError("--device mps: an Apple GPU serves one process. Give --device cpu")
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return dist.get_rank(), dist.get_world_size()


def refuse_different(what):
    """UserError in all processes unless all have the same {name: plain value}. Alone: nothing."""
    if not dist.is_initialized():
        return
    everyones = [None] * dist.get_world_size()
    dist.all_gather_object(everyones, what)
    for rank, theirs in enumerate(everyones):
        if different := first_difference(everyones[0], theirs):
            name, first, other = different
            raise UserError(
                f"{name}: {first} in process 0, {other} in process {rank}. "
                "Start all with the same flags, data and last.pt"
            )


def shard(batch):
    """This process's share of a global batch (B, …): all of it without torchrun."""
    if not dist.is_initialized():
        return batch
    world = dist.get_world_size()
    _refuse_uneven(len(batch), world)
    return batch.chunk(world)[dist.get_rank()]


def _refuse_uneven(batch_size, world):
    if batch_size % world:
        raise UserError(f"--batch-size {batch_size} can't be split evenly over {world} processes")


@torch.no_grad()
def average_gradients(net):
    """Average .grad over processes with one flat all-reduce, before step(). Alone: nothing."""
    if dist.is_initialized():
        grads = [p.grad for p in net.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in grads])
        dist.all_reduce(flat)
        for grad, averaged in zip(
            grads, flat.div_(dist.get_world_size()).split([g.numel() for g in grads])
        ):
            grad.copy_(averaged.view_as(grad))


def average(value):
    """The mean of a scalar tensor over processes, detached."""
    value = value.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value


def part(n, rank=None):
    """The slice of n things that process `rank`, or this one, has. Sizes differ by one at most."""
    rank = dist.get_rank() if rank is None else rank
    world = dist.get_world_size()
    return slice(n * rank // world, n * (rank + 1) // world)


def gather_parts(values, n):
    """All n values (n,), of which `values` are this process's part. Exact: zeros are added."""
    gathered = values.new_zeros(n)
    gathered[part(n)] = values
    dist.all_reduce(gathered)
    return gathered


def broadcast_part(tensor, place, n):
    """`tensor`, overwritten by that of the process whose part of n things has `place`."""
    owner = next(rank for rank in range(dist.get_world_size()) if place < part(n, rank).stop)
    dist.broadcast(tensor, owner)
    return tensor
