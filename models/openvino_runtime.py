"""OpenVINO as the runtime of an exported network, on the CPU.

int8 is NNCF's compression of weights: they are kept in int8, by columns, and what flows through the network stays in fp32 unless the
processor has instructions for both in int8, for which the runtime then quantises groups of numbers by themselves.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.interfaces import Vectors
from models.exported import predominant

PACKAGES = ("openvino",)
QUANTISER = ("nncf",)

_FILE = "model.xml"


def version() -> str:
    """Return the runtime's name and version."""
    return f"openvino {metadata.version('openvino')}"


def _openvino() -> Any:
    """Return the library, which unless told otherwise reports to its makers what is converted: without the package for that it does not."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # importing it then fails, as if it were not installed
    import openvino

    return openvino


def write(program: Any, inputs: Sequence[str], folder: Path) -> str:
    """Write what ``torch.export`` has captured as OpenVINO's own format; returns the precision of its matrices."""
    library = _openvino()
    model = library.convert_model(program)
    for port, name in zip(model.inputs, inputs, strict=True):
        port.get_tensor().set_names({name})
    library.save_model(model, folder / _FILE, compress_to_fp16=False)  # by default it halves the weights' precision
    return _precision(folder / _FILE)


def quantise(plain: Path, folder: Path) -> str:
    """Compress the weights of matrix products and tables to int8; returns the precision of the matrices."""
    library = _openvino()
    import nncf

    compressed = nncf.compress_weights(library.Core().read_model(plain / _FILE), mode=nncf.CompressWeightsMode.INT8_SYM)
    library.save_model(compressed, folder / _FILE, compress_to_fp16=False)
    return _precision(folder / _FILE)


def _precision(file: Path) -> str:
    """Return the precision of the matrices among the network's constants, ``int8`` whether signed or not."""
    names = {"f32": "fp32", "f16": "fp16", "i8": "int8", "u8": "int8"}
    constants = [one for one in _openvino().Core().read_model(file).get_ops() if one.get_type_name() == "Constant"]
    kinds = [(one.get_element_type().get_type_name(), list(one.shape)) for one in constants]
    return predominant((names[kind], shape) for kind, shape in kinds if kind in names)


class Network:
    """A compiled network.

    Parameters
    ----------
    file : Path
        The network.
    threads : int
        Threads that compute one batch; batches are computed one after the other.
    """

    def __init__(self, file: Path, *, threads: int) -> None:
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",  # it takes bf16 by itself where the processor has it
            "ENABLE_CPU_PINNING": False,  # which would put two processes onto the same cores
        }
        self._request = _openvino().Core().compile_model(file, "CPU", settings).create_infer_request()
        self.threads = {"intra_op": threads, "inter_op": 1}

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Vectors:
        """Return the vectors of a batch."""
        self._request.infer(dict(inputs), share_inputs=True)
        return np.array(self._request.get_output_tensor(0).data)


def start(folder: Path, *, threads: int) -> Network:
    """Open what was written."""
    return Network(folder / _FILE, threads=threads)
