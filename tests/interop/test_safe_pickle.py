from __future__ import annotations

import argparse
import collections
import datetime as dt
import enum
import operator
import os
import pickle
import sys
import typing
import zipfile
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from interop_models import assert_read_or_refused, damaged

from audiossl.interop.safe_pickle import UnsafePickleError, load_plain


class Hostile:
    """Runs what it is made of when an ordinary unpickler reads it."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def saved(tmp_path, content, **options):
    torch.save(content, tmp_path / "x.pt", **options)
    return tmp_path / "x.pt"


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (os.system, ("touch {}/ran",)),
        (eval, ("open('{}/ran', 'w')",)),
        (getattr, ("x", "upper")),
        (torch.load, ("{}/other.pt",)),
        (__import__, ("antigravity",)),
        (pickle.loads, (b"N.",)),
        (SimpleNamespace, ()),
    ],
)
def test_hostile_pickles_are_refused_and_never_run(tmp_path, zipped, function, arguments):
    words = [word.format(tmp_path) if isinstance(word, str) else word for word in arguments]
    path = saved(tmp_path, {"model": Hostile(function, *words)}, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        UnsafePickleError, match=f"names .*{function.__name__}, which is no part of a checkpoint"
    ) as error:
        load_plain(path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_attributes_of_what_a_pickle_may_use_cannot_be_changed(tmp_path):
    class Sneaky:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (), {"__kwdefaults__": {"evil": 1}}

    before = dict(vars(torch._utils._rebuild_tensor_v2))
    with pytest.raises(ValueError, match="cannot be read"):
        load_plain(saved(tmp_path, [Sneaky()]))
    assert vars(torch._utils._rebuild_tensor_v2) == before
    assert torch._utils._rebuild_tensor_v2.__kwdefaults__ is None


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_containers_and_scalars_come_through(tmp_path, zipped):
    content = {
        "weights": collections.OrderedDict(a=torch.arange(6.0).view(2, 3), b=torch.ones(2, dtype=torch.bfloat16)),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "scalar": np.float64(0.25),
        "count": np.int64(3),
        "set": {1, 2},
        "default": collections.defaultdict(list, {"k": [1]}),
        "bytes": b"\x00\xff",
        "shape": torch.Size([2, 3]),
        "dtype": torch.float16,
    }
    found = load_plain(saved(tmp_path, content, _use_new_zipfile_serialization=zipped, pickle_protocol=2))
    assert torch.equal(found["weights"]["a"], content["weights"]["a"])
    assert found["weights"]["b"].dtype == torch.bfloat16
    assert torch.equal(found["parameter"], torch.ones(2))
    assert (found["scalar"], found["count"]) == (0.25, 3)
    assert type(found["scalar"]) is float
    assert found["set"] == [1, 2]
    assert found["default"] == {"k": [1]}
    assert found["bytes"] == b"\x00\xff"
    assert tuple(found["shape"]) == (2, 3)
    assert found["dtype"] == torch.float16


def fake_module(monkeypatch, name, **classes):
    module = ModuleType(name)
    for key, cls in classes.items():
        cls.__module__, cls.__qualname__, cls.__name__ = name, key, key
        setattr(module, key, cls)
    monkeypatch.setitem(sys.modules, name, module)


def test_configurations_of_absent_packages_become_plain(tmp_path, monkeypatch):
    class DictConfig:
        pass

    class AnyNode:
        def __init__(self, value, parent):
            self._val, self._parent = value, parent

    class Choice(enum.Enum):
        slow = "slow"

    class Dictionary:
        def __init__(self):
            self.symbols = ["<s>", "a"]

    with monkeypatch.context() as patch:
        fake_module(patch, "omegaconf", DictConfig=DictConfig, AnyNode=AnyNode)
        fake_module(patch, "fairseq", Choice=Choice, Dictionary=Dictionary)
        config = DictConfig()
        config._content = {"lr": AnyNode(0.5, config), "kind": AnyNode(Choice.slow, config)}
        config._metadata = {"key_type": str, "parent": config}
        content = {"cfg": config, "args": argparse.Namespace(arch="wav2vec2"), "task": {"dictionary": Dictionary()}}
        path = saved(tmp_path, content)
    assert "fairseq" not in sys.modules
    assert load_plain(path) == {
        "cfg": {"lr": 0.5, "kind": "slow"},
        "args": {"arch": "wav2vec2"},
        "task": {"dictionary": {"symbols": ["<s>", "a"]}},
    }


def test_members_of_enumerations_as_some_pythons_write_them(tmp_path, monkeypatch):
    class Choice:
        pass

    class Member:
        def __reduce__(self):
            return getattr, (Choice, "slow")

    Choice.slow = Member()
    with monkeypatch.context() as patch:
        fake_module(patch, "fairseq", Choice=Choice)
        path = saved(tmp_path, {"kind": Choice.slow})
    assert load_plain(path) == {"kind": "slow"}


def test_programs_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/constants.pkl", b"")
    with pytest.raises(UnsafePickleError, match="TorchScript"):
        load_plain(tmp_path / "x.pt")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02."])
def test_other_files_are_one_line(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.pt: cannot be read as a checkpoint") as error:
        load_plain(tmp_path / "x.pt")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files_are_one_line(tmp_path, zipped):
    content = {"model": {f"layer.{i}": torch.randn(4, 3) for i in range(5)}, "cfg": {"lr": 0.5, "names": ["a"] * 5}}
    path = saved(tmp_path, content, _use_new_zipfile_serialization=zipped)
    refused = [assert_read_or_refused(lambda: load_plain(path), path) for _ in damaged(path, flips=60)]
    assert all(refused[:4])
    assert sum(refused) > 10


def test_deeply_nested_files_are_one_line(tmp_path):
    with (tmp_path / "x.pt").open("wb") as file:  # lists in lists, which cost the unpickler no depth
        for value in (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {}):
            pickle.dump(value, file, protocol=2)
        file.write(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")
        pickle.dump([], file, protocol=2)
    with pytest.raises(ValueError, match=r"x\.pt: cannot be read as a checkpoint .*recursion"):
        load_plain(tmp_path / "x.pt")


def test_lists_of_the_same_list_cost_no_more_than_their_bytes(tmp_path):
    laughs = ["ha"]
    for _ in range(60):
        laughs = [laughs, laughs]  # 2^60 words, if each were looked at
    torch.save({"laughs": laughs}, tmp_path / "a.pt")
    found = load_plain(tmp_path / "a.pt")["laughs"]
    for _ in range(60):
        assert found[0] is found[1]
        found = found[0]
    assert found == ["ha"]


def test_harmless_objects_are_read_and_do_nothing(tmp_path):
    tagged, parameter = torch.arange(3.0), torch.nn.Parameter(torch.ones(2))
    tagged.tag = parameter.tag = "an attribute"
    content = {
        "array": np.arange(3),
        "bytes": bytearray(b"ab"),
        "slice": slice(1, 2),
        "counts": collections.Counter(a=2),
        "date": dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
        "tagged": tagged,
        "parameter": parameter,
    }
    found = load_plain(saved(tmp_path, content))
    assert found.keys() == content.keys()
    assert found["slice"] == [1, 2, None]
    assert found["counts"] == {"a": 2}
    assert not isinstance(found["array"], np.ndarray)
    assert torch.equal(found["parameter"], torch.ones(2))
    assert not hasattr(found["parameter"], "tag")
    assert torch.equal(found["tagged"], torch.arange(3.0))


def test_what_rebuilds_a_tensor_goes_by_the_same_rules(tmp_path):
    class Sneaky:
        def __reduce__(self):
            return torch._tensor._rebuild_from_type_v2, (os.system, torch.Tensor, (f"touch {tmp_path}/ran",), {})

    with pytest.raises(UnsafePickleError, match=r"names .*system"):
        load_plain(saved(tmp_path, [Sneaky()]))
    assert not (tmp_path / "ran").exists()


def test_types_of_entries_are_read_and_nothing_is_called(tmp_path):
    content = {"types": [Hostile(operator.getitem, list, str), typing.List[str], typing.Optional[str]]}  # noqa: UP006, UP045 - as omegaconf stores them
    found = load_plain(saved(tmp_path, {**content, "looked up": Hostile(operator.getitem, {"key": "value"}, "key")}))
    assert found["types"][0] == ["list", "str"]
    assert found["looked up"] == [{"key": "value"}, "key"]
    found = load_plain(saved(tmp_path, Hostile(type, "Made", (), {"__doc__": "here"})))
    assert found == ["Made", (), {"__doc__": "here"}]
