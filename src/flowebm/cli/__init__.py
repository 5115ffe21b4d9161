"""The command line: `flowebm train`, `sample`, `score` and `evaluate`."""

from flowebm.cli.entry import main as main
