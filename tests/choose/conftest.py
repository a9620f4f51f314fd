"""The real Milvus server of the stores' tests, where its package is installed."""

from tests.stores.conftest import local

__all__ = ["local"]
