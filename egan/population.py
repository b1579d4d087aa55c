"""A population of generators, each with its own Adam: Algorithm 1's lines 8-15 for all individuals.

Three times, with the same methods and the same results up to rounding:
  Loop         one individual after the other, as Algorithm 1 reads
  SharedLoop   the same, but what all fitness scores have in common is computed once
  Batch        row r of every stacked parameter is individual r, and all rows are computed at once

    parents = Batch(networks, adam)                  # μ individuals
    children = parents.offspring(n_m)                # μ·n_m of them; child j·n_m + h has parent j and mutation h
    losses = children.mutate(D, z, mutations)        # one Adam step each
    healthy = children.healthy()                     # no weight or moment is NaN or infinite
    F_q, F_d = children.evaluate(D, x, z)
    parents = children.survivors(places)

`adam` makes the optimiser of a list of parameters; `context` is entered for each forward pass (autocast). Every
individual makes one Adam step a generation, so all have made equally many, and Adam's step count is one number.
"""

import contextlib
import copy

import torch
from torch.func import functional_call, grad, vmap

from .model import discriminator_loss, diversity_of, fake_loss, quality_fitness, real_loss

MOMENTS = ("exp_avg", "exp_avg_sq")


class Loop:
    """The plain version: a list of (G, its Adam)."""

    def __init__(self, networks, adam, context=contextlib.nullcontext):
        self.individuals = [(G, adam(list(G.parameters()))) for G in networks]
        self.context = context

    def __len__(self):
        return len(self.individuals)

    def of(self, individuals):
        other = copy.copy(self)
        other.individuals = individuals
        return other

    @torch.no_grad()
    def sample(self, z):
        """Samples (P, B, …) of all individuals from z (P, B, N_z)."""
        with self.context():
            return torch.stack([full(G(z_r)) for (G, _), z_r in zip(self.individuals, z)])

    def offspring(self, n_m):
        """n_m copies of every individual: its weights and Adam's moments and step."""
        return self.of([copy.deepcopy(parent) for parent in self.individuals for _ in range(n_m)])

    def mutate(self, D, z, mutations):
        """θ ← Adam(∇_θ M_G^h(z, θ), θ), lines 11-12. z (P, B, N_z). Returns the losses (P,), from before the step."""
        losses = []
        D.requires_grad_(False)
        for r, (G, opt) in enumerate(self.individuals):
            with self.context():
                l = D(G(z[r]))
            loss = mutations[r % len(mutations)](full(l))
            opt.zero_grad()
            loss.backward()
            opt.step()
            losses.append(loss.detach())
        D.requires_grad_(True)
        return torch.stack(losses)

    def evaluate(self, D, x, z):
        """F_q and F_d of every individual (P,), line 13, on real samples x (B, …) and z (B', N_z)."""
        F_q, F_d = [], []
        for G, _ in self.individuals:
            with self.context():
                with torch.no_grad():
                    samples = G(z)
                real, fake = full(D(x)), full(D(samples))
            gradient = torch.autograd.grad(discriminator_loss(real, fake), list(D.parameters()))
            F_q.append(quality_fitness(fake.detach()))
            F_d.append(diversity_of([g[None] for g in gradient]))
        return torch.stack(F_q), torch.cat(F_d)

    def healthy(self):
        """Whether each individual's weights and Adam moments are all finite, bool (P,)."""
        return torch.cat([all_finite([t[None] for t in weights_and_moments(list(G.parameters()), opt)])
                          for G, opt in self.individuals])

    def survivors(self, places):
        """The individuals at `places` (int64), in that order."""
        return self.of([self.individuals[r] for r in places.tolist()])

    def state_dict(self):
        """Weights and moments stacked over individuals: {"params": {name: (P, …)}, "exp_avg": …, "step": number}."""
        rows = [dict(G.named_parameters()) for G, _ in self.individuals]
        state = {"params": {name: torch.stack([row[name].detach() for row in rows]) for name in rows[0]}, "step": 0.0}
        for moment in MOMENTS:
            state[moment] = {name: torch.stack([opt.state[row[name]][moment] if opt.state else row[name].detach() * 0
                                                for row, (_, opt) in zip(rows, self.individuals)])
                             for name in rows[0]}
        if opt := self.individuals[0][1].state:
            state["step"] = float(next(iter(opt.values()))["step"])
        return state

    @torch.no_grad()
    def load_state_dict(self, state):
        for r, (G, opt) in enumerate(self.individuals):
            for name, p in G.named_parameters():
                p.copy_(state["params"][name][r])
            if state["step"]:
                set_adam(opt, dict(G.named_parameters()), {m: {n: t[r] for n, t in state[m].items()} for m in MOMENTS},
                         state["step"])


class SharedLoop(Loop):
    """Loop, but the real half of ∇_w L_D, the same for every individual, is computed once."""

    def evaluate(self, D, x, z):
        return evaluate_each(D, x, self.sample(z.expand(len(self), *z.shape)), self.context)


def evaluate_each(D, x, samples, context):
    """F_q and F_d (P,) of samples (P, B', …) against real samples x (B, …), the real half of ∇_w L_D computed once."""
    F_q, F_d, w = [], [], list(D.parameters())
    with context():
        real = full(D(x))
    real_gradient = torch.autograd.grad(real_loss(real), w)
    for samples_r in samples:
        with context():
            fake = full(D(samples_r))
        gradient = torch.autograd.grad(fake_loss(fake), w)
        F_q.append(quality_fitness(fake.detach()))
        F_d.append(diversity_of([(a + b)[None] for a, b in zip(gradient, real_gradient)]))
    return torch.stack(F_q), torch.cat(F_d)


class Batch:
    """All individuals at once: each parameter is stacked (P, …), and one Adam steps the stacks."""

    def __init__(self, networks, adam, context=contextlib.nullcontext):
        self.net, self.adam, self.context = networks[0], adam, context       # of net only the architecture is used
        rows = [dict(G.named_parameters()) for G in networks]
        self.params = {name: torch.stack([row[name].detach() for row in rows]).requires_grad_() for name in rows[0]}
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
            return full(vmap(self.G)(self.params, z))

    def offspring(self, n_m):
        if self.children is None:                    # their memory is kept from generation to generation
            self.children = Batch([self.net] * (len(self) * n_m), self.adam, self.context)
            self.children.parents = self
        return self.children.copy_rows(self, torch.arange(len(self)).repeat_interleave(n_m))

    def mutate(self, D, z, mutations):
        D.requires_grad_(False)
        with self.context():
            l = full(vmap(D)(vmap(self.G)(self.params, z)))                              # (P, B)
        l = l.unflatten(0, (-1, len(mutations)))                                         # (μ, n_m, B)
        losses = torch.stack([M(l[:, h]) for h, M in enumerate(mutations)], 1).flatten()
        self.opt.zero_grad()
        losses.sum().backward()                      # a row's loss has gradient in that row only
        self.opt.step()
        D.requires_grad_(True)
        return losses.detach()

    def evaluate(self, D, x, z):
        with self.context():
            with torch.no_grad():
                samples = vmap(self.G, in_dims=(0, None))(self.params, z)                    # (P, B', …)
        if x.device.type == "cpu":                   # one after the other: there vmap of a gradient is no faster
            return evaluate_each(D, x, samples, self.context)
        return self.evaluate_together(D, x, samples)

    def evaluate_together(self, D, x, samples):
        """The same as evaluate_each, by one vmap of the gradient."""
        def loss_and_logits(w, samples):
            l = full(functional_call(D, w, (samples,)))
            return fake_loss(l), l

        w = {name: p.detach() for name, p in D.named_parameters()}
        with self.context():
            gradient, fake = vmap(grad(loss_and_logits, has_aux=True), in_dims=(None, 0))(w, samples)
            real = full(D(x))
        real_gradient = torch.autograd.grad(real_loss(real), list(D.parameters()))
        F_d = diversity_of([a + b for a, b in zip(gradient.values(), real_gradient)])
        return quality_fitness(fake.detach()), F_d

    def healthy(self):
        return all_finite(weights_and_moments(list(self.params.values()), self.opt))

    def survivors(self, places):
        """The individuals at `places`, written over their parents, who are returned."""
        return self.parents.copy_rows(self, places)

    @torch.no_grad()
    def copy_rows(self, other, places):
        """Become the individuals of `other` at `places`: weights, Adam's moments and step."""
        for name, p in self.params.items():
            mine, theirs = self.opt.state[p], other.opt.state[other.params[name]]
            places = places.to(p.device)
            torch.index_select(other.params[name], 0, places, out=p.data)
            for moment in MOMENTS:
                torch.index_select(theirs[moment], 0, places, out=mine[moment])
            mine["step"].copy_(theirs["step"])
        return self

    def state_dict(self):
        moments = {m: {name: self.opt.state[p][m] for name, p in self.params.items()} for m in MOMENTS}
        step = float(self.opt.state[next(iter(self.params.values()))]["step"])
        return {"params": {name: p.detach() for name, p in self.params.items()}, **moments, "step": step}

    @torch.no_grad()
    def load_state_dict(self, state):
        for name, p in self.params.items():
            p.copy_(state["params"][name])
        set_adam(self.opt, self.params, {m: state[m] for m in MOMENTS}, state["step"])


def weights_and_moments(params, opt):
    """The parameters and what `opt` holds of their moments (before its first step nothing), in a list."""
    moments = [opt.state[p][moment] for p in params if p in opt.state for moment in MOMENTS]
    return [*params, *moments]


def all_finite(tensors):
    """Whether row r of all tensors (P, …) is finite, bool (P,). Seen from its sum: that is quick."""
    return torch.stack([t.detach().reshape(len(t), -1).sum(1) for t in tensors]).isfinite().all(0)


def full(x):
    """bf16 (under autocast) to fp32, for the losses."""
    return x.float() if x.dtype == torch.bfloat16 else x


def set_adam(opt, params, moments, step):
    """Give `opt` these moments {"exp_avg": {name: tensor}, …} (copied) and this step count."""
    where = "cpu" if not opt.defaults["fused"] else None                     # fused Adam counts on the device
    for name, p in params.items():
        opt.state[p] = {"step": torch.full((), step, dtype=torch.float32, device=where or p.device),
                        **{m: moments[m][name].detach().to(p.device, copy=True) for m in MOMENTS}}


POPULATIONS = {"batch": Batch, "loop": Loop, "shared-loop": SharedLoop}
