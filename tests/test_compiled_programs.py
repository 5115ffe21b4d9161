"""A process that lives for days keeps no more compiled programs than it can."""

import jax
import pytest

from flowebm import compiled_programs
from flowebm.compiled_programs import free_programs_if_many, memory_maps


@pytest.mark.skipif(memory_maps() is None, reason="The system does not tell its memory maps.")
def test_programs_are_freed_when_there_are_too_many(monkeypatch):
    monkeypatch.setattr(compiled_programs._Baseline, "maps", memory_maps())
    cleared = []
    monkeypatch.setattr(jax, "clear_caches", lambda: cleared.append(1))
    free_programs_if_many()
    assert not cleared
    monkeypatch.setattr(compiled_programs, "MOST_MAPS", -1)
    free_programs_if_many()
    assert cleared == [1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sample", "fit"])
def test_forty_calls_of_other_forms_take_no_more_than_two_and_some(kind):
    """As a notebook's day; `benchmarks/ageing.py` prints the curve."""
    import subprocess
    import sys
    from pathlib import Path

    script = Path(__file__).parents[1] / "benchmarks" / "ageing.py"
    done = subprocess.run(
        [sys.executable, str(script), "--kind", kind], capture_output=True, text=True, check=True
    )
    rows = [eval(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(rows) == 40
    assert rows[-1]["maps"] - rows[1]["maps"] <= 15_000
    assert rows[-1]["megabytes"] - rows[1]["megabytes"] <= 1500
