"""One log-density wherever it is asked, also of columns with more digits than single precision."""

import numpy as np
import pandas as pd
import pytest

from flowebm import Architecture, BalancedOptions, FlowEBM
from flowebm.cli.measure import measure


@pytest.mark.filterwarnings("ignore::flowebm.EstimateWarning")
def test_evaluate_and_scores_agree_on_time_stamps():
    rng = np.random.default_rng(0)
    rows = np.stack([1.7e9 + 3000 * rng.normal(size=300), rng.normal(size=300)], axis=1)
    frame = pd.DataFrame(rows, columns=["time", "value"])
    model = FlowEBM(
        "balanced",
        max_steps=5,
        architecture=Architecture(
            width=8, depth=1, flow="affine-coupling", flow_layers=1, flow_width=8, flow_depth=1
        ),
        options=BalancedOptions(n_chains=16, batch_size=16, flow_batch=16, n_evaluation=64),
        random_state=0,
    ).fit(frame)
    scores = model.score_samples(frame)
    nll = measure(0, model, rows).values["nll"]["value"]
    log_z = measure(0, model, rows).values["log_partition"]["value"]
    assert nll == pytest.approx(-scores.mean() - model.log_partition_ + log_z, abs=1e-5)
