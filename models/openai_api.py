"""Embedding models behind an endpoint that speaks OpenAI's ``/v1/embeddings``: OpenAI, TEI, vLLM, Infinity, Ollama and others.

What is measured is the service as a client sees it: its network, its queue and its other users included. `prepare` writes the
request, `forward` sends it over a connection that is kept and waits for the answer, `finish` decodes the answer. Where the
endpoint is busy or fails for the moment, the request is sent again, and `counters` say how often and how long that took, so that
it can be taken off the time.

The key is read from the environment when the model is used, and goes into one header and nowhere else: it is no setting, no
attribute, and is struck out of whatever the endpoint says.
"""

from __future__ import annotations

import base64
import binascii
import email.utils
import hashlib
import itertools
import json
import os
import random
import re
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args
from urllib.parse import unquote, urlsplit, urlunsplit

import numpy as np

from harness.errors import AuditError, CellError, HarnessError, SettingsError, UnsupportedError, WeightsError
from harness.interfaces import Attention, Caveat, Dtype, Item, ModelInfo, Prepared, Role, Vectors, Weights
from models import rules

Encoding = Literal["float", "base64"]

DEFAULT_URL = "https://api.openai.com/v1"
"""Where requests go when neither the setting nor the environment says otherwise, as in OpenAI's own client."""

PROBES = (
    "The quick brown fox jumps over the lazy dog.",
    "Eleven ships left the harbour before dawn.",
    "A function that returns itself never ends.",
    "Salt dissolves faster in warm water.",
)
"""Sentences that are embedded to tell whether the endpoint still serves the same model."""

LOCATE_S = 4.5
"""What finding out about the endpoint may take; the whole decision has 5 s."""

BUSY = (408, 425, 429, 500, 502, 503, 504)
"""Answers that mean "not now" (RFC 9110, RFC 6585, RFC 8470): the same request may well succeed a little later."""

PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Pauses before further attempts where the endpoint names none, the last one repeated; each is spread by a quarter."""

_LEAST_PAUSE_S = 0.05
"""Pause where the endpoint asks for none at all, so that it is not flooded."""

_USAGE = re.compile(rb'"prompt_tokens"\s*:\s*(\d+)')
_ENDS = 2048
"""Bytes at the beginning and at the end of an answer in which the usage is looked for, so that a megabyte of numbers is not."""


@dataclass(frozen=True, kw_only=True)
class OpenAIEmbeddingModel:
    """Settings of a model that an endpoint serves; `load` opens the connection.

    Parameters
    ----------
    source : str
        Name of the model as the endpoint knows it, e.g. ``text-embedding-3-small``.
    dim : int
        Dimension of the vectors, checked by the audit.
    gflop_per_item : float
        Stands for the time of one text in estimates, see `harness.plan`; what the service really computes is unknown.
    dimensions : int or None
        Asks the endpoint for vectors of that length (Matryoshka); None leaves the field out, as services without it want.
    normalized : bool
        Whether the vectors come with unit norm, checked by the audit.
    base_url : str or None
        Address up to and without ``/embeddings``; None takes it from the environment. Never with a password in it.
    base_url_variable, key_variable : str
        Names of the environment variables that hold the address and the key. Without a key none is sent.
    query_prompt, document_prompt : str
        Text put before every query or document.
    encoding_format : {"base64", "float"}
        How numbers travel: as bytes, which OpenAI's own client asks for too, or in decimal, four times the size and slow to
        decode. An answer may come either way, whatever was asked.
    request_timeout_s : float
        How long an endpoint may take over one attempt before it is given up and repeated.
    patience_s : float
        How long one request may be repeated before the measurement is given up.
    """

    source: str
    dim: int
    gflop_per_item: float
    dimensions: int | None = None
    normalized: bool = True
    base_url: str | None = None
    base_url_variable: str = "OPENAI_BASE_URL"
    key_variable: str = "OPENAI_API_KEY"
    query_prompt: str = ""
    document_prompt: str = ""
    encoding_format: Encoding = "base64"
    request_timeout_s: float = 60.0
    patience_s: float = 120.0
    modality: Literal["text"] = "text"
    _loaded: Any = field(default=None, init=False, repr=False, compare=False)
    """The `_Endpoint`, once loaded."""

    def __post_init__(self) -> None:
        violations = [
            *rules.text("model.source", self.source),
            *rules.integer("model.dim", self.dim, minimum=1),
            *rules.positive("model.gflop_per_item", self.gflop_per_item),
            *rules.boolean("model.normalized", self.normalized),
            *_address("model.base_url", self.base_url),
            *rules.text("model.base_url_variable", self.base_url_variable),
            *rules.text("model.key_variable", self.key_variable),
            *rules.text("model.query_prompt", self.query_prompt, empty=True),
            *rules.text("model.document_prompt", self.document_prompt, empty=True),
            *rules.one_of("model.encoding_format", self.encoding_format, get_args(Encoding)),
            *rules.positive("model.request_timeout_s", self.request_timeout_s),
            *rules.positive("model.patience_s", self.patience_s),
            *rules.one_of("model.modality", self.modality, ["text"]),
        ]
        if self.dimensions is not None:
            violations += rules.integer("model.dimensions", self.dimensions, minimum=1)
            if not violations and self.dimensions != self.dim:
                violations.append(f"model.dim must be model.dimensions={self.dimensions} where that is set, got {self.dim}")
        if violations:
            raise SettingsError(violations)

    @property
    def caveats(self) -> tuple[Caveat, ...]:
        """What a reader of any figure of a served model must know."""
        return (
            Caveat(
                "served",
                "The model runs behind an endpoint: its figures are those of the service, the network and their other users at that hour. "
                "Device, dtype, threads and memory are this client's, and which texts the service cut is not known.",
            ),
        )

    def locate(self) -> Weights:
        """Ask the endpoint once, within 5 seconds, what it serves.

        Returns
        -------
        Weights
            Of the kind ``served``. The revision is the name that the answer gives the model.

        Raises
        ------
        harness.errors.WeightsError
            When the endpoint cannot be reached, refuses the key or does not know the model.
        """
        with _Endpoint(self, timeout_s=LOCATE_S) as endpoint:
            served, vectors = _asked(endpoint, self, patience_s=LOCATE_S)
        note = "computed by the endpoint, not on this machine"
        return Weights("served", endpoint.name, None, served, _identity(endpoint.name, served, vectors), note=note)

    def fetch(self, weights: Weights) -> Weights:
        """Return `weights` unchanged: there is nothing to download."""
        return weights

    def load(self, weights: Weights, *, device: str, dtype: Dtype, attention: Attention = "auto", compiled: bool = False) -> ModelInfo:  # noqa: ARG002 - a service has no device of ours
        """Open the connection and embed a few sentences over it, so that no connecting falls into a later request.

        Raises
        ------
        harness.errors.UnsupportedError
            When something is asked for that only the service decides.
        harness.errors.WeightsError
            When the endpoint cannot be reached, refuses the key or does not know the model.
        """
        asked = {"dtype": (dtype, "fp32"), "attention": (attention, "auto"), "compile": (str(compiled).lower(), "false")}
        if wrong := [
            f"{key} must be {only} for a model behind an endpoint, which decides that itself, got {value}"
            for key, (value, only) in asked.items()
            if value != only
        ]:
            raise UnsupportedError(wrong)
        endpoint = _Endpoint(self, timeout_s=self.request_timeout_s)
        weakref.finalize(self, endpoint.close)
        try:
            served, vectors = _asked(endpoint, self, patience_s=self.patience_s)
        except HarnessError:
            endpoint.close()
            raise
        endpoint.identity = _identity(endpoint.name, served, vectors)
        endpoint.counters = _Counters()
        if self._loaded is not None:
            self._loaded.close()
        object.__setattr__(self, "_loaded", endpoint)
        return ModelInfo(dim=vectors.shape[1], parameters=None, dtype=dtype)

    def fingerprint(self) -> str:
        """Return what `locate` calls the fingerprint, as the endpoint answered when it was loaded; the weights are out of sight."""
        return self._endpoint.identity

    def counters(self) -> Mapping[str, float]:
        """Return the running totals since `load`, see `harness.interfaces.Served`."""
        return self._endpoint.counters.read()

    def prepare(self, items: Sequence[Item], *, role: Role = "document") -> Prepared:
        """Write the request; its units are words, since tokens are known only from the answer, see `harness.interfaces.Served`."""
        prompt = self.query_prompt if role == "query" else self.document_prompt
        words = sum(max(len(text.split()), 1) for text in items)
        return Prepared(_Request(self._body([prompt + text for text in items]), len(items)), count=len(items), units=float(words))

    def transfer(self, prepared: Prepared) -> Prepared:
        """Return the request as it is: sending it belongs to `forward`."""
        return prepared

    def forward(self, prepared: Prepared) -> Any:
        """Send the request and wait for the answer, again and again where the endpoint says "not now".

        Raises
        ------
        harness.errors.CellError
            When the endpoint refuses the request, or has not answered within `patience_s`.
        """
        request: _Request = prepared.inputs
        return _Answer(self._endpoint.post(request.body, patience_s=self.patience_s), request.count)

    def finish(self, outputs: Any) -> Vectors:
        """Return the vectors of shape (n, dim), float32, in the order of the texts, whatever the order in the answer.

        Raises
        ------
        harness.errors.AuditError
            When the answer is no list of one finite vector for each text.
        """
        answer: _Answer = outputs
        return _decoded(answer.body, answer.count, self._endpoint)[1]

    @property
    def _endpoint(self) -> _Endpoint:
        if self._loaded is None:
            raise RuntimeError("load() has to be called before the model is used")
        endpoint: _Endpoint = self._loaded
        return endpoint

    def _body(self, texts: Sequence[str]) -> bytes:
        fields: dict[str, Any] = {"model": self.source, "input": list(texts), "encoding_format": self.encoding_format}
        if self.dimensions is not None:
            fields["dimensions"] = self.dimensions
        return json.dumps(fields).encode()


@dataclass(frozen=True)
class _Request:
    body: bytes
    count: int


@dataclass(frozen=True)
class _Answer:
    body: bytes
    count: int


class _Counters:
    """Running totals that several threads add to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals = {"requests": 0.0, "retries": 0.0, "rate_limited": 0.0, "waited_s": 0.0, "billed_tokens": 0.0}

    def add(self, **amounts: float) -> None:
        with self._lock:
            for name, amount in amounts.items():
                self._totals[name] += amount

    def read(self) -> dict[str, float]:
        with self._lock:
            return dict(self._totals)


class _RefusedError(Exception):
    """The endpoint cannot be used: it is away, or answered something that trying again does not mend."""


class _Endpoint:
    """A connection to an endpoint that is kept, and what went over it."""

    def __init__(self, model: OpenAIEmbeddingModel, *, timeout_s: float) -> None:
        import httpx2 as httpx

        self._httpx = httpx
        key = f"model.base_url or {model.base_url_variable}"
        address = model.base_url or os.environ.get(model.base_url_variable) or DEFAULT_URL
        if wrong := _address(key, address, credentials=True):
            raise WeightsError(wrong[0])
        parts = urlsplit(address.strip())
        self.url = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))
        self.name = f"{self.url} {model.source}"
        self.identity = ""
        self.counters = _Counters()
        self._key_variable = model.key_variable
        secret = os.environ.get(model.key_variable, "").strip()
        if not (secret.isascii() and secret.isprintable() and " " not in secret):
            raise WeightsError(f"{model.key_variable} must hold a key of printable ASCII characters; what it holds is not shown")
        self._secrets = tuple(_Secret(text) for text in (secret, unquote(parts.password or "")) if text)
        self._has_key = bool(secret)
        self._reached = False
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {secret}"} if secret else {})}
        basic = (unquote(parts.username), unquote(parts.password or "")) if parts.username and not secret else None
        # Redirects are not followed: they would carry the key elsewhere.
        self._client = httpx.Client(headers=headers, auth=basic, timeout=timeout_s, follow_redirects=False)

    def __enter__(self) -> _Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; once is enough, more do no harm."""
        self._client.close()

    def post(self, body: bytes, *, patience_s: float) -> bytes:
        """Send a request until it is answered, for at most `patience_s`.

        Raises
        ------
        harness.errors.CellError
        """
        try:
            return self.answer(body, patience_s=patience_s)
        except _RefusedError as error:
            raise CellError(str(error)) from error

    def answer(self, body: bytes, *, patience_s: float) -> bytes:
        """Send a request until it is answered, counting what did not work."""
        started = time.monotonic()
        for pause_s in itertools.chain(PAUSES_S, itertools.repeat(PAUSES_S[-1])):
            sent = time.monotonic()
            content, trouble, asked_s, limited = self._attempt(body)
            if content is not None:
                ends = content if len(content) <= 2 * _ENDS else content[:_ENDS] + content[-_ENDS:]
                usage = _USAGE.search(ends)
                self.counters.add(requests=1, billed_tokens=float(usage[1]) if usage else 0.0)
                return content
            wait_s = max(asked_s, _LEAST_PAUSE_S) if asked_s is not None else pause_s * random.uniform(0.75, 1.25)
            left_s = patience_s - (time.monotonic() - started)
            if wait_s >= left_s:
                asks = f", and asks to wait {asked_s:.0f} s more" if asked_s is not None else ""
                raise _RefusedError(f"{self.url}: {trouble}{asks}; gave up after {time.monotonic() - started:.1f} s (model.patience_s)")
            time.sleep(wait_s)
            self.counters.add(retries=1, rate_limited=float(limited), waited_s=time.monotonic() - sent)
        raise AssertionError("the pauses never end")

    def _attempt(self, body: bytes) -> tuple[bytes | None, str, float | None, bool]:
        """Send a request once: the answer, or what went wrong, how long to wait if that is said, and whether it came too fast."""
        try:
            response = self._client.post(f"{self.url}/embeddings", content=body)
        except self._httpx.TimeoutException as error:
            return None, f"no answer in time ({type(error).__name__}, model.request_timeout_s)", None, False
        except self._httpx.ConnectError as error:
            said = self.struck(str(error))
            if not self._reached:  # one that was there may come back
                raise _RefusedError(f"{self.url} cannot be reached ({said})") from error
            return None, f"cannot be reached ({said})", None, False
        except self._httpx.RequestError as error:
            return None, self.struck(f"{type(error).__name__}: {error}"), None, False
        self._reached = True
        status = response.status_code
        if status == 200:
            return response.content, "", None, False
        if status in (401, 403):  # such answers like to quote the key
            held = f"the key in {self._key_variable} was refused" if self._has_key else f"it wants a key; set {self._key_variable}"
            raise _RefusedError(f"{self.url} answered {status}: {held}")
        said = f"answered {status}" + (f" ({text})" if (text := self.struck(_message(response.content))) else "")
        if status in BUSY and not _exhausted(response.content):
            return None, said, _retry_after(response.headers), status == 429
        hint = "; is the address the one before /embeddings (model.base_url), and model.source a model it serves?" if status == 404 else ""
        raise _RefusedError(f"{self.url} {said}{hint}")

    def struck(self, text: str) -> str:
        """Return `text` without the key or a good part of it, and no longer than a line."""
        for secret in self._secrets:
            text = secret.struck(text)
        return text if len(text) <= 300 else text[:300] + " …"


class _Secret:
    """A text that is never shown."""

    _PART = 6
    """Characters in a row that give too much away; services quote the last four of a key, which is how users tell theirs apart."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return "_Secret(not shown)"

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("a secret is not pickled")

    def struck(self, text: str) -> str:
        """Return `text` with every word crossed out that holds the secret or part of it."""
        size = min(self._PART, len(self._text))
        parts = {self._text[i : i + size] for i in range(len(self._text) - size + 1)}
        return "".join("[not shown]" if any(part in word for part in parts) else word for word in re.split(r"(\s+)", text))


def _asked(endpoint: _Endpoint, model: OpenAIEmbeddingModel, *, patience_s: float) -> tuple[str, Vectors]:
    """Embed the probes: the name that the endpoint gives the model, and their vectors.

    Raises
    ------
    harness.errors.WeightsError
    """
    try:
        return _decoded(_within(endpoint, model, patience_s), len(PROBES), endpoint)
    except _RefusedError as error:
        raise WeightsError(f"model.source={model.source}: {error}. Set {model.base_url_variable} or model.base_url.") from error
    except AuditError as error:
        raise WeightsError(f"model.source={model.source}: {error}") from error


def _within(endpoint: _Endpoint, model: OpenAIEmbeddingModel, patience_s: float) -> bytes:
    """Ask for the probes in a thread of its own: the client's time limit is for each byte, not for all of them."""
    answers: list[bytes | Exception] = []

    def work() -> None:
        try:
            answers.append(endpoint.answer(model._body(PROBES), patience_s=patience_s))
        except Exception as error:  # noqa: BLE001 - raised below
            answers.append(error)

    thread = threading.Thread(target=work, name="endpoint-probe", daemon=True)
    thread.start()
    thread.join(patience_s)
    if not answers:
        raise _RefusedError(f"{endpoint.url} did not answer in {patience_s:g} s")
    if isinstance(answers[0], Exception):
        raise answers[0]
    return answers[0]


def _identity(name: str, served: str, vectors: Vectors) -> str:
    """Return a SHA-256 that tells one served model from another, hexadecimal.

    Services compute in half precision, in whatever company a request comes, so that the numbers differ a little each time, and
    rounded ones would too. What stays is where two vectors differ most: of every two neighbouring probes the place of the largest
    difference, and its sign. (Places of the largest values would not do: models have a few that stand out for every text.)
    """
    differences = vectors - np.roll(vectors, 1, axis=0)
    places = np.abs(differences).argmax(axis=1)
    signs = differences[np.arange(len(places)), places] > 0
    facts = [name, served, vectors.shape[1], places.tolist(), signs.tolist()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _decoded(body: bytes, count: int, endpoint: _Endpoint) -> tuple[str, Vectors]:
    """Return the model's name in an answer and its vectors, in the order of the request.

    Raises
    ------
    harness.errors.AuditError
    """

    def wrong(what: str) -> AuditError:
        return AuditError(f"{endpoint.url} answered, but {endpoint.struck(what)}")

    try:
        answer = json.loads(body)
    except ValueError as error:
        raise wrong("not in JSON; is model.base_url an OpenAI-compatible endpoint?") from error
    rows = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(rows, list):
        raise wrong(f"with no list of embeddings ({_message(body) or 'nothing more'})")
    if len(rows) != count:
        raise wrong(f"with {len(rows)} embeddings for {count} texts")
    try:
        places = [row["index"] for row in rows]
        vectors = [_vector(row["embedding"]) for row in rows]
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise wrong("an embedding has no index or is no list of numbers") from error
    if any(isinstance(place, bool) or not isinstance(place, int) for place in places) or sorted(places) != list(range(count)):
        raise wrong("the embeddings' indexes are not those of the texts")
    dims = {len(vector) for vector in vectors}
    if len(dims) != 1 or dims == {0}:
        raise wrong(f"the embeddings have different dimensions: {', '.join(map(str, sorted(dims)))}")
    ordered = np.empty((count, dims.pop()), dtype=np.float32)
    ordered[places] = vectors
    if not np.isfinite(ordered).all():
        raise wrong("an embedding holds a number that is not finite")
    served = answer.get("model")
    return endpoint.struck(served) if isinstance(served, str) else "", ordered


def _vector(embedding: Any) -> Vectors:
    """Return one embedding as float32: a list of numbers, or the base64 of little-endian float32; servers may ignore which was asked."""
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4")
    vector: Vectors = np.asarray(embedding, dtype=np.float32)
    if vector.ndim != 1:
        raise ValueError("not a list of numbers")
    return vector


def _address(key: str, value: str | None, *, credentials: bool = False) -> list[str]:
    """Say what is wrong with an address, without repeating a password in it."""
    if value is None:
        return []
    if found := rules.text(key, value):
        return found
    try:
        parts = urlsplit(value.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and not parts.fragment
        _ = parts.port
    except ValueError:
        return [f"{key} must be an address such as http://localhost:8080/v1, got one that cannot be read"]
    if parts.username is not None and not credentials:
        return [f"{key} must not hold a user name or password: settings are written to records; use the environment"]
    if not usable:
        shown = "another" if parts.username is not None or parts.query else repr(value)
        return [f"{key} must be an address such as http://localhost:8080/v1, got {shown}"]
    return []


def _message(body: bytes) -> str:
    """Return what an endpoint says about an error: OpenAI's, TEI's, FastAPI's and plain ways of saying it, in one line."""
    try:
        answer = json.loads(body)
    except ValueError:
        return " ".join(body[:2000].decode("utf-8", "replace").split())
    found = answer.get("error", answer.get("message", answer.get("detail", ""))) if isinstance(answer, dict) else ""
    if isinstance(found, dict):
        found = found.get("message", "")
    return " ".join(str(found).split())


def _exhausted(body: bytes) -> bool:
    """Whether an answer says that the account has no credit left, which OpenAI says with 429 although no waiting helps."""
    return b"insufficient_quota" in body[:4000]


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the pause in seconds that an answer asks for: a number or a date (RFC 9110, section 10.2.3); None where it asks for none."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return max(seconds, 0.0) if np.isfinite(seconds) else None
