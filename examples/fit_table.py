"""From a table of your own to a normalised density and fresh samples.

python examples/fit_table.py measurements.csv samples.csv
"""

import argparse

import pandas as pd

from flowebm import FlowEBM


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", help="a .csv file of numbers with a header")
    parser.add_argument("samples", help="the .csv file to write samples to")
    parser.add_argument("--max-steps", type=int, default=1000)
    options = parser.parse_args()

    # One row in ten is held out: a density is judged by rows that it has not seen.
    table = pd.read_csv(options.table).sample(frac=1, random_state=0)
    test, train = table[: len(table) // 10], table[len(table) // 10 :]
    estimator = FlowEBM(max_steps=options.max_steps, random_state=0).fit(train)

    error = estimator.log_partition_stderr_
    print(f"log-density of held-out rows: {estimator.score(test):.3f} nats on average,")
    print(f"log Z = {estimator.log_partition_:.3f} ± {error:.3f} included")
    for warning in estimator.result_.warnings:
        print(f"Note: {warning}")

    unusual = estimator.score_samples(test).argsort()[:3]
    print(f"the least likely of them:\n{test.iloc[unusual]}")
    samples = estimator.sample(1000)
    pd.DataFrame(samples, columns=train.columns).to_csv(options.samples, index=False)


if __name__ == "__main__":
    main()
