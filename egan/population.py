"""A population of generators, each with its own Adam: Algorithm 1's lines 8-15 for all individuals.

Three times, with the same methods and the same results up to rounding:
  Loop         one individual after the other, as Algorithm 1 reads
  SharedLoop   the same, but what all fitness scores have in common is computed once
  Batch        row r of every stacked parameter is individual r, and all rows are computed at once
and Spread, which is any of these over several processes.

    parents = Batch(networks, adam)             # μ individuals
    children = parents.offspring(n_m)           # μ·n_m; child j·n_m + h: parent j, mutation h
    losses = children.mutate(D, z, mutations)   # one Adam step each
    healthy = children.healthy()                # no weight or moment is NaN or infinite
    F_q, F_d = children.evaluate(D, x, z)
    parents = children.survivors(places)

`adam` makes the optimiser of a list of parameters; `context` is entered for each forward pass
(autocast). Every individual makes one Adam step per generation, so all have made equally many, and
Adam's step count is one number.
"""

import contextlib
import copy

import torch
from torch.func import functional_call, grad, vmap

from common.distributed import broadcast_part, gather_parts, part

from .model import discriminator_loss, diversity_fitness_of, fake_loss, quality_fitness, real_loss

MOMENTS = ("exp_avg", "exp_avg_sq")


class Loop:
    """The plain version: a list of (G, its Adam)."""

    def __init__(self, networks, adam, context=contextlib.nullcontext):
        self.individuals = [(G, adam(list(G.parameters()))) for G in networks]
        self.context = context

    def __len__(self):
        return len(self.individuals)

    def with_individuals(self, individuals):
        other = copy.copy(self)
        other.individuals = individuals
        return other

    @torch.no_grad()
    def sample(self, z):
        """Samples (P, B, …) of all individuals from z (P, B, N_z)."""
        with self.context():
            return torch.stack([to_fp32(G(z_r)) for (G, _), z_r in zip(self.individuals, z)])

    def offspring(self, n_m, mine=slice(None)):
        """n_m copies of every individual: weights, Adam's moments and step (departure 13).

        mine: a slice, which of these children are made; by default all.
        """
        parents = [parent for parent in self.individuals for _ in range(n_m)]
        return self.with_individuals([copy.deepcopy(parent) for parent in parents[mine]])

    def mutate(self, D, z, mutations):
        """θ ← Adam(∇_θ M_G^h(z, θ), θ), lines 11-12.

        z (P, B, N_z). mutations: n_m losses of logits; individual r takes number r mod n_m.
        Returns the losses (P,), from before the step.
        """
        losses = []
        D.requires_grad_(False)
        for r, (G, opt) in enumerate(self.individuals):
            with self.context():
                l = D(G(z[r]))
            loss = mutations[r % len(mutations)](to_fp32(l))
            opt.zero_grad()
            loss.backward()
            opt.step()
            losses.append(loss.detach())
        D.requires_grad_(True)
        return torch.stack(losses)

    def evaluate(self, D, x, z):
        """F_q and F_d of every individual (P,), line 13, on real x (B, …) and z (B', N_z)."""
        F_q, F_d = [], []
        for G, _ in self.individuals:
            with self.context():
                with torch.no_grad():
                    samples = G(z)
                real, fake = to_fp32(D(x)), to_fp32(D(samples))
            gradient = torch.autograd.grad(discriminator_loss(real, fake), list(D.parameters()))
            F_q.append(quality_fitness(fake.detach()))
            F_d.append(diversity_fitness_of([g[None] for g in gradient]))
        return torch.stack(F_q), torch.cat(F_d)

    def healthy(self):
        """Whether each individual's weights and Adam moments are all finite, bool (P,)."""
        return torch.cat(
            [
                all_finite([t[None] for t in weights_and_moments(list(G.parameters()), opt)])
                for G, opt in self.individuals
            ]
        )

    def survivors(self, places):
        """The individuals at `places` (int64), in that order."""
        return self.with_individuals([self.individuals[r] for r in places.tolist()])

    def state_dict(self):
        """Stacked over individuals: {"params": {name: (P, …)}, "exp_avg": …, "step": number}."""
        rows = [dict(G.named_parameters()) for G, _ in self.individuals]
        state = {
            "params": {name: torch.stack([row[name].detach() for row in rows]) for name in rows[0]},
            "step": 0.0,
        }
        for moment in MOMENTS:
            state[moment] = {
                name: torch.stack(
                    [
                        opt.state[row[name]][moment] if opt.state else torch.zeros_like(row[name])
                        for row, (_, opt) in zip(rows, self.individuals)
                    ]
                )
                for name in rows[0]
            }
        for of_parameter in self.individuals[0][1].state.values():  # none before the first step
            state["step"] = float(of_parameter["step"])  # one number for all: see the head
        return state

    @torch.no_grad()
    def load_state_dict(self, state):
        for r, (G, opt) in enumerate(self.individuals):
            for name, p in G.named_parameters():
                p.copy_(state["params"][name][r])
            if state["step"]:
                set_adam(
                    opt,
                    dict(G.named_parameters()),
                    {m: {n: t[r] for n, t in state[m].items()} for m in MOMENTS},
                    state["step"],
                )


class SharedLoop(Loop):
    """Loop, but the real half of ∇_w L_D, the same for every individual, is computed once."""

    def evaluate(self, D, x, z):
        return evaluate_each(D, x, self.sample(z.expand(len(self), *z.shape)), self.context)


def evaluate_each(D, x, samples, context):
    """F_q and F_d (P,) of samples (P, B', …) against real samples x (B, …).

    The real half of ∇_w L_D is computed once.
    """
    F_q, F_d, w = [], [], list(D.parameters())
    with context():
        real = to_fp32(D(x))
    real_gradient = torch.autograd.grad(real_loss(real), w)
    for samples_r in samples:
        with context():
            fake = to_fp32(D(samples_r))
        gradient = torch.autograd.grad(fake_loss(fake), w)
        F_q.append(quality_fitness(fake.detach()))
        F_d.append(diversity_fitness_of([(a + b)[None] for a, b in zip(gradient, real_gradient)]))
    return torch.stack(F_q), torch.cat(F_d)


class Batch:
    """All individuals at once: each parameter is stacked (P, …), and one Adam steps the stacks."""

    def __init__(self, networks, adam, context=contextlib.nullcontext):
        self.net = networks[0]  # of which only the architecture is used
        self.adam = adam
        self.context = context
        rows = [dict(G.named_parameters()) for G in networks]
        self.params = {
            name: torch.stack([row[name].detach() for row in rows]).requires_grad_()
            for name in rows[0]
        }
        self.opt = adam(list(self.params.values()))
        zeros = {name: torch.zeros_like(p) for name, p in self.params.items()}
        set_adam(self.opt, self.params, {moment: zeros for moment in MOMENTS}, 0.0)
        self.parents = self.children = None

    def __len__(self):
        return len(next(iter(self.params.values())))

    def G(self, params, z):
        return functional_call(self.net, params, (z,))

    @torch.no_grad()
    def sample(self, z):
        with self.context():
            return to_fp32(vmap(self.G)(self.params, z))

    def offspring(self, n_m, mine=slice(None)):
        parents = torch.arange(len(self)).repeat_interleave(n_m)[mine]
        if self.children is None:  # their memory is kept from generation to generation
            self.children = Batch([self.net] * len(parents), self.adam, self.context)
            self.children.parents = self
        return self.children.copy_rows(self, parents)

    def mutate(self, D, z, mutations):
        D.requires_grad_(False)
        with self.context():
            l = to_fp32(vmap(D)(vmap(self.G)(self.params, z)))  # (P, B)
        losses, n_m = l.new_empty(len(l)), len(mutations)
        for h, M in enumerate(mutations):
            losses[h::n_m] = M(l[h::n_m])
        self.opt.zero_grad()
        losses.sum().backward()  # a row's loss has gradient in that row only
        self.opt.step()
        D.requires_grad_(True)
        return losses.detach()

    def evaluate(self, D, x, z):
        with self.context(), torch.no_grad():
            samples = vmap(self.G, in_dims=(0, None))(self.params, z)  # (P, B', …)
        if x.device.type == "cpu":  # one after the other: there vmap of a gradient is no faster
            return evaluate_each(D, x, samples, self.context)
        return self.evaluate_together(D, x, samples)

    def evaluate_together(self, D, x, samples):
        """The same as evaluate_each, by one vmap of the gradient."""

        def loss_and_logits(w, samples):
            l = to_fp32(functional_call(D, w, (samples,)))
            return fake_loss(l), l

        w = {name: p.detach() for name, p in D.named_parameters()}
        with self.context():
            gradient, fake = vmap(grad(loss_and_logits, has_aux=True), in_dims=(None, 0))(
                w, samples
            )
            real = to_fp32(D(x))
        real_gradient = torch.autograd.grad(real_loss(real), list(D.parameters()))
        F_d = diversity_fitness_of([a + b for a, b in zip(gradient.values(), real_gradient)])
        return quality_fitness(fake.detach()), F_d

    def healthy(self):
        return all_finite(weights_and_moments(list(self.params.values()), self.opt))

    def survivors(self, places):
        """The individuals at `places`, written over their parents, who are returned."""
        return self.parents.copy_rows(self, places)

    @torch.no_grad()
    def copy_rows(self, other, places):
        """Become the individuals of `other` at `places`: weights, Adam's moments and step."""
        places = places.to(next(iter(self.params.values())).device)
        for name, p in self.params.items():
            mine, theirs = self.opt.state[p], other.opt.state[other.params[name]]
            torch.index_select(other.params[name], 0, places, out=p.data)
            for moment in MOMENTS:
                torch.index_select(theirs[moment], 0, places, out=mine[moment])
            mine["step"].copy_(theirs["step"])
        return self

    def state_dict(self):
        moments = {
            m: {name: self.opt.state[p][m] for name, p in self.params.items()} for m in MOMENTS
        }
        step = float(self.opt.state[next(iter(self.params.values()))]["step"])
        return {
            "params": {name: p.detach() for name, p in self.params.items()},
            **moments,
            "step": step,
        }

    @torch.no_grad()
    def load_state_dict(self, state):
        for name, p in self.params.items():
            p.copy_(state["params"][name])
        set_adam(self.opt, self.params, {m: state[m] for m in MOMENTS}, state["step"])


class Spread:
    """A population over several processes. All have the same parents and the same D, and each
    computes its part of the children.

    The methods take and return what they do in one process, of all children. This object stands for
    parents and children alike.
    """

    def __init__(self, parents):
        self.parents = parents

    def __len__(self):
        return len(self.parents)

    def sample(self, z):
        return self.parents.sample(z)

    def offspring(self, n_m):
        self.n = len(self) * n_m
        self.mine = part(self.n)
        self.children = self.parents.offspring(n_m, self.mine)
        return self

    def mutate(self, D, z, mutations):
        first = self.mine.start % len(mutations)  # the mutation of our first child
        mutations = mutations[first:] + mutations[:first]
        return gather_parts(self.children.mutate(D, z[self.mine], mutations), self.n)

    def evaluate(self, D, x, z):
        F_q, F_d = self.children.evaluate(D, x, z)
        return gather_parts(F_q, self.n), gather_parts(F_d, self.n)

    def healthy(self):
        return gather_parts(self.children.healthy().float(), self.n).bool()

    def survivors(self, places):
        """Each survivor is sent by the process that has it, and becomes a parent in all."""
        ours, new = self.children.state_dict(), self.parents.state_dict()
        for row, place in enumerate(places.tolist()):
            values = [t[row] for t in stacks(new)]
            if self.mine.start <= place < self.mine.stop:
                values = [t[place - self.mine.start] for t in stacks(ours)]
            flat = broadcast_part(torch.cat([v.flatten() for v in values]), place, self.n)
            for t, value in zip(stacks(new), flat.split([v.numel() for v in values])):
                t[row] = value.view_as(t[row])
        self.parents.load_state_dict(new | {"step": ours["step"]})
        return self

    def state_dict(self):
        return self.parents.state_dict()

    def load_state_dict(self, state):
        self.parents.load_state_dict(state)


def stacks(state):
    """The stacked weights and moments (P, …) of a population's state."""
    return [t for kind in ("params", *MOMENTS) for t in state[kind].values()]


def weights_and_moments(params, opt):
    """The parameters and what `opt` holds of their moments: nothing before its first step."""
    moments = [opt.state[p][moment] for p in params if p in opt.state for moment in MOMENTS]
    return [*params, *moments]


def all_finite(tensors):
    """Whether row r of every tensor (P, …) is finite, bool (P,); told by its sum, to be quick."""
    return torch.stack([t.detach().reshape(len(t), -1).sum(1) for t in tensors]).isfinite().all(0)


def to_fp32(x):
    """bf16 (under autocast) to fp32, for the losses."""
    return x.float() if x.dtype == torch.bfloat16 else x


def set_adam(opt, params, moments, step):
    """Give `opt` these moments {"exp_avg": {name: tensor}, …} (copied) and this step count.

    They get their weight's memory format: fused Adam pairs numbers by their place in memory.
    """
    for name, p in params.items():
        device = p.device if opt.defaults["fused"] else "cpu"  # fused Adam counts on the device
        opt.state[p] = {
            "step": torch.full((), step, dtype=torch.float32, device=device),
            **{m: torch.empty_like(p).copy_(moments[m][name]) for m in MOMENTS},
        }


POPULATIONS = {"batch": Batch, "loop": Loop, "shared-loop": SharedLoop}
