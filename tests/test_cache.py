"""Arrays by content: whole or absent, bounded, and safe from what kills a process."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgepress.cache import Cache, default_cache, room_for
from edgepress.errors import InputError

PAIR = np.dtype([("a", "f8"), ("b", "?")])


def store(cache: Cache, key: str, array: np.ndarray) -> np.ndarray:
    return cache.put(key, array.shape, array.dtype, array)


@pytest.mark.parametrize("array", [np.arange(12, dtype=np.float32).reshape(3, 4), np.ones((2, 3), PAIR)])
def test_an_array_comes_back_as_it_was(tmp_path: Path, array: np.ndarray) -> None:
    cache = Cache(tmp_path / "new")
    np.testing.assert_array_equal(store(cache, "key", array), array)
    found = Cache(tmp_path / "new").get("key")
    assert found is not None and found.dtype == array.dtype and not found.flags.writeable
    np.testing.assert_array_equal(found, array)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["key.npy"]


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    assert Cache(tmp_path / "nowhere").get("key") is None


@pytest.mark.parametrize("damage", [b"", b"garbage", None], ids=["empty", "garbage", "cut short"])
def test_a_damaged_file_counts_as_absent_and_goes(tmp_path: Path, damage: bytes | None) -> None:
    cache = Cache(tmp_path)
    store(cache, "key", np.arange(1000.0))
    path = tmp_path / "key.npy"
    path.write_bytes(path.read_bytes()[:-8] if damage is None else damage)
    assert cache.get("key") is None
    assert list(tmp_path.iterdir()) == []


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit=3000)
    for i, key in enumerate("abc"):
        store(cache, key, np.zeros(100))
        os.utime(tmp_path / f"{key}.npy", (i, i))
    assert cache.get("a") is not None
    store(cache, "d", np.zeros(100))
    assert sorted(p.stem for p in tmp_path.iterdir()) == ["a", "c", "d"]


def test_nothing_over_the_limit_is_admitted(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", limit=1000)
    assert cache.admits(1000) and not cache.admits(1001)
    with room_for(1001, cache) as other:
        store(other, "key", np.zeros(3))
        kept = other.folder
        assert kept != cache.folder
    assert not kept.exists()
    with room_for(1000, cache) as same:
        assert same is cache


def test_more_than_the_disk_holds_is_not_admitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path / "to" / "be" / "made")
    assert cache.admits(1000) and not cache.admits(1 << 60)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("edgepress.cache.np.ascontiguousarray", full)
    cache.offer("key", np.zeros(3))
    assert cache.get("key") is None


def test_rows_of_another_shape_or_number_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        Cache(tmp_path).put("key", (3, 2), np.float32, np.zeros((2, 2)))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_small_is_refused_with_the_files_name(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"key\.npy") as caught:
        Cache(tmp_path).put("key", (2**50, 2), np.float32, iter(()))
    assert caught.value.errno == errno.ENOSPC


def test_a_disk_that_fills_up_is_reported_with_the_files_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("edgepress.cache.np.ascontiguousarray", full)
    with pytest.raises(OSError, match="No space") as caught:
        store(Cache(tmp_path), "key", np.zeros(3))
    assert "key" in str(caught.value.filename)
    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys, time
from pathlib import Path
import numpy as np
from edgepress.cache import Cache

def rows():
    yield np.zeros(1000)
    print("begun", flush=True)
    time.sleep(60)
    yield np.zeros(1000)

Cache(Path(sys.argv[1])).put("key", (2, 1000), np.float64, rows())
"""


def test_what_a_killed_process_left_is_swept_and_a_living_ones_is_not(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"begun\n"
    cache = Cache(tmp_path)
    store(cache, "other", np.zeros(3))
    assert len(list(tmp_path.glob(".*"))) == 1
    process.kill()
    process.wait()
    process.stdout.close()
    assert cache.get("key") is None
    store(cache, "another", np.zeros(3))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["another.npy", "other.npy"]


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("EDGEPRESS_CACHE", raising=False)
    monkeypatch.delenv("EDGEPRESS_CACHE_SIZE", raising=False)

    def place() -> tuple[Path, int | None]:
        cache = default_cache()
        assert cache
        return cache.folder.relative_to(tmp_path), cache.limit

    assert place() == (Path("home/.cache/edgepress"), 10**10)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert place() == (Path("xdg/edgepress"), 10**10)
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("EDGEPRESS_CACHE_SIZE", "2GB")
    assert place() == (Path("own"), 2 * 10**9)
    monkeypatch.setenv("EDGEPRESS_CACHE_SIZE", "0")
    assert default_cache() is None
    monkeypatch.setenv("EDGEPRESS_CACHE_SIZE", "many")
    with pytest.raises(InputError, match="'many' is not a size"):
        default_cache()


def test_a_place_that_cannot_be_made_is_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "file" / "cache"))
    assert default_cache() is None
