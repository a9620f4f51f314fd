"""Rows laid down as bytes are the rows that pymilvus would send number by number."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pymilvus import DataType
from pymilvus.client.prepare import Prepare
from pymilvus.grpc_gen import milvus_pb2

from stores.milvus_wire import as_bytes, data_type, insert_request, varint
from stores.vectors import DTYPES

ROWS = (np.random.default_rng(1).standard_normal((70, 16)) * 3).astype(np.float32)


def as_bf16(numbers):
    return torch.from_numpy(numbers).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)


def of_type(vector_type):
    if vector_type == "binary":
        return np.packbits(ROWS > 0, axis=1)
    return (ROWS * 20).astype(np.int8) if vector_type == "int8" else ROWS


@pytest.mark.parametrize("vector_type", list(DTYPES))
def test_a_request_is_the_one_that_pymilvus_makes_of_the_same_rows(vector_type):
    rows, ids = of_type(vector_type), np.arange(5, 75)
    ours = insert_request(
        "c", database="", numbers={"id": ids, "part": ids % 7}, vectors=rows, field="vector", dim=16, vector_type=vector_type
    )
    values = list(rows.astype(np.float16) if vector_type == "fp16" else rows)
    if vector_type in ("binary", "bf16"):
        values = [row.tobytes() for row in (as_bf16(rows) if vector_type == "bf16" else rows)]
    fields = [
        {"name": "id", "type": DataType.INT64, "is_primary": True, "params": {}},
        {"name": "part", "type": DataType.INT64, "params": {}},
        {"name": "vector", "type": data_type(vector_type), "params": {"dim": 16}},
    ]
    dicts = [{"id": int(i), "part": int(i % 7), "vector": value} for i, value in zip(ids, values, strict=True)]
    theirs = Prepare.row_insert_param("c", dicts, "", fields, [])
    assert ours.num_rows == theirs.num_rows == 70
    assert {field.field_name: field for field in ours.fields_data} == {
        field.field_name: _without_validity(field) for field in theirs.fields_data
    }


def _without_validity(field):
    field.ClearField("valid_data")
    return field


def test_a_request_survives_the_wire():
    request = insert_request("c", database="d", numbers={"id": np.arange(70)}, vectors=ROWS, field="v", dim=16, vector_type="fp32")
    back = milvus_pb2.InsertRequest.FromString(request.SerializeToString())
    assert np.array_equal(np.array(back.fields_data[1].vectors.float_vector.data, np.float32), ROWS.ravel())
    assert list(back.fields_data[0].scalars.long_data.data) == list(range(70))


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_bf16_is_rounded_to_the_nearest(number):
    here = np.frombuffer(as_bytes(np.array([number], np.float32), "bf16"), np.uint16)
    assert here == as_bf16(np.array([number], np.float32))


@given(st.integers(1, 2**64 - 1))
def test_lengths_are_written_as_protocol_buffers_do(number):
    tag = b"\x40"  # field 8, a number of variable length
    assert milvus_pb2.InsertRequest(schema_timestamp=number).SerializeToString() == tag + varint(number)
