"""How many programs are compiled: for a table of another length none."""

import jax
import numpy as np
import pytest

from flowebm import FlowEBM
from flowebm.models import batches, gaussian_mixture
from flowebm.training.rows import batch_size_of, filled_number

#: JAX tells of every program that it makes ready, from its cache or anew.
COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def compiled():
    """The names of programs since the list was last emptied."""
    names = []

    def listen(event, seconds, **kwargs):
        if event == COMPILED:
            names.append(kwargs.get("fun_name", event))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


def table(n, d=3):
    rng = np.random.default_rng(n)
    return rng.normal(size=(n, d)) + 4.0 * (np.arange(n) % 3 == 0)[:, None]


@pytest.mark.parametrize(
    ("first", "second"),
    [(150, 170), (400, 470)],
    ids=["mixtures alone", "a network and a tilt"],
)
@pytest.mark.filterwarnings("ignore::flowebm.EstimateWarning")
def test_a_table_of_another_length_compiles_nothing(
    compiled, first, second, small_joint_options, small_architecture
):
    def fit_score_and_sample(n):
        rows = table(n)
        model = FlowEBM(
            architecture=small_architecture(),
            options=small_joint_options(settled_gaussians=0),
            random_state=0,
        ).fit(rows)
        model.score_samples(rows)
        model.sample(n)
        return model

    fit_score_and_sample(first)
    # What is compiled is told of at all.
    assert compiled
    compiled.clear()
    fit_score_and_sample(second)
    assert compiled == []


def test_what_is_fitted_in_closed_form_compiles_nothing(compiled):
    """Of a small table EM and quantiles are all: programs are left for keys and the Gaussian."""
    rows = table(150, 4)
    model = FlowEBM(random_state=0).fit(rows)
    of_the_fit = [name for name in compiled if "threefry" not in name]
    assert len(of_the_fit) <= 8
    compiled.clear()
    model.score_samples(rows)
    model.sample(100)
    assert [name for name in compiled if "threefry" not in name] == []


@pytest.mark.parametrize("n", [0, 1, 255, 256, 257, 3000, 5000])
def test_batches_give_every_row_its_value(n):
    rows = np.random.default_rng(0).normal(size=(n, 2))
    sizes = []

    def function(x):
        sizes.append(len(x))
        return x.sum(axis=1), x[:, 0]

    total, first = batches.in_batches(function, rows)
    assert set(sizes) <= set(batches.SIZES)
    np.testing.assert_allclose(total, rows.sum(axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(first, rows[:, 0], rtol=1e-6)


def test_numbers_of_rows_and_components_that_programs_are_compiled_for():
    assert [filled_number(n) for n in (1, 256, 257, 5000, 65_536, 65_537, 10**6)] == [
        *(256, 256, 1024, 16_384, 65_536, 131_072, 2**20)
    ]
    assert [batch_size_of(256, n) for n in (256, 1000, 255, 64, 3, 1)] == [256, 256, 128, 64, 2, 1]
    assert [gaussian_mixture._filled_number(k) for k in (1, 8, 9, 48, 128)] == [8, 8, 32, 128, 128]
