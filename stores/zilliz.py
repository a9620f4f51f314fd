"""Zilliz Cloud: Milvus as a service, which chooses and tunes its index by itself.

Endpoint and API key come from the environment, ``ZILLIZ_ENDPOINT`` and ``ZILLIZ_API_KEY``, so that the key stands in no record; which
cluster answered does. It speaks Milvus's protocol, so that all that `stores.milvus` says goes here too, with these differences: the only
index is AUTOINDEX, whose knob is ``level``, from 1, quick, to 10, thorough; shards, replicas and the index's build are the service's own
business; and a serverless cluster slows writers down by refusing, which inserting waits out, so that its rows/s are what the plan
allows. All of it is declared: validation, translation and the protocol are tested on a Milvus server, not on the service.

https://docs.zilliz.com/docs/limits has the limits of each plan.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from harness.errors import SettingsError, StoreError
from harness.interfaces import Index, VectorType
from stores.index import AUTOINDEX
from stores.milvus import Milvus


class Zilliz(Milvus):
    """A Zilliz Cloud cluster, serverless or dedicated.

    Parameters
    ----------
    endpoint_env, api_key_env : str
        Names of the environment variables that hold the cluster's public endpoint and an API key.
    database : str
        An existing database.
    consistency : str
        ``Strong``, ``Bounded``, ``Eventually`` or ``Session``, sent with each search.
    timeout_s : float
        For a single call.

    Raises
    ------
    harness.errors.SettingsError
        When a value is outside its range; names every one that is.
    """

    def __init__(
        self,
        *,
        endpoint_env: str = "ZILLIZ_ENDPOINT",
        api_key_env: str = "ZILLIZ_API_KEY",
        database: str = "default",
        consistency: str = "Bounded",
        timeout_s: float = 60.0,
    ) -> None:
        names = {"endpoint_env": endpoint_env, "api_key_env": api_key_env}
        found = [
            f"store.{key} must be the name of an environment variable, got {value!r}"
            for key, value in names.items()
            if not isinstance(value, str) or not value.isidentifier()
        ]
        self.endpoint_env = endpoint_env
        try:
            super().__init__(
                token_env=api_key_env, user_env="", password_env="", database=database, consistency=consistency, timeout_s=timeout_s
            )
        except SettingsError as error:
            found += error.violations
        if found:
            raise SettingsError(found)

    @property
    def name(self) -> str:
        """The name in ``store=zilliz``."""
        return "zilliz"

    @property
    def families(self) -> tuple[str, ...]:
        """The one that the service has."""
        return ("AUTOINDEX",)

    @property
    def vector_types(self) -> tuple[VectorType, ...]:
        """Those that AUTOINDEX takes in all plans."""
        return ("fp32", "fp16", "bf16")

    @property
    def verified(self) -> Mapping[str, tuple[str, ...]]:
        """Nothing: no cluster was there to run the tests against."""
        return {}

    def open(self, folder: Path) -> None:
        """Connect to the cluster that the environment names.

        Raises
        ------
        harness.errors.StoreError
            When the environment names none, nobody answers, or the key is refused.
        """
        self._take_endpoint()
        super().open(folder)

    def identity(self) -> dict[str, str] | None:
        """Which cluster this is and of which version; None where nobody answers."""
        try:
            self._take_endpoint()
        except StoreError:
            return None
        return super().identity()

    def _take_endpoint(self) -> None:
        """Read the endpoint that the environment names."""
        unset = [f"${name}" for name in (self.endpoint_env, self.token_env) if not os.environ.get(name)]
        if unset:
            raise StoreError(f"store={self.name} needs {' and '.join(unset)} in the environment: the cluster's endpoint and an API key")
        self.uri = os.environ[self.endpoint_env]
        found = self._own_violations()
        if found:
            raise StoreError(f"store={self.name}: ${self.endpoint_env} is no endpoint: " + "; ".join(found))

    def version(self) -> str:
        """What the service says of itself."""
        return f"zilliz {self._opened().version}"

    def floor_index(self, *, rows: int, k: int) -> Index:  # noqa: ARG002
        """The only one, at its quickest."""
        return AUTOINDEX(level=(1,))
