"""A connection to a Milvus server: who refuses and why, and calls that are made once, with a deadline each.

pymilvus tries a call that fails again, for as long as the time it was given for one. Inside a clock that hides errors in
latencies, and an insert that is sent twice may be there twice. So its methods are called beneath the decorator that adds this.
Deadlines cannot be left to the channel instead: by gRPC's service configuration, calls ended 1.7 s before their time where that was tried.
"""

from __future__ import annotations

import inspect
import logging
import re
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from harness.errors import StoreError

CONNECT_S = 5.0
DEFAULT_PORTS = {"http": 19530, "https": 443}
RATE_LIMIT_CODE = 8
"""pymilvus's ErrorCode.RATE_LIMIT: the server asks to come back later."""
RATE_LIMIT_POLL_S = 0.25


class Connection:
    """A connection of one's own to a server.

    Parameters
    ----------
    store : str
        Name of the store, for messages.
    uri : str
        ``http://host:port`` or, for TLS, ``https://host:port``.
    token : str
        API key, ``user:password``, or nothing.
    database : str
    timeout_s : float
        For a call.
    tls : mapping
        ``ca_file``, ``client_cert_file``, ``client_key_file`` and ``server_name``, each text, empty where there is nothing to say.
    login : str
        How to give a name and a secret, for the message when they are refused.

    Raises
    ------
    harness.errors.StoreError
        When nobody answers, or refuses.
    """

    def __init__(self, store: str, uri: str, *, token: str, database: str, timeout_s: float, tls: Mapping[str, str], login: str) -> None:
        import grpc  # type: ignore[import-untyped]
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException

        # pymilvus logs each failure with a traceback before raising it; it leaves here as a StoreError with the same text.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        self.failures: tuple[type[Exception], ...] = (MilvusException, grpc.RpcError, ValueError)  # ValueError: the channel was closed
        self._timeout_s = timeout_s
        parts = urlsplit(uri)
        address = (parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme])
        secure = parts.scheme == "https"
        self._client: Any = None
        try:
            socket.create_connection(address, timeout=CONNECT_S).close()  # gRPC would try for longer and say less
        except OSError as error:
            raise StoreError(
                f"store={store}: nobody answers at {address[0]}:{address[1]} ({error.strerror or error}); start the server or set store.uri"
            ) from error
        try:
            self._client = MilvusClient(
                uri,
                token=token,
                db_name=database,
                timeout=CONNECT_S,
                dedicated=True,
                grpc_options={"grpc.enable_retries": 0},
                server_pem_path="" if tls["client_cert_file"] else tls["ca_file"],
                ca_pem_path=tls["ca_file"],
                client_pem_path=tls["client_cert_file"],
                client_key_path=tls["client_key_file"],
                server_name=tls["server_name"],
            )
            self.version = str(self.call("get_server_version"))
            self.call("list_collections")  # the first call that needs the database
        except (*self.failures, OSError) as error:
            self.close()
            said = self.reason(error)
            code = status(error)
            if code == "UNAUTHENTICATED" or "auth check failure" in said:
                why = f"refused the login ({'a token was sent' if token else 'no token was sent'}); {login}"
            elif code == "DEADLINE_EXCEEDED":
                why = f"takes connections and did not answer within {min(CONNECT_S, timeout_s):g} s; look whether the server is well"
            elif isinstance(error, OSError):
                why = f"cannot be asked: {error}; check store.ca_file, store.client_cert_file and store.client_key_file"
            elif secure and (trouble := _tls_trouble(address, tls)):
                why = f"does not speak TLS as wanted ({trouble}); check store.uri (http or https), store.ca_file and store.server_name"
            elif "database not found" in said or "database not exist" in said:
                why = f"has no database {database}; create it or set store.database"
            else:
                why = f"answers, but not as a Milvus server ({said}); check store.uri (http or https, host, port)"
            raise StoreError(f"store={store}: {uri} {why}") from error

    def method(self, name: str) -> Callable[..., Any]:
        """Return one of pymilvus's calls, made once, with a deadline.

        ``pymilvus.client.grpc_handler.GrpcHandler`` has them; it says more than the client does, of segments and of what is pending.
        """
        handler = self._client._get_connection()
        once = inspect.unwrap(getattr(type(handler), name))
        return partial(once, handler, context=self._client._generate_call_context(), timeout=self._timeout_s)

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Make a call once."""
        return self.method(name)(*args, **kwargs)

    def call_patiently(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Make a call, again while the server asks to slow down, within the time of a call."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                return self.call(name, *args, **kwargs)
            except self.failures as error:
                limited = RATE_LIMIT_CODE in (getattr(error, "code", None), getattr(error, "compatible_code", None))
                if not limited or time.monotonic() >= deadline:
                    raise
                time.sleep(RATE_LIMIT_POLL_S)

    def reason(self, error: BaseException) -> str:
        """What the library said, without what it adds for its own makers; or in plain words what it means."""
        code = status(error)
        details = getattr(error, "details", None)
        said = str(getattr(error, "message", "") or (details() if callable(details) else error))
        if code == "DEADLINE_EXCEEDED":
            return f"the server did not answer within store.timeout_s={self._timeout_s:g} s"
        if code == "UNAVAILABLE" or "closed channel" in said:
            return f"the server is gone or cannot be reached ({said})"
        return re.split(r", channel_state=|, debug=", said)[0].strip()

    def close(self) -> None:
        """Disconnect."""
        client, self._client = self._client, None
        if client is not None:
            client.close()


def status(error: BaseException | None) -> str:
    """Return gRPC's status, ``UNAVAILABLE`` or another, of an error or of what caused it; empty if there is none."""
    while error is not None:
        with suppress(AttributeError, TypeError):
            return str(error.code().name)  # type: ignore[attr-defined]
        error = error.__cause__
    return ""


def _tls_trouble(address: tuple[str, int], tls: Mapping[str, str]) -> str:
    """Shake hands once more, without gRPC, which does not tell what is wrong; empty when all is well."""
    try:
        context = ssl.create_default_context(cafile=tls["ca_file"] or None)
        with (
            socket.create_connection(address, timeout=CONNECT_S) as plain,
            context.wrap_socket(plain, server_hostname=tls["server_name"] or address[0]),
        ):
            return ""
    except ssl.SSLError as problem:
        return str(getattr(problem, "verify_message", "") or problem.reason or problem)
    except OSError as problem:
        return str(problem)
