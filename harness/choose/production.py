"""Code that puts the chosen configuration into production: the model as its adapter loads it, the store as the harness asked it.

One template for each `_target_` that there is one for, named after it, so that another model or store is one more file in
``templates/``. Whatever has no template is said, in the file and beside the choice; no code is guessed. Values go into the code
as Python literals and nothing else, so that a name cannot end a string.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.build import build
from harness.choose.candidates import Candidate
from harness.interfaces import Index

TORCH_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
STORED_AS = {"stores.faiss.Faiss": ("fp32",), "stores.milvus_lite.MilvusLite": ("fp32",)}
"""Vector types that the templates write; of the others fp32 and fp16."""
QUANTISERS = {"SQ4U": "QT_4bit_uniform", "SQ6": "QT_6bit", "SQ8": "QT_8bit", "BF16": "QT_bf16", "FP16": "QT_fp16"}
"""FAISS's names, as in `stores.faiss`."""
FAISS_FAMILIES = ("FLAT", "HNSW", "HNSW_SQ", "HNSW_PQ", "IVF_FLAT", "IVF_SQ8", "IVF_PQ", "SCANN")
"""Families that the template for FAISS builds."""


def code(candidate: Candidate, *, folder: str, about: str, measured: list[str]) -> tuple[str, list[str]]:
    """Return a Python module for a candidate, and what of it could not be generated, a sentence each.

    Parameters
    ----------
    folder, about : str
        Where it comes from, for the module's docstring.
    measured : list of str
        What was measured, a sentence each.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("harness.choose", "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - this writes Python, where every value goes through `py`
        keep_trailing_newline=True,
    )
    environment.filters |= {"py": repr, "line": _line, "comment": _comment, "milvus": milvus_params, "index_type": index_type}
    there = set(environment.list_templates())
    model_note, model_template = _model(candidate, there)
    store_note, store_template = _store(candidate, there)
    text = environment.get_template("production.py.j2").render(
        name=candidate.name,
        folder=folder,
        about=about,
        measured=measured,
        model_template=model_template,
        model_note=model_note,
        store_template=store_template,
        store_note=store_note,
        quantisers=QUANTISERS,
        **_values(candidate),
    )
    text = re.sub(r"\n{4,}", "\n\n\n", text).rstrip() + "\n"
    notes = [f"The model's loading code was not generated: {model_note}"] if model_note else []
    notes += [f"The store's code was not generated: {store_note}"] if store_note else []
    return text, notes


def _model(candidate: Candidate, there: set[str]) -> tuple[str, str | None]:
    if candidate.embed is None:
        return "the vectors were given, so embed documents and queries with whatever made them.", None
    model = candidate.search.settings["model"]
    target = str(model.get("_target_"))
    if (backend := candidate.search.settings.get("backend", "torch")) != "torch":
        return f"{backend} computes it; export the network and open it as {target} does.", None
    if "audio" in str(model.get("modality", "")):
        return f"sounds need the resampling that {target} does; load it as that class does.", None
    if f"{target}.py.j2" not in there:
        return f"there is no template for {target}; load it as that class does.", None
    return "", f"{target}.py.j2"


def _store(candidate: Candidate, there: set[str]) -> tuple[str, str | None]:
    settings = candidate.search.settings
    target, stored = str(settings["store"].get("_target_")), str(settings.get("vector_type", "fp32"))
    if f"{target}.py.j2" not in there:
        return f"there is no template for {target}; use it as that class does.", None
    if stored not in STORED_AS.get(target, ("fp32", "fp16")):
        return f"vectors stored as {stored} need the harness's own quantisation.", None
    family = _family(settings)
    if target == "stores.faiss.Faiss" and family not in FAISS_FAMILIES:
        return f"there is no template for FAISS's {family}; build it as {target} does.", None
    return "", f"{target}.py.j2"


def _family(settings: Mapping[str, Any]) -> str:
    index: Index = build(settings["index"], key="index")
    return index.family


def _values(candidate: Candidate) -> dict[str, Any]:
    """Return what the templates fill in."""
    search, settings = candidate.search, candidate.search.settings
    model = dict(settings["model"])
    embed = candidate.embed
    source, note = str(model.get("path") or model.get("source")), ""
    revision = model.get("revision")
    if not model.get("path") and search.model.get("source") not in (None, source):
        note = f"; measured with the same files from {search.model['source']} {search.model.get('revision') or ''}".rstrip()
    elif not model.get("path"):
        revision = search.model.get("revision") or revision  # the commit that was measured, also where none was asked for
    return {
        "source": source,
        "source_note": note,
        "revision": None if model.get("path") else revision,
        "device": str(embed.labels.get("device")) if embed else "cpu",
        "torch_dtype": TORCH_DTYPES.get(str(settings.get("dtype", "fp32"))),
        "attention": settings.get("attention", "auto"),
        "compiled": bool(settings.get("compile")),
        "batch_size": int(embed.settings["batch_size"]) if embed else 1,
        "settings": {"query_prompt": "", "document_prompt": "", "max_tokens": None, "pooling": None, "layer_norm": False}
        | {"normalized": True, "normalize": False, "padding": "longest", "lowercase": False}
        | model,
        "dim": int(search.data["dim"]),
        "store": dict(settings["store"]),
        "family": _family(settings),
        "metric": settings["metric"],
        "vector_type": settings.get("vector_type", "fp32"),
        "build_params": dict(search.labels.get("build_params") or {}),
        "search_params": dict(candidate.point.search_params),
        "k": candidate.point.k,
    }


def milvus_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters in Milvus's spelling, as its stores send them: ``efConstruction``, truth values in lower case."""
    return {
        "efConstruction" if name == "ef_construction" else name: str(value).lower() if isinstance(value, bool) else value
        for name, value in params.items()
    }


def index_type(family: str, vector_type: str = "fp32") -> str:
    """Return Milvus's name of a family, which for the vector types written here is its own."""
    return family if vector_type != "binary" else f"BIN_{family}"


def _line(words: str) -> str:
    """Return words that stay within a docstring or a comment: on one line, without what could end either."""
    printable = "".join(character if character.isprintable() else " " for character in " ".join(str(words).split()))
    return printable.replace("\\", "/").replace('"""', "'''")


def _comment(words: str) -> str:
    return _line(words) if words else ""


def write(path: Path, text: str) -> None:
    """Write the module, whole or not at all."""
    from harness.records import write_atomically

    write_atomically(path, text.encode("utf-8", "backslashreplace"))
