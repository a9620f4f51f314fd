"""What the load generator can do: its capacity against a server on loopback that answers at once."""

from functools import partial

import numpy as np

from harness.load import Asked, Clients, Traffic
from tests.plugins.null_server import NullClient, NullServer

QUERIES = np.zeros((16, 384), dtype=np.float32)
REQUESTS = [np.asarray([i]) for i in range(16)]


def test_the_open_loop_keeps_up_with_two_thousand_requests_a_second(capsys):
    """Published, with the time from when a request was due until it left; what is asserted holds on a busy machine too."""
    lines = []
    with NullServer() as server, Clients(QUERIES, REQUESTS, processes=2) as clients:
        clients.connect(None, partial(NullClient, server.port))
        clients.open(Asked(10, {}), 200.0, 100, np.random.default_rng(1), Traffic())
        for rate in (1000.0, 2000.0, 4000.0):
            seen = Traffic()
            clients.open(Asked(10, {}), rate, int(3 * rate), np.random.default_rng(0), seen)
            lag = np.quantile(seen.lags, [0.5, 0.99]) * 1e3
            lines.append(
                f"offered {rate:.0f}/s: achieved {seen.count / seen.wall_s:.0f}/s, send lag p50 {lag[0]:.2f} ms, p99 {lag[1]:.2f} ms, "
                f"busiest client {seen.cpu_share:.0%} of a core"
            )
            assert seen.errors == {}
            assert seen.count == int(3 * rate)
        closed = Traffic()
        clients.closed(Asked(10, {}), 2, 2.0, closed)
        lines.append(f"closed loop, 2 clients: {closed.count / closed.wall_s:.0f} requests/s")
    with capsys.disabled():
        print("\n" + "\n".join(lines))
