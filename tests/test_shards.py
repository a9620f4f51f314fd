"""Shards of vectors on disk: whole and as they were written, or not there."""

import numpy as np
import pytest

from harness.errors import DataError
from harness.shards import Shards, packed

SIZES, DIM = [5, 5, 3], 4


def vectors(number):
    return np.random.default_rng(number).standard_normal((SIZES[number], DIM)).astype(np.float32)


def filled(folder):
    shards = Shards(folder, SIZES, DIM)
    assert shards.missing() == [0, 1, 2]
    for number in (2, 0, 1):
        shards.keep(number, packed(vectors(number), truncated=number))
    return shards


def test_what_was_kept_is_read_back_by_whoever_comes_next(tmp_path):
    filled(tmp_path / "shards")
    found = Shards(tmp_path / "shards", SIZES, DIM)
    assert found.missing() == []
    for number in range(3):
        read, truncated = found.read(number)
        assert (read == vectors(number)).all()
        assert truncated == number


@pytest.mark.parametrize("damage", ["a bit", "the end", "all of it"])
def test_a_damaged_shard_is_found_and_alone_has_to_be_made_again(tmp_path, damage, caplog):
    filled(tmp_path / "shards")
    path = next((tmp_path / "shards").glob("00000001-*"))
    body = bytearray(path.read_bytes())
    if damage == "a bit":
        body[len(body) // 2] ^= 1
    path.write_bytes({"a bit": body, "the end": body[:-20], "all of it": b""}[damage])
    again = Shards(tmp_path / "shards", SIZES, DIM)
    assert again.missing() == [1]
    assert "made again" in caplog.text
    again.keep(1, packed(vectors(1), 1))
    assert again.missing() == []
    assert (again.read(1)[0] == vectors(1)).all()


def test_a_shard_that_is_damaged_after_it_was_looked_at_is_an_error_and_not_a_vector(tmp_path):
    shards = filled(tmp_path / "shards")
    path = next((tmp_path / "shards").glob("00000000-*"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match="not what was written"):
        shards.read(0)


def test_half_written_files_and_shards_of_another_size_count_as_not_there(tmp_path):
    filled(tmp_path / "shards")
    (tmp_path / "shards" / "00000000-abc.77.tmp").write_bytes(b"half")
    assert Shards(tmp_path / "shards", SIZES, DIM).missing() == []
    assert not list((tmp_path / "shards").glob("*.tmp"))
    assert Shards(tmp_path / "shards", [5, 5, 4], DIM).missing() == [2]
    assert Shards(tmp_path / "shards", [5], DIM).missing() == []
    assert len(list((tmp_path / "shards").iterdir())) == 1


def test_a_shard_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="shard 2"):
        Shards(tmp_path, SIZES, DIM).read(2)
