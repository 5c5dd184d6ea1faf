"""The ctypes signatures against include/penstock/c.h."""

import ctypes
import pathlib
import re

import pytest

from penstock import _capi, errors

HEADER = pathlib.Path(__file__).resolve().parents[2] / "include" / "penstock" / "c.h"
if not HEADER.exists():
    pytest.skip("the header is not beside the installed package", allow_module_level=True)
TEXT = re.sub(r"/\*.*?\*/", " ", HEADER.read_text(), flags=re.S)

SCALARS = {"int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64, "uint64_t": ctypes.c_uint64, "double": ctypes.c_double,
           "penstock_code": ctypes.c_int32}
HANDLES = "error options runtime manifest loader batch".split()


def prototypes():
    for result, name, arguments in re.findall(r"PENSTOCK_C_API\s+([\w\s*]+?)\s*\b(penstock_\w+)\(([^)]*)\)\s*;", TEXT):
        parameters = [] if arguments.strip() == "void" else [" ".join(argument.split()) for argument in arguments.split(",")]
        yield name, " ".join(result.split()), parameters


def ctype_of(parameter):
    """What _capi must say for a parameter of the header."""
    declared = re.sub(r"\s*\w+$", "", parameter) if not parameter.endswith("*") else parameter
    declared = declared.replace("const ", "").replace("struct ", "").replace(" *", "*").strip()
    if declared in SCALARS:
        return SCALARS[declared]
    if declared == "char*":
        return ctypes.c_char_p if parameter.startswith("const ") else ctypes.c_void_p
    if declared == "char**":
        return ctypes.POINTER(ctypes.c_char_p) if parameter.startswith("const ") else ctypes.POINTER(ctypes.c_void_p)
    if declared in ("penstock_batch_view*", "penstock_manifest_view*"):
        return ctypes.POINTER({"penstock_batch_view*": _capi.BatchView, "penstock_manifest_view*": _capi.ManifestView}[declared])
    if declared == "penstock_log_function":
        return _capi.LogFunction
    if declared[:-1] in SCALARS and declared.endswith("*"):
        return ctypes.POINTER(SCALARS[declared[:-1]])
    if declared.endswith("**"):
        return ctypes.POINTER(ctypes.c_void_p)
    assert declared in {f"penstock_{handle}*" for handle in HANDLES} | {"void*"}, parameter
    return ctypes.c_void_p


def test_every_function_of_the_header_is_declared_alike_or_left_out_with_a_reason():
    seen = set()
    for name, result, parameters in prototypes():
        seen.add(name)
        if name in _capi.NOT_USED:
            continue
        table = _capi.FUNCTIONS
        assert name in table, f"{name} is new in the header"
        restype, argtypes = table[name]
        expected = {"void": None, "const char *": ctypes.c_char_p}.get(result, SCALARS.get(result))
        assert restype is expected, name
        assert argtypes == [ctype_of(parameter) for parameter in parameters], name
    assert len(seen) > 50
    assert set(_capi.FUNCTIONS) <= seen
    assert set(_capi.NOT_USED) <= seen
    assert not set(_capi.NOT_USED) & set(_capi.FUNCTIONS)


@pytest.mark.parametrize("name, structure", [("penstock_batch_view", _capi.BatchView), ("penstock_manifest_view", _capi.ManifestView)])
def test_structs_have_the_fields_of_the_header(name, structure):
    body = re.search(r"typedef struct %s \{(.*?)\} %s;" % (name, name), TEXT, re.S).group(1)
    expected = []
    for declaration in filter(None, (part.strip() for part in body.split(";"))):
        kind, star, field = re.fullmatch(r"(?:const )?(\w+)\s*(\*?)\s*(\w+)", declaration).groups()
        expected.append((field, ctypes.c_void_p if star else SCALARS[kind]))
    assert structure._fields_ == expected


def constants(prefix):
    return {name: int(value) for name, value in re.findall(r"\b(PENSTOCK_%s\w*) = (\d+)" % prefix, TEXT)}


def test_constants_are_those_of_the_header():
    assert int(re.search(r"#define PENSTOCK_C_ABI_VERSION (\d+)", TEXT).group(1)) == _capi.ABI_VERSION
    for prefix in ("TENSOR_", "LOG_"):
        found = constants(prefix)
        assert found
        for name, value in found.items():
            assert getattr(_capi, name[len("PENSTOCK_"):]) == value, name
    for name in ("LOADER_OPTIONS", "INDEX_OPTIONS", "RUNTIME_OPTIONS"):
        assert getattr(_capi, name) == constants(name)[f"PENSTOCK_{name}"]


def test_every_code_has_an_exception_with_its_name():
    codes = re.search(r"enum \{\s*PENSTOCK_OK = 0(.*?)\}", TEXT, re.S).group(1)
    for name, code in re.findall(r"PENSTOCK_(\w+) = (\d+)", codes):
        if name == "END_OF_EPOCH":  # no error: next() returns None
            assert (_capi.END_OF_EPOCH, _capi.library.penstock_code_name(int(code))) == (int(code), name.encode())
            continue
        error = errors.error_of(int(code), "text")
        assert (error.code, error.code_name) == (int(code), name)
        assert str(error) == "text"
        assert _capi.library.penstock_code_name(int(code)).decode() == name


def test_a_code_that_is_not_known_keeps_its_number():
    error = errors.error_of(99, "text")
    assert isinstance(error, errors.UnknownError) and error.code == 99
