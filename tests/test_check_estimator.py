"""scikit-learn's own checks of an estimator: none fails, and none is expected to."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from sklearn.utils.estimator_checks import estimator_checks_generator

from flowebm.estimator import FlowEBM
from flowebm.models.architecture import Architecture
from flowebm.models.ebflow_architecture import EBFlowArchitecture
from flowebm.training.balanced import BalancedOptions
from flowebm.training.fit_ebflow import EBFlowOptions
from flowebm.training.joint_options import JointOptions

OPTIONS = {
    "joint": JointOptions(
        most_gaussians=2, least_steps=2, most_networks=1, network_width=4, network_blocks=1,
        network_components=2, tilt_steps=2, n_draws=256, batch_size=16,
    ),
    "balanced": BalancedOptions(n_chains=16, batch_size=16, flow_batch=16, n_evaluation=64),
}  # fmt: skip

#: The smallest of everything: the checks are about the interface, not about the fit.
ESTIMATORS = {
    method: FlowEBM(
        method,
        max_steps=2,
        architecture=Architecture(
            width=4, depth=1, flow="affine-coupling", flow_layers=1, flow_width=4, flow_depth=1
        ),
        options=options,
        random_state=0,
    )
    for method, options in OPTIONS.items()
} | {
    "ebflow": FlowEBM(
        "ebflow",
        max_steps=2,
        architecture=EBFlowArchitecture(),
        options=EBFlowOptions(batch_size=16),
        random_state=0,
    ),
}

#: What the default suite checks of one method, with a single fit; the slow suite runs all checks
#: of every method.
SHORT = (
    "check_all_zero_sample_weights_error",
    "check_complex_data",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_estimator_sparse_array",
    "check_estimator_sparse_tag",
    "check_estimators_empty_data_messages",
    "check_estimators_unfitted",
    "check_fit1d",
    "check_fit2d_1sample",
    "check_get_params_invariance",
    "check_methods_subset_invariance",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_set_params",
)


@pytest.fixture(autouse=True)
def _few_programs():
    """Every check has shapes of its own: unoptimised, and forgotten before there are too many."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()


def checks(method):
    return list(estimator_checks_generator(ESTIMATORS[method]))


def name(check):
    keywords = [f"{key}={value}" for key, value in check.keywords.items()]
    function = check.func
    while hasattr(function, "func"):
        keywords += [f"{key}={value}" for key, value in function.keywords.items()]
        function = function.func
    return ",".join([getattr(function, "__name__", str(function)), *keywords])


def test_the_checks_of_scikit_learn_that_need_no_fit_of_their_own_pass():
    passed = []
    for estimator, check in checks("ebflow"):
        if name(check).split(",")[0] in SHORT:
            check(estimator)
            passed.append(name(check).split(",")[0])
    assert set(passed) == set(SHORT)


@pytest.mark.slow
@pytest.mark.parametrize("method", ESTIMATORS)
@pytest.mark.parametrize("number", range(len(checks("ebflow"))))
def test_every_check_of_scikit_learn_passes(method, number):
    estimator, check = checks(method)[number]
    check(estimator)


@pytest.mark.slow
def test_arrays_of_the_array_interface_are_taken():
    """SciPy must be told before it is imported, hence a process of its own."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import test_check_estimator as tests\n"
        "found = [c for c in tests.checks('balanced') if 'array_api' in tests.name(c[1])]\n"
        "assert found\n"
        "for estimator, check in found: check(estimator)\n"
    )
    folder = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, folder],
        env=os.environ | {"SCIPY_ARRAY_API": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
