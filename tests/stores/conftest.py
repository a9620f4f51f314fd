"""Real Milvus servers for the tests of this folder, each started once a session and only where one is asked for."""

import pytest

from harness.errors import StoreError
from stores.milvus_local import MilvusLocal, programs
from stores.milvus_server import MilvusServer


@pytest.fixture(scope="session")
def local(tmp_path_factory):
    """A store on a server of its own that stays for the session; other stores of this process share the server."""
    store = MilvusLocal()
    try:
        store.open(tmp_path_factory.mktemp("milvus"))
    except StoreError as error:
        if "pip install" not in str(error):
            raise
        pytest.skip(str(error))
    yield store
    store.close()


@pytest.fixture(scope="session")
def guarded(local, tmp_path_factory):
    """A server that lets in who says ``root:Milvus``; the programs lie where the other one's do."""
    server = MilvusServer(tmp_path_factory.mktemp("guarded"), programs=programs(), authorization=True)
    yield server
    server.stop()
