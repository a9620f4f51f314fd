"""Text embedding models that the sentence-transformers library loads.

The library's ``encode`` sorts, batches, pads and truncates in one call and says nothing of the truncation;
here its parts are called one by one, in the items' own order, so that each stage can be timed, and what was
cut is counted. Pooling and normalisation are the model's own modules and run on the device. Code that a checkpoint brings
along is not run: architectures are those that transformers has.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from harness.errors import AuditError, SettingsError, UnsupportedError
from harness.interfaces import Attention, Backend, Dtype, Item, ModelInfo, Prepared, Role, Vectors, Weights
from models import exported, parameters, rules
from models import weights as weights_
from models.checkpoint import Checkpoint, attention_arguments
from models.loading import loading

Pooling = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


@dataclass(frozen=True, kw_only=True)
class SentenceTransformersModel(Checkpoint):
    """Settings of a text embedding model, besides those of its checkpoint; `load` does the work.

    Parameters
    ----------
    normalized : bool
        Whether the vectors have unit norm: they are divided by it where the model does not do that itself.
    pooling : str or None
        How token vectors become one. A checkpoint that says so itself has to say the same; None takes what it says, and
        the mean for those that say nothing and for random weights.
    matryoshka : sequence of int
        Dimensions besides its own that the model was trained to be cut to; `dim` may be any of them. What is left is
        normalised anew.
    layer_norm : bool
        Whether the pooled vector goes through a layer normalisation without weights before it is cut, as nomic's recipe has it.
    dense : sequence of int
        For random weights: output dimensions of linear layers after pooling, without bias or activation.
    query_prompt, document_prompt : str
        Text put before every query or document; counted in tokens like the rest. A checkpoint's own prompts are not used.
    max_tokens : int or None
        Length to which texts are cut, special tokens included; None is the model's own.
    """

    modality: str = "text"
    normalized: bool = True
    pooling: Pooling | None = None
    matryoshka: Sequence[int] = ()
    layer_norm: bool = False
    dense: Sequence[int] = ()
    query_prompt: str = ""
    document_prompt: str = ""
    max_tokens: int | None = None

    def violations(self) -> list[str]:
        """Every rule that these settings break, one sentence each."""
        found = [
            *rules.one_of("model.modality", self.modality, ["text"]),
            *rules.boolean("model.normalized", self.normalized),
            *rules.integers("model.matryoshka", self.matryoshka, minimum=1),
            *rules.boolean("model.layer_norm", self.layer_norm),
            *rules.integers("model.dense", self.dense, minimum=1),
            *rules.text("model.query_prompt", self.query_prompt, empty=True),
            *rules.text("model.document_prompt", self.document_prompt, empty=True),
        ]
        if self.pooling is not None:
            found += rules.one_of("model.pooling", self.pooling, get_args(Pooling))
        if self.max_tokens is not None:
            found += rules.integer("model.max_tokens", self.max_tokens, minimum=3)  # two of them are [CLS] and [SEP]
        return found

    def locate(self) -> Weights:
        """Decide where the weights come from, see `models.weights.locate`; with random ones the tokenizer is part of what is used."""
        found = super().locate()
        if found.kind != "random":
            return found
        files = weights_.tokenizer_folder(self.source, revision=self.revision, package=self.package, path=self.path)
        tokenizer = weights_.tokenizer_fingerprint(files) if files is not None else f"trained on Python {platform.python_version()}"
        return replace(found, fingerprint=f"{found.fingerprint}, tokenizer {tokenizer}")

    @property
    def backends(self) -> Mapping[str, str]:
        """The runtimes besides torch that can run the network, each with the module that does it."""
        return exported.RUNTIMES

    def refused(self, *, backend: Backend, device: str, dtype: Dtype, attention: Attention, compiled: bool) -> list[str]:
        """Return what such a runtime cannot do of what is asked for, and what it lacks here, see `models.exported.violations`."""
        return exported.violations(backend=backend, device=device, dtype=dtype, attention=attention, compiled=compiled)

    def load(
        self,
        weights: Weights,
        *,
        device: str,
        dtype: Dtype,
        attention: Attention = "auto",
        compiled: bool = False,
        backend: Backend = "torch",
    ) -> ModelInfo:
        """Load in exactly `dtype` and move the model to `device`; for another `backend`, export the network if need be, and open it there.

        Raises
        ------
        harness.errors.WeightsError
            When the files cannot be read or do not fit.
        harness.errors.UnsupportedError
            When the `backend` lacks something, or cannot run this network.
        harness.errors.SettingsError
            When `max_tokens` or `attention` is more than the model can do, or `pooling` not what its checkpoint says.
        """
        if backend != "torch":
            if refused := self.refused(backend=backend, device=device, dtype=dtype, attention=attention, compiled=compiled):
                raise UnsupportedError(refused)
            return self._open(weights, dtype=dtype, backend=backend)
        chosen = attention_arguments(attention, device=device, dtype=dtype)
        reports: list[Mapping[str, Any]] = []
        with loading(weights, attention=attention):
            model = self._random(dtype, chosen) if weights.kind == "random" else self._pretrained(weights, dtype, chosen, reports)
        positions = _positions(model)
        if self.max_tokens is not None and positions is not None and self.max_tokens > positions:
            raise SettingsError(f"model.max_tokens must be at most the model's {positions} positions, got {self.max_tokens}")
        if model.max_seq_length is not None:
            longest = self.max_tokens if self.max_tokens is not None else model.max_seq_length
            model.max_seq_length = longest if positions is None else min(longest, positions)
        own = model.get_embedding_dimension() or 0
        info = self.keep(
            model,
            device=device,
            dim=self.dim if self.dim < own and self.dim in self.matryoshka else own,
            reports=reports,
            attention=attention,
            max_tokens=model.max_seq_length,
        )
        if compiled:
            _compile(model[0])
        return info

    def _open(self, weights: Weights, *, dtype: Dtype, backend: Backend) -> ModelInfo:
        """Open the exported network, with as many threads as torch would take; torch's own is kept without weights, for what it knows."""
        import torch

        found = exported.opened(self, weights, backend=backend, dtype=dtype, threads=torch.get_num_threads())
        with loading(weights):
            if weights.kind == "random":
                shell = self._random("fp32", {}, device="meta")
            else:
                shell = self._pretrained(weights, "fp32", {}, [], device="meta")
        if not found.pooler:
            shell[0].model.pooler = None
        shell.max_seq_length = found.info.max_tokens
        object.__setattr__(self, "_loaded", (shell.eval(), found))
        return found.info

    def capture(self, weights: Weights) -> exported.Captured:
        """Load in fp32 and let torch capture the way from token ids to finished vectors, for batches of any size and length.

        Raises
        ------
        harness.errors.UnsupportedError
            When queries and documents go different ways through the network, or it needs more than token ids and their masks.
        """
        import torch
        from sentence_transformers.base.modules import Router
        from sentence_transformers.sentence_transformer.modules import Pooling as PoolingModule

        info = self.load(weights, device="cpu", dtype="fp32")
        features = self.network.preprocess(["A text.", "Another text, which is longer than the first.", "And a third."])
        inputs = tuple(name for name in exported.INPUTS if name in features)
        others = [name for name, value in features.items() if isinstance(value, torch.Tensor) and name not in exported.INPUTS]
        if "attention_mask" not in features or others:
            raise UnsupportedError("this network needs more than token ids and their masks")
        for module in self.network.modules():
            if isinstance(module, Router) or (isinstance(module, PoolingModule) and not module.include_prompt):
                raise UnsupportedError("queries and documents go different ways through this network")
        pooler = getattr(getattr(self.network[0], "model", None), "pooler", None) is not None
        return exported.Captured(self._program({name: features[name] for name in inputs}), inputs, info, self.fingerprint(), pooler)

    def _program(self, features: Mapping[str, Any]) -> Any:
        """Return the ``torch.export.ExportedProgram`` of the loaded model; the given inputs have shape (3, tokens)."""
        import torch

        network, finished = self.network, self._finished

        class Embedding(torch.nn.Module):
            """All modules of the model as one."""

            def __init__(self) -> None:
                super().__init__()
                self.network = network

            def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
                given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
                inputs = {name: value for name, value in given.items() if value is not None}
                return finished(self.network(inputs)["sentence_embedding"]).float()

        dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
        with torch.inference_mode(mode=False), torch.no_grad():
            return torch.export.export(Embedding().eval(), tuple(features.values()), dynamic_shapes=tuple(dynamic for _ in features))

    def fingerprint(self) -> str:
        """Return the SHA-256 over the loaded weights; of an exported network, over those that were exported, whatever became of them."""
        return super().fingerprint() if self._elsewhere is None else self._elsewhere.fingerprint

    def transfer(self, prepared: Prepared) -> Prepared:
        """Move the inputs to the device; on a CPU the batch comes back unchanged."""
        return super().transfer(prepared) if self._elsewhere is None else prepared

    def finish(self, outputs: Any) -> Vectors:
        """Return the vectors of shape (n, dim), float32, in the order of the items.

        Raises
        ------
        harness.errors.AuditError
            When another runtime made NaN of a text.
        """
        if self._elsewhere is None:
            return super().finish(outputs)
        vectors: Vectors = outputs
        if np.isnan(vectors).any():  # a quick look, as the audit sees a few texts only
            raise AuditError(
                f"{self._elsewhere.info.runtime} made NaN of a text: OpenVINO does where local attention sees padding alone; "
                "take backend=onnx, backend=torch or batch_size=1"
            )
        return vectors

    @property
    def _elsewhere(self) -> exported.Opened | None:
        """The network in another runtime; None where torch runs it."""
        found: exported.Opened | None = self.preparer
        return found

    def prepare(self, items: Sequence[Item], *, role: Role = "document") -> Prepared:
        """Tokenise texts, padded to the longest of them, with the prompt of their `role`."""
        prompt = self.query_prompt if role == "query" else self.document_prompt
        features = self.network.preprocess(list(items), prompt=prompt or None, task=role)
        # Static embeddings have no mask: the token ids of all texts stand in one row, without padding.
        tokens = int(features["attention_mask"].sum()) if "attention_mask" in features else int(features["input_ids"].numel())
        encodings = getattr(features, "encodings", None) or ()
        truncated = sum(1 for encoding in encodings if encoding.overflowing)
        inputs = dict(features) if self._elsewhere is None else {name: features[name].numpy() for name in self._elsewhere.inputs}
        return Prepared((inputs, role), count=len(items), units=float(tokens), truncated=truncated)

    def forward(self, prepared: Prepared) -> Any:
        """Run all modules of the model: transformer, pooling, normalisation; then cut the vectors if `dim` asks for it."""
        import torch

        features, role = prepared.inputs  # models that embed queries differently route by the role
        if self._elsewhere is not None:
            return self._elsewhere.session.run(features)
        with torch.inference_mode():
            # A copy, because the modules write their results into the dict they are given.
            return self._finished(self.network(dict(features), task=role)["sentence_embedding"])

    def forward_by_torch(self, prepared: Prepared) -> Any:
        """Take a batch for a runtime besides torch through torch's operators, on the device ``meta``: shapes without numbers.

        No text is masked, which changes neither which operators there are nor their shapes.
        """
        import torch

        features, role = prepared.inputs
        shapes = {
            name: torch.empty(ids.shape, dtype=torch.long, device="meta") for name, ids in features.items() if name != "attention_mask"
        }
        with torch.inference_mode(), _one_text_a_row():
            return self._finished(self.network(shapes, task=role)["sentence_embedding"])

    def _finished(self, vectors: Any) -> Any:
        """Return what the modules made, (n, own dim), as it is searched with, (n, dim)."""
        from sentence_transformers.base.modules import Normalize
        from torch.nn import functional

        is_cut = self.dim < vectors.shape[1] and self.dim in self.matryoshka
        if self.layer_norm:
            vectors = functional.layer_norm(vectors.float(), vectors.shape[1:])
        if is_cut:
            vectors = vectors[:, : self.dim]
        already = isinstance(self.network[-1], Normalize) and not (is_cut or self.layer_norm)
        return functional.normalize(vectors.float(), dim=1) if self.normalized and not already else vectors

    def _pretrained(
        self, weights: Weights, dtype: Dtype, chosen: Mapping[str, Any], reports: list[Mapping[str, Any]], *, device: str = "cpu"
    ) -> Any:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer import modules

        precision = parameters.torch_dtype(dtype)
        with _loading_reports(reports) if device == "cpu" else _built_from_config(device):
            model = SentenceTransformer(
                weights.path, device=device, local_files_only=True, model_kwargs={"dtype": precision, "use_safetensors": True, **chosen}
            )
        model.truncate_dim = None  # a checkpoint can ask for it; here `dim` decides
        _drop_missing_pooler(model[0], reports)
        pooling = next((module for module in model if isinstance(module, modules.Pooling)), None)
        if self.pooling is not None and pooling is not None and pooling.pooling_mode != self.pooling:
            if _says_modules(weights.path):
                theirs = pooling.pooling_mode
                raise SettingsError(
                    f"model.pooling={self.pooling}, but the checkpoint says {theirs}; set that, or null to take what it says"
                )
            pooling.pooling_mode = self.pooling
        return _cast(model, precision)

    def _random(self, dtype: Dtype, chosen: Mapping[str, Any], *, device: str = "cpu") -> Any:
        """Build the architecture at full size with seeded random weights, and the tokenizer that can be had."""
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer import modules
        from torch.nn import Identity
        from transformers import AutoConfig, AutoTokenizer

        from models import wordpiece

        config = AutoConfig.for_model(**self.architecture)
        longest = self.max_tokens if self.max_tokens is not None else int(getattr(config, "max_position_embeddings", 512))
        files = weights_.tokenizer_folder(self.source, revision=self.revision, package=self.package, path=self.path)
        if files is not None:
            tokenizer = AutoTokenizer.from_pretrained(files, local_files_only=True)
        else:
            tokenizer = wordpiece.train(vocab_size=config.vocab_size, pad_id=config.pad_token_id or 0, max_tokens=longest)
        if len(tokenizer) > config.vocab_size:
            raise ValueError(f"model.architecture.vocab_size must be at least {len(tokenizer)}, the tokenizer's, got {config.vocab_size}")
        precision = parameters.torch_dtype(dtype)
        with tempfile.TemporaryDirectory() as folder, parameters.seeded(self.seed):
            config.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            with _built_from_config(device):
                transformer = modules.Transformer(
                    folder,
                    max_seq_length=longest,
                    model_kwargs={"dtype": precision, **chosen},
                    processor_kwargs={"local_files_only": True},
                )
            parts = [transformer, modules.Pooling(transformer.get_embedding_dimension(), pooling_mode=self.pooling or "mean")]
            for dim in self.dense:
                parts.append(modules.Dense(parts[-1].get_embedding_dimension(), dim, bias=False, activation_function=Identity()))
        if self.normalized:
            parts.append(modules.Normalize())
        return _cast(SentenceTransformer(modules=parts, device=device, local_files_only=True), precision)


def _drop_missing_pooler(module: Any, reports: list[Mapping[str, Any]]) -> None:
    """Take away a pooler that is not in the checkpoint: it would be random, but nothing here looks at what it makes."""
    missing = {key for report in reports for key in report["missing_keys"] if key.startswith("pooler.")}
    if missing:
        module.model.pooler = None
        reports[:] = [{**report, "missing_keys": set(report["missing_keys"]) - missing} for report in reports]


def _says_modules(path: str | None) -> bool:
    """Whether a checkpoint says itself which modules follow its transformer; for others the library supposes the mean."""
    return path is not None and (Path(path) / "modules.json").is_file()


def _positions(model: Any) -> int | None:
    """Return how many tokens the network has positions for, None if it does not say.

    Networks of RoBERTa's kind (XLM-R, MPNet) begin to count after the id of their padding token, so that they have
    that many positions fewer than their configuration names.
    """
    from torch.nn import Embedding

    named = getattr(model.config, "max_position_embeddings", None) if model.config is not None else None
    if named is None:
        return None
    offsets = [
        module.padding_idx + 1
        for module in model.modules()
        if isinstance(getattr(module, "position_embeddings", None), Embedding) and isinstance(getattr(module, "padding_idx", None), int)
    ]
    return int(named) - max(offsets, default=0)


def _compile(module: Any) -> None:
    """Send the network of a model's first module through ``torch.compile``, for texts of any length.

    The library calls the network's ``forward`` itself and not the network, so that is what has to be replaced; names and
    weights stay what they are. Pooling and normalisation are not worth it.
    """
    import torch

    network = getattr(module, "model", module)
    network.forward = torch.compile(network.forward, dynamic=True)


def _cast(model: Any, precision: Any) -> Any:
    """Bring parameters to `precision`; buffers of modules that are in it already (rotary frequencies) stay in float32."""
    for module in model:
        if any(parameter.is_floating_point() and parameter.dtype != precision for parameter in module.parameters()):
            module.to(precision)
    return model


@contextmanager
def _loading_reports(reports: list[Mapping[str, Any]]) -> Iterator[None]:
    """Collect what ``from_pretrained`` reports about keys while sentence-transformers calls it.

    The library discards the report and a layer missing from a checkpoint is then silently random, so for the
    time of one load the method is wrapped to ask for the report (``output_loading_info``) and keep it.
    """
    import transformers

    library: Any = transformers.PreTrainedModel
    original = library.__dict__["from_pretrained"]

    def from_pretrained(cls: Any, /, *args: Any, **kwargs: Any) -> Any:
        model, report = original.__func__(cls, *args, **{**kwargs, "output_loading_info": True})
        reports.append(report)
        return model

    library.from_pretrained = classmethod(from_pretrained)
    try:
        yield
    finally:
        library.from_pretrained = original


@contextmanager
def _one_text_a_row() -> Iterator[None]:
    """Keep transformers from looking whether several texts stand in one row, where there are no numbers to look at.

    Causal networks do that when no mask is given. As they are called here there never are.
    """
    from transformers import masking_utils

    library: Any = masking_utils
    original = library.find_packed_sequence_indices
    library.find_packed_sequence_indices = lambda _: None
    try:
        yield
    finally:
        library.find_packed_sequence_indices = original


@contextmanager
def _built_from_config(device: str = "cpu") -> Iterator[None]:
    """Let sentence-transformers build a model from its configuration, where it only knows how to load one.

    Writing random weights to a disk and reading them back would work too, with twice the memory. On the device ``meta`` it has no weights.
    """
    import torch
    import transformers

    library: Any = transformers.PreTrainedModel
    original = library.__dict__["from_pretrained"]

    def from_pretrained(cls: Any, _: Any, /, *, config: Any, dtype: Any, attn_implementation: str | None = None, **__: Any) -> Any:
        with torch.device(device) if device != "cpu" else nullcontext():  # so that a caller's own choice of a place holds
            return cls._from_config(config, dtype=dtype, attn_implementation=attn_implementation).eval()

    library.from_pretrained = classmethod(from_pretrained)
    try:
        yield
    finally:
        library.from_pretrained = original
