"""Balanced training: maximum likelihood with flow-assisted chains and a flow that follows."""

from dataclasses import dataclass
from typing import Literal

import blackjax.mcmc.hmc
import blackjax.mcmc.mala
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from flowjax.distributions import AbstractDistribution
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Scalar

from flowebm.evaluation.importance import effective_sample_size, log_mean_exp
from flowebm.models.defensive import draw
from flowebm.models.energy import AbstractEnergyModel
from flowebm.models.trainable import partition_trainable
from flowebm.objectives.contrastive import contrastive_likelihood
from flowebm.objectives.maximum_likelihood import maximum_likelihood
from flowebm.samplers import WeightedState, flow_imh, flow_isir, step_size, ula
from flowebm.training import online
from flowebm.training.averaging import update_average
from flowebm.training.schedules import warmup_cosine
from flowebm.training.trainer import AbstractTrainer, Metrics


@dataclass(frozen=True)
class BalancedOptions:
    global_kernel: Literal["imh", "isir", "shared", "none"] = "imh"
    n_proposals: int = 1
    gradient: Literal["chains", "recycled"] = "chains"
    local_kernel: Literal["mala", "ula", "none"] = "mala"
    n_local: int = 2
    average_decay: float = 0.995
    flow_interval: int = 10
    flow_batch: int = 1024
    flow_data_fraction: float = 0.5
    min_ess: float = 0.02
    penalty: float = 0.0
    n_evaluation: int = 4096


class BalancedState(eqx.Module):
    params: PyTree[Array]
    average: PyTree[Array]
    flow: PyTree[Array]
    chains: Float[Array, "chains *shape"]
    step_size: step_size.StepSizeState
    optimizer: PyTree[Array]
    flow_optimizer: PyTree[Array]
    online_nll: online.OnlineEstimate
    held: Scalar
    iteration: Scalar


class BalancedTrainer(AbstractTrainer):
    model: AbstractEnergyModel
    proposal: AbstractDistribution
    data: Float[Array, "n *shape"]
    validation: Float[Array, "m *shape"]
    chains: Float[Array, "chains *shape"]
    optimizer: optax.GradientTransformation = eqx.field(static=True)
    flow_optimizer: optax.GradientTransformation = eqx.field(static=True)
    options: BalancedOptions = eqx.field(static=True)
    batch_size: int = eqx.field(static=True, default=1024)
    stage: str = eqx.field(static=True, default="balanced")

    def init(self, key):
        params, _ = partition_trainable(self.model)
        flow, _ = partition_trainable(self.proposal)
        return BalancedState(
            params,
            jax.tree.map(jnp.copy, params),
            flow,
            self.chains,
            step_size.init(0.02),
            self.optimizer.init(params),
            self.flow_optimizer.init(flow),
            online.init(),
            jnp.array(0),
            jnp.array(0),
        )

    def with_params(self, params):
        return eqx.combine(params, partition_trainable(self.model)[1])

    def with_flow(self, flow):
        return eqx.combine(flow, partition_trainable(self.proposal)[1])

    def _global(self, key, model, proposal, chains):
        o = self.options
        n = chains.shape[0]
        log_density = jax.vmap(model.unnormalized_log_prob)
        state = WeightedState(chains, log_density(chains), proposal.log_prob(chains))
        k1, k2 = jr.split(key)
        m = n * (1 if o.global_kernel == "shared" else o.n_proposals)
        y, log_q = draw(k1, proposal, m)
        cand = WeightedState(y, log_density(y), log_q)
        keys = jr.split(k2, n)
        if o.global_kernel == "imh":
            new, info = jax.vmap(flow_imh.transition)(keys, state, cand)
            acc = info.acceptance_rate
            points = jnp.concatenate([chains, y])
            weights = jnp.concatenate([1 - acc, acc]) / n
        elif o.global_kernel == "isir":
            cand2 = jax.tree.map(lambda a: a.reshape(n, o.n_proposals, *a.shape[1:]), cand)
            new, info = jax.vmap(flow_isir.transition)(keys, state, cand2)
            acc = info.acceptance_rate
            points = info.pool.position.reshape(-1, *chains.shape[1:])
            weights = info.weights.ravel() / n
        else:
            lw_y, lw_x = cand.log_weight, state.log_weight
            S = jax.nn.logsumexp(lw_y)
            D = jnp.logaddexp(lw_x, S)
            acc = jnp.exp(S - D)
            w_y = jnp.exp(lw_y) * 0 + jnp.exp(lw_y + jax.nn.logsumexp(-D)) / n
            points = jnp.concatenate([chains, y])
            weights = jnp.concatenate([(1 - acc) / n, w_y])
            ka, kb = jr.split(k2)
            move = jr.bernoulli(ka, acc)
            idx = jr.categorical(kb, lw_y, shape=(n,))
            new = state._replace(position=jnp.where(move[:, None], y[idx], chains))
        return new.position, (points, weights), acc, cand.log_weight

    def _local(self, key, model, chains, eps):
        o = self.options
        ld = model.unnormalized_log_prob
        if o.local_kernel == "mala":
            kernel = blackjax.mcmc.mala.build_kernel()
            init = blackjax.mcmc.mala.init
        else:
            kernel = ula.build_kernel()
            init = ula.init
        n = chains.shape[0]
        st = jax.vmap(lambda x: init(x, ld))(chains)

        def body(st, k):
            st, info = jax.vmap(lambda kk, s: kernel(kk, s, ld, eps))(jr.split(k, n), st)
            return st, info.acceptance_rate if o.local_kernel == "mala" else jnp.ones(n)

        st, acc = jax.lax.scan(body, st, jr.split(key, o.n_local))
        return st.position, acc

    def step(self, key, state, batch, learning_rate_factor):
        o = self.options
        model, proposal = self.with_params(state.params), self.with_flow(state.flow)
        kg, kl, kf = jr.split(key, 3)
        chains = state.chains
        metrics = {}
        if o.global_kernel != "none":
            chains, pool, acc, lw = self._global(kg, model, proposal, chains)
            log_z = log_mean_exp(lw)
            ess = effective_sample_size(lw) / lw.size
            metrics |= {"global_acceptance": acc.mean(), "ess": ess, "log_partition": log_z.value}
            trusted = ess > o.min_ess
        else:
            trusted = jnp.array(True)
        if o.n_local:
            chains, lacc = self._local(kl, model, chains, state.step_size.step_size)
            metrics |= {"local_acceptance": lacc.mean()}
            eps_state = step_size.update(state.step_size, lacc) if o.local_kernel == "mala" else state.step_size
        else:
            eps_state = state.step_size
        metrics |= {"step_size": eps_state.step_size}

        static = partition_trainable(self.model)[1]
        if o.gradient == "recycled":
            samples, weights = pool
        else:
            samples, weights = chains, None

        def loss(params):
            return contrastive_likelihood(
                eqx.combine(params, static), self.data[batch], samples, weights, penalty=o.penalty
            )

        (_, (gap, on_data)), grad = jax.value_and_grad(loss, has_aux=True)(state.params)
        hold = ~trusted & (state.held < 20)
        updates, optimizer = self.optimizer.update(grad, state.optimizer, state.params)
        updates = optax.tree.scale(learning_rate_factor, updates)
        params = optax.apply_updates(state.params, updates)
        average = update_average(state.average, params, state.iteration, o.average_decay)
        sel = lambda new, old: jax.tree.map(lambda a, b: jnp.where(hold, b, a), new, old)
        params, average, optimizer = sel((params, average, optimizer), (state.params, state.average, state.optimizer))
        metrics |= {"energy_gap": gap, "held": hold.astype(float)}

        flow, fopt = state.flow, state.flow_optimizer
        if o.global_kernel != "none":
            fstatic = partition_trainable(self.proposal)[1]
            nd = int(o.flow_batch * o.flow_data_fraction)
            nc = o.flow_batch - nd

            def flow_step(i, carry):
                flow, fopt = carry
                ka, kb = jr.split(jr.fold_in(kf, i))
                x = jnp.concatenate([
                    self.data[jr.randint(ka, (nd,), 0, self.data.shape[0])],
                    chains[jr.randint(kb, (nc,), 0, chains.shape[0])],
                ])
                g = jax.grad(lambda f: maximum_likelihood(eqx.combine(f, fstatic), x))(flow)
                u, fopt = self.flow_optimizer.update(g, fopt, flow)
                u = optax.tree.scale(learning_rate_factor, u)
                return optax.apply_updates(flow, u), fopt

            n_steps = jnp.where(hold, 3, (state.iteration % o.flow_interval == 0).astype(int))
            flow, fopt = jax.lax.fori_loop(0, n_steps, flow_step, (flow, fopt))
            nll = on_data.mean() + log_z.value
            var = on_data.var() / on_data.size + log_z.stderr**2
            onl = online.update(state.online_nll, nll, var)
        else:
            onl = state.online_nll
        return BalancedState(params, average, flow, chains, eps_state, optimizer, fopt, onl,
                             jnp.where(hold, state.held + 1, 0), state.iteration + 1), metrics

    def evaluate(self, key, state):
        model, proposal = self.with_params(state.average), self.with_flow(state.flow)
        x, lq = draw(key, proposal, self.options.n_evaluation)
        lw = jax.vmap(model.unnormalized_log_prob)(x) - lq
        log_z = log_mean_exp(lw)
        e = jax.vmap(model.energy)(self.validation)
        nll = e.mean() + log_z.value
        return {"nll": nll, "nll_stderr": jnp.sqrt(e.var() / e.size + log_z.stderr**2),
                "log_z": log_z.value, "log_z_stderr": log_z.stderr}

    def solution(self, state):
        return state.average, state.flow

    def schedule(self, progress):
        return warmup_cosine(progress)
