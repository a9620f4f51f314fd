"""The real Milvus servers of the stores' tests, where their package is installed."""

from tests.stores.conftest import guarded, local

__all__ = ["guarded", "local"]
