"""What several benchmarks share."""

import os

import pytest


@pytest.fixture
def publish(benchmark, capsys):
    """Show a figure and keep it in the benchmark's own record, with the load of the machine beside it."""

    def show(**figures):
        if benchmark.enabled:
            benchmark.extra_info.update({name: str(value) for name, value in figures.items()}, load=os.getloadavg()[0])
            with capsys.disabled():
                print()
                for name, value in figures.items():
                    print(f"  {name.replace('_', ' ')}: {value}  (load average {os.getloadavg()[0]:.1f})")

    return show
