"""Real Milvus servers for the tests of this folder, each started once a session and only where one is asked for."""

import pytest
import yaml

from harness.errors import StoreError
from stores import milvus_server
from stores.milvus_local import MilvusLocal, programs
from stores.milvus_server import MilvusServer

LOOKS_MS = {"checkInterval": 100, "distPullInterval": 50}
"""How often the parts of the server look for each other's work; by itself it does every second, most of the time of small tests."""


def with_quick_looks(configure):
    """Return what writes a server's configuration, with these intervals; what it answers is the same."""

    def write(folder, ports, *, authorization):
        configure(folder, ports, authorization=authorization)
        path = folder / "configs" / "milvus.yaml"
        settings = yaml.safe_load(path.read_text())
        settings["queryCoord"] |= LOOKS_MS
        path.write_text(yaml.safe_dump(settings))

    return write


@pytest.fixture(scope="session")
def local(tmp_path_factory):
    """A store on a server of its own that stays for the session; other stores of this process share the server."""
    store = MilvusLocal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(milvus_server, "configure", with_quick_looks(milvus_server.configure))
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
