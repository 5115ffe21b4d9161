"""The command line: `flowebm train`, `sample`, `score`, `evaluate`, `impute` and `report`."""

from flowebm.cli.entry import main as main
