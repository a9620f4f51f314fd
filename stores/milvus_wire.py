"""Rows as they go over the wire to a Milvus server.

pymilvus makes a request from rows or columns number by number, which takes most of the time of an insert. The wire's own form
of a column of float32 is the bytes that NumPy has in memory already, so the request is put together from these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.interfaces import Ids, VectorType

DATA_TYPES: Mapping[VectorType, str] = {
    "fp32": "FLOAT_VECTOR",
    "fp16": "FLOAT16_VECTOR",
    "bf16": "BFLOAT16_VECTOR",
    "int8": "INT8_VECTOR",
    "binary": "BINARY_VECTOR",
}
FIELDS: Mapping[VectorType, str] = {
    "fp16": "float16_vector",
    "bf16": "bfloat16_vector",
    "int8": "int8_vector",
    "binary": "binary_vector",
}
"""Where schema.proto has the bytes of each type but float32."""


def data_type(vector_type: VectorType) -> Any:
    """Return pymilvus's name of a vector type."""
    from pymilvus import DataType

    return DataType[DATA_TYPES[vector_type]]


def insert_request(
    collection: str,
    *,
    database: str,
    numbers: Mapping[str, Ids],
    vectors: NDArray[Any],
    field: str,
    dim: int,
    vector_type: VectorType,
    upsert: bool = False,
) -> Any:
    """Return the request that inserts rows, or that replaces those with the same ids.

    Parameters
    ----------
    numbers : mapping
        Columns of int64 by name.
    vectors : ndarray of shape (n, dim)
        As `harness.interfaces.Store.insert` takes them, for the field called `field`.
    """
    from pymilvus import DataType
    from pymilvus.grpc_gen import milvus_pb2, schema_pb2

    columns = []
    for name, values in numbers.items():
        column = schema_pb2.FieldData(type=int(DataType.INT64), field_name=name)
        column.scalars.long_data.data.extend(values.tolist())
        columns.append(column)
    column = schema_pb2.FieldData(type=int(data_type(vector_type)), field_name=field)
    column.vectors.dim = dim
    data = as_bytes(vectors, vector_type)
    if vector_type == "fp32":
        # A packed repeated float, field 1: its tag, the length, the numbers as they lie in memory.
        column.vectors.float_vector.MergeFromString(b"\x0a" + varint(len(data)) + data)
    else:
        setattr(column.vectors, FIELDS[vector_type], data)
    kind = milvus_pb2.UpsertRequest if upsert else milvus_pb2.InsertRequest
    return kind(db_name=database, collection_name=collection, num_rows=len(vectors), fields_data=[*columns, column])


def as_bytes(vectors: NDArray[Any], vector_type: VectorType) -> bytes:
    """Return vectors as they go over the wire, little-endian; fp32 to bf16 rounds to the nearest, ties to even."""
    if vector_type == "fp32":
        return vectors.astype("<f4", copy=False).tobytes()
    if vector_type == "fp16":
        return vectors.astype("<f2").tobytes()
    if vector_type == "bf16":
        bits = np.ascontiguousarray(vectors, dtype="<f4").view("<u4")
        return bytes(((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes())
    return vectors.tobytes()


def varint(number: int) -> bytes:
    """Return a length as protocol buffers write it: seven bits a byte, the lowest first, the top bit saying that more come."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
