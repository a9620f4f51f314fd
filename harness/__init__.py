"""Measures embedding models, devices, batch sizes and vector indexes together, on the same vectors.

>>> from harness import load_results, run
>>> frame = run("model=minilm", "batch_size=1,8", "index=flat,hnsw", multirun=True)  # doctest: +SKIP
>>> frame = load_results("results/default")  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.frame import load_results

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["load_results", "run"]
__version__ = "0.1.0"


def run(*overrides: str, multirun: bool = False, config_dirs: Sequence[str] = ()) -> pd.DataFrame:
    """Measure what is still missing, write records and reports, and return the cells asked for.

    Parameters
    ----------
    *overrides : str
        Settings as on the command line, ``"model=minilm"``.
    multirun : bool, optional
        Whether values separated by commas are swept over, as ``-m`` does.
    config_dirs : sequence of str, optional
        Folders with options of your own, as ``--config-dir`` names them.

    Returns
    -------
    pandas.DataFrame
        A row for each embed cell and for each operating point of a search cell; cells that failed have a row that says why.

    Raises
    ------
    harness.errors.SettingsError
        Listing every mistake in what was asked, before anything is measured.
    """
    from harness.session import run_and_report

    return run_and_report(overrides, multirun=multirun, config_dirs=config_dirs)
