"""ONNX Runtime as the runtime of an exported network, on the CPU.

int8 is its dynamic quantisation: weights once, a scale for each of their columns; what flows through the network anew in each batch, by one
scale for the whole tensor, so that a text's vector depends a little on what stands in the batch beside it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from harness.interfaces import Vectors
from models.exported import predominant

PACKAGES = ("onnxruntime", "onnx", "onnxscript")
QUANTISER = ()

_FILE = "model.onnx"
_LARGEST = 1_800_000_000
"""Bytes of weights up to which they stand in the graph's own file, which has to be smaller than 2 GiB; larger ones stand beside it."""


def version() -> str:
    """Return the runtime's name and version."""
    return f"onnxruntime {metadata.version('onnxruntime')}"


def write(program: Any, inputs: Sequence[str], folder: Path) -> str:
    """Write what ``torch.export`` has captured as an ONNX graph; returns the precision of its matrices."""
    import onnxscript  # noqa: F401 - torch's exporter runs on it, so that its version belongs to the keys
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about itself
        exported = torch.onnx.export(program, dynamo=True, input_names=list(inputs), output_names=["vectors"], verbose=False)
    assert exported is not None
    exported.save(str(folder / _FILE), external_data=_bytes(exported) > _LARGEST)
    return _precision(folder / _FILE)


def _bytes(exported: Any) -> int:
    return sum(int(one.const_value.nbytes) for one in exported.model.graph.initializers.values() if one.const_value is not None)


def quantise(plain: Path, folder: Path) -> str:
    """Quantise the weights of matrix products and tables to int8; returns the precision of the matrices."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    folded = folder / f"folded_{_FILE}"  # weights that are transposed first are no weights to the quantiser
    quant_pre_process(plain / _FILE, folded, skip_symbolic_shape=True)
    quantize_dynamic(folded, folder / _FILE, weight_type=QuantType.QInt8, per_channel=True)
    folded.unlink()
    return _precision(folder / _FILE)


def _precision(file: Path) -> str:
    """Return the precision of the matrices among the graph's constants, ``int8`` whether signed or not."""
    import onnx

    graph = onnx.load(str(file), load_external_data=False).graph
    names = {
        onnx.TensorProto.FLOAT: "fp32",
        onnx.TensorProto.FLOAT16: "fp16",
        onnx.TensorProto.INT8: "int8",
        onnx.TensorProto.UINT8: "int8",
    }
    return predominant((names[one.data_type], list(one.dims)) for one in graph.initializer if one.data_type in names)


class Graph:
    """An ONNX graph, opened.

    Its threads spin while a batch is computed, which is the runtime's default, and stop when it is done: between batches the cores
    belong to whoever prepares the next.

    Parameters
    ----------
    file : Path
        The graph.
    threads : int
        Threads inside an operator; operators run one after the other.
    """

    def __init__(self, file: Path, *, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.threads = {"intra_op": threads, "inter_op": 1}

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Vectors:
        """Return the vectors of a batch."""
        vectors: Vectors = self._session.run(None, dict(inputs))[0]
        return vectors


def start(folder: Path, *, threads: int) -> Graph:
    """Open what was written."""
    return Graph(folder / _FILE, threads=threads)
