"""A model of your own, fitted to points of your own: the parts below the estimator.

python examples/low_level.py
"""

import argparse

import jax
import paramax

from flowebm import (
    BalancedOptions,
    EnergyModel,
    fit_balanced,
    held_out_nll,
    load_dataset,
    sample_model,
)
from flowebm.models import MLPTilt, gaussian_base


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--max-steps", type=int, default=500)
    options = parser.parse_args()

    # The library fits points of mean 0 and standard deviation 1: standardise yours.
    rings = load_dataset("rings").values
    rows = jax.numpy.asarray((rings - rings.mean(0)) / rings.std(0), float)
    test, train = rows[:2000], rows[2000:]

    # Any function of one point is a tilt, such as a network of your own.
    tilt = MLPTilt((2,), width=64, depth=2, activation="softplus", key=jax.random.key(0))
    model = EnergyModel(tilt, base=paramax.non_trainable(gaussian_base(train)))
    method = BalancedOptions(global_kernel="isir", gradient="waste-recycled", n_chains=512)
    result = fit_balanced(
        jax.random.key(1), model, train, options=method, max_steps=options.max_steps
    )

    held_out = held_out_nll(result.model, test, result.log_partition)
    print(f"held-out NLL {held_out.nll:.3f}, 95% from {held_out.lower:.3f} to {held_out.upper:.3f}")
    print(f"log Z {result.log_partition.value:.3f} ± {result.log_partition.stderr:.3f} nats")
    samples = sample_model(jax.random.key(2), result.model, result.flow, 1000)
    print(f"{len(samples.positions)} samples, {samples.global_acceptance:.0%} of proposals taken")


if __name__ == "__main__":
    main()
