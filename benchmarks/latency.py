"""Seconds until a fit, a sample or a score is there: compilation, imports and all.

    python benchmarks/latency.py                                   # everything, an hour or two
    python benchmarks/latency.py --only 150x4 score                # some of it
    python benchmarks/latency.py --methods joint                   # without the peers
    python benchmarks/latency.py --table                           # the table of what was measured

A row of the table is `cold` (a process that starts with an empty folder of compiled programs),
`warm` (a new process, with what the cold one has left there) or `second` (the same thing once more
in the cold process, on a table of a seventh fewer rows, or on a log-density moved by one). Seconds
begin before flowebm's import, or the peer's, and after those of JAX and scikit-learn; of commands
they are the whole process's.
`programs` are the ones that JAX has compiled or found compiled and `compiling` the seconds of that,
by its event `backend_compile_duration`; `new` are those it did not find. `memory` is the peak of
the process. `KL` is from the known truth, on 20,000 fresh points, in nats.

`150x4` is Fisher's iris; `2000x10` is multimodal10 and the other tables are flowebm's mixture.
`sample2` and `sample32` are of two normals, of weights 0.3 and 0.7, 8 apart in each coordinate.
`joint` is `FlowEBM` with its defaults; `GaussianMixture` scikit-learn's, the best of 1, 2, 4, ...
128 components on a tenth of the rows; `flowjax coupling` its coupling flow of splines by its own
`fit_to_data`, both with its defaults.
`score`, `samples` and `impute` are the commands, on 150 rows of a finished run of iris.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cells
import numpy as np

RESULTS = Path(__file__).parent / "results" / "latency.json"

#: Rows and columns of the tables.
TABLES = {
    "150x4": (150, 4),
    "2000x10": (2000, 10),
    "20000x2": (20_000, 2),
    "20000x20": (20_000, 20),
}

#: Dimensions of the log-densities.
DENSITIES = {"sample2": 2, "sample32": 32}

#: What stands behind `flowebm`; RUN, DATA and OUT are filled in.
COMMANDS = {
    "score": ["score", "RUN", "DATA", "--quiet", "-o", "OUT"],
    "samples": ["sample", "RUN", "-n", "150", "--quiet", "-o", "OUT"],
    "impute": ["impute", "RUN", "GAPS", "--quiet", "-o", "OUT"],
}

FRESH_POINTS = 20_000


def main() -> None:
    """Measure what is missing and print the table."""
    parser = cells.parser(__doc__, RESULTS)
    cases = [*TABLES, *DENSITIES, *COMMANDS]
    parser.add_argument("--only", nargs="+", choices=cases, default=cases)
    parser.add_argument("--methods", nargs="+", choices=list(FITS), default=list(FITS))
    parser.add_argument("--key", default="0")
    parser.add_argument("--child", type=json.loads, help="measure in this very process")
    arguments = parser.parse_args()
    if arguments.child is not None:
        print(json.dumps(timed(**arguments.child)))
        return
    wanted = []
    for case in arguments.only:
        methods = arguments.methods if case in TABLES else ("flowebm",)
        wanted += [{"case": case, "method": method, "key": arguments.key} for method in methods]
    packages = ("flowebm", "jax", "equinox", "flowjax", "blackjax", "scikit-learn")
    cells.main(arguments, wanted, measure, table, packages=packages)


def measure(case: str, method: str, key: str) -> dict:
    """A cold process, its second turn, and a warm process."""
    with tempfile.TemporaryDirectory() as folder:
        if case in COMMANDS:
            _finished_run(Path(folder))
        elif case in TABLES:
            _draw_table(case, int(key), Path(folder))
        child = {"case": case, "method": method, "key": int(key), "folder": folder}
        cold = _in_process(child | {"turns": 1 if case in COMMANDS else 2}, folder)
        warm = _in_process(child | {"turns": 1}, folder)
        kept = [file.stat().st_size for file in Path(folder, "programs").glob("*-cache")]
    found = {"cold": cold[0], "warm": warm[0], "kept_programs": len(kept), "kept_bytes": sum(kept)}
    return found if len(cold) == 1 else found | {"second": cold[1]}


def _in_process(child: dict, folder: str) -> list[dict]:
    """What a process of its own measures, with the compiled programs in a folder."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "--child", json.dumps(child)],
        env=environment | {"FLOWEBM_CACHE": str(Path(folder, "programs"))},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    measured = json.loads(done.stdout.splitlines()[-1])
    if child["case"] in COMMANDS:
        # A user waits for Python and all imports, too.
        measured[0]["seconds"] = time.perf_counter() - started
    return measured


def _draw_table(case: str, key: int, folder: Path) -> None:
    """Rows, and fresh points of known density, in a file: drawing them compiles programs."""
    n, d = TABLES[case]
    if case == "150x4":
        from sklearn.datasets import load_iris

        rows = np.random.default_rng(key).permutation(load_iris().data)
        return np.savez(folder / "table.npz", rows=rows)
    import jax.numpy as jnp

    from flowebm.data import load_dataset

    name, dim = ("multimodal10", None) if d == 10 else ("mixture", d)
    whole = load_dataset(name, dim=dim, n=n + FRESH_POINTS, seed=key)
    rows, fresh = np.split(whole.values, [n])
    truth = np.asarray(whole.target.log_prob(jnp.asarray(fresh)), np.float64)
    return np.savez(folder / "table.npz", rows=rows, fresh=fresh, truth=truth)


def _finished_run(folder: Path) -> None:
    """A run of iris, its table, and the same with a gap in every row."""
    import pandas as pd
    from sklearn.datasets import load_iris

    frame = pd.DataFrame(load_iris().data, columns=list("abcd"))
    frame.to_csv(folder / "iris.csv", index=False)
    frame.mask(np.eye(4, dtype=bool)[np.arange(len(frame)) % 4]).to_csv(
        folder / "gaps.csv", index=False
    )
    # In its own folder of programs: those of the fit are none of a later command's.
    command = [sys.executable, "-c", "from flowebm.cli import main; raise SystemExit(main())"]
    command += ["train", "--data", str(folder / "iris.csv")]
    command += ["--out", str(folder / "run"), "--quiet"]
    environment = os.environ | {"FLOWEBM_CACHE": str(folder / "programs of the fit")}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


def timed(case: str, method: str, key: int, folder: str, turns: int) -> list[dict]:
    """Seconds, programs and memory of one turn or two, in this process."""
    if case not in COMMANDS:
        import sklearn.base
        import sklearn.utils.validation  # noqa: F401
    table = dict(np.load(Path(folder, "table.npz"))) if case in TABLES else {}
    import jax

    durations, events = [], []

    def on_duration(event: str, seconds: float, **_: object) -> None:
        if event.endswith("backend_compile_duration"):
            durations.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(on_duration)
    jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
    measured = []
    for turn in range(turns):
        durations.clear()
        events.clear()
        started = time.perf_counter()
        log_density, notes = None, {}
        if case in COMMANDS:
            _command(case, Path(folder))
        elif case in DENSITIES:
            notes = _sampled(DENSITIES[case], float(turn), key)
        else:
            n = len(table["rows"])
            log_density, notes = FITS[method](table["rows"][: n - turn * n // 7], key)
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        counts = {
            "seconds": seconds,
            "programs": len(durations),
            "compiling": sum(durations),
            "new": sum("cache_misses" in event for event in events),
            "peak_memory_bytes": peak * (1 if sys.platform == "darwin" else 1024),
        }
        if "fresh" in table and log_density is not None:
            counts["kl"] = float(np.mean(table["truth"] - log_density(table["fresh"])))
        measured.append(notes | counts)
    return measured


def _joint(rows: np.ndarray, key: int):
    from flowebm import FlowEBM

    model = FlowEBM(random_state=key).fit(rows)
    return model.score_samples, {"stack": model.result_.components}


def _sampled(dim: int, moved: float, key: int) -> dict:
    import jax
    import jax.numpy as jnp

    import flowebm

    def log_density(x):
        means = moved + jnp.array([-4.0, 4.0])
        weights = jnp.log(jnp.array([0.3, 0.7]))
        return jax.nn.logsumexp(weights - 0.5 * ((x - means[:, None]) ** 2).sum(axis=1))

    result = flowebm.sample(jax.random.key(key), log_density, dim, verbose=False)
    # The weights add up to one.
    exact = 0.5 * dim * np.log(2 * np.pi)
    return {"log_z_error": float(result.log_partition.value - exact)}


def _mixture(rows: np.ndarray, key: int):
    from sklearn.mixture import GaussianMixture

    validation, train = np.split(rows, [len(rows) // 10])
    sizes = [2**i for i in range(8) if 2**i <= len(train)]
    fits = [GaussianMixture(size, random_state=key).fit(train) for size in sizes]
    best = max(fits, key=lambda fitted: fitted.score(validation))
    return best.score_samples, {"components": int(best.n_components)}


def _flow(rows: np.ndarray, key: int):
    import jax
    import jax.numpy as jnp
    from flowjax.bijections import RationalQuadraticSpline
    from flowjax.distributions import Normal
    from flowjax.flows import coupling_flow
    from flowjax.train import fit_to_data

    from flowebm import use_compilation_cache

    # With kept programs, as flowebm has.
    use_compilation_cache()
    mean, sd = rows.mean(axis=0), rows.std(axis=0)
    data = jnp.asarray((rows - mean) / sd, float)
    flow = coupling_flow(
        jax.random.key(key),
        base_dist=Normal(jnp.zeros(rows.shape[1])),
        transformer=RationalQuadraticSpline(knots=8, interval=5),
    )
    flow, losses = fit_to_data(jax.random.key(key + 1), flow, data, show_progress=False)

    def log_density(points: np.ndarray) -> np.ndarray:
        values = flow.log_prob(jnp.asarray((points - mean) / sd, float))
        return np.asarray(values, np.float64) - np.log(sd).sum()

    return log_density, {"epochs": len(losses["train"])}


#: How a table is fitted: from rows and a key to a log-density and what else is to be said.
FITS = {"joint": _joint, "GaussianMixture": _mixture, "flowjax coupling": _flow}


def _command(case: str, folder: Path) -> None:
    filled = {
        "RUN": str(folder / "run"),
        "DATA": str(folder / "iris.csv"),
        "GAPS": str(folder / "gaps.csv"),
        "OUT": str(Path(tempfile.mkdtemp(dir=folder)) / "out.csv"),
    }
    from flowebm.cli import main as flowebm

    status = flowebm([filled.get(word, word) for word in COMMANDS[case]])
    if status:
        raise RuntimeError(f"flowebm {case} ended with status {status}.")


def table(results: dict) -> str:
    """A line for each of cold, warm and second."""
    lines = [
        "| what | by | start | s | programs | new | compiling (s) | memory (GiB) | KL |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for case in [*TABLES, *DENSITIES, *COMMANDS]:
        for method, by_key in results.get(case, {}).items():
            for start in ("cold", "warm", "second"):
                found = [record[start] for record in by_key.values() if start in record]
                if not found:
                    continue
                mean = {
                    name: float(np.mean([record[name] for record in found]))
                    for name in ("seconds", "programs", "new", "compiling", "peak_memory_bytes")
                }
                kl = [record["kl"] for record in found if "kl" in record]
                lines.append(
                    f"| {case} | {method} | {start} | {mean['seconds']:.1f} "
                    f"| {mean['programs']:.0f} | {mean['new']:.0f} | {mean['compiling']:.1f} "
                    f"| {mean['peak_memory_bytes'] / 2**30:.2f} "
                    f"| {f'{np.mean(kl):.4f}' if kl else '–'} |"
                )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
