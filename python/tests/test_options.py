"""Options as keyword arguments."""

import pathlib
import subprocess
import sys

import pytest

import penstock
from penstock import _capi, _options

WRITE_TYPES = pathlib.Path(__file__).resolve().parents[1] / "tools" / "write_option_types.py"


@pytest.mark.skipif(not WRITE_TYPES.exists(), reason="tools/ is not beside the installed package")
def test_the_type_stub_is_that_of_the_option_table():
    assert subprocess.run([sys.executable, str(WRITE_TYPES), "--check"]).returncode == 0, "run python/tools/write_option_types.py"


def test_help_lists_every_option_with_its_default():
    for which, documented in ((_capi.LOADER_OPTIONS, penstock.Loader), (_capi.INDEX_OPTIONS, penstock.Manifest),
                              (_capi.RUNTIME_OPTIONS, penstock.Runtime)):
        options = _options.table(which)
        assert options
        for option in options:
            assert option.name in documented.__doc__ and option.help in documented.__doc__
    assert "batch_size: integer [256]" in penstock.Loader.__doc__


def test_an_unknown_option_names_the_nearest(ragged):
    with pytest.raises(ValueError, match="batch_size") as caught:
        penstock.Loader(ragged.root, batchsize=8)
    assert isinstance(caught.value, penstock.InvalidArgumentError) and isinstance(caught.value, penstock.PenstockError)
    assert caught.value.code == 3 and caught.value.code_name == "INVALID_ARGUMENT"


@pytest.mark.parametrize("value", ["many", 1.5, -3, "9" * 40, True, "8\0"])
def test_a_bad_value_is_refused_with_the_options_name(ragged, value):
    with pytest.raises(penstock.InvalidArgumentError, match="batch_size"):
        penstock.Loader(ragged.root, batch_size=value)


def test_a_value_of_no_kind_is_refused(ragged):
    with pytest.raises(penstock.InvalidArgumentError, match="dict"):
        penstock.Loader(ragged.root, batch_size={})


@pytest.mark.parametrize("value, text", [
    (True, b"true"), (False, b"false"), (7, b"7"), (2**63, b"9223372036854775808"), (0.25, b"0.25"), (1e-7, b"1e-07"), ("2 GiB", b"2 GiB"),
    (pathlib.Path("/a"), b"/a"), ("\udcff", b"\xff"),
])
def test_values_become_text(value, text):
    assert _options.to_text("name", value) == text


def test_numpys_numbers_become_text():
    numpy = pytest.importorskip("numpy")
    assert _options.to_text("name", numpy.int64(5)) == b"5"
    assert _options.to_text("name", numpy.float32(0.5)) == b"0.5"
    assert _options.to_text("name", numpy.bool_(True)) == b"true"


def test_none_leaves_the_default(ragged, open_loader):
    with pytest.raises(penstock.InvalidArgumentError, match="batch_size 256"):  # of 100 samples
        open_loader(ragged, batch_size=None)
    assert len(open_loader(ragged, batch_size=10)) == 10


@pytest.mark.parametrize("ids", ["abc", [1.5], [[1]], 7, [2**70]])
def test_ids_that_are_none_are_refused(ragged, ids):
    with pytest.raises(penstock.InvalidArgumentError, match="ids"):
        penstock.Loader(ragged.root, ids=ids)


def test_an_empty_list_of_ids_is_refused(ragged):
    with pytest.raises(penstock.InvalidArgumentError, match="empty"):
        penstock.Loader(ragged.root, ids=[])
