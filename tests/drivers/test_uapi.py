"""Tests of structures and request numbers against those that a compiler computes from Linux's headers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qpu.drivers.uapi import dma_buf, drm, mailbox, vcsm
from qpu.drivers.uapi.layout import parse_ioctls, parse_structs

ABI = Path(__file__).parent.parent / "vectors" / "abi"


def load(name: str) -> Any:
    return json.loads((ABI / name).read_text())


FILES = [
    ("drm_v3d.json", 8, load("drm_v3d.json"), (drm, dma_buf)),
    ("drm_v3d_32.json", 4, load("drm_v3d_32.json"), (drm, dma_buf)),
    ("vcsm.json/64", 8, load("vcsm.json")["abi_64"], (vcsm, dma_buf)),
    ("vcsm.json/32", 4, load("vcsm.json")["abi_32"], (vcsm, dma_buf)),
]


def structs() -> Iterator[Any]:
    for name, pointer, data, modules in FILES:
        for struct, want in data["structs"].items():
            yield pytest.param(struct, want, pointer, modules, id=f"{name}-{struct}")


def ioctls() -> Iterator[Any]:
    for name, pointer, data, modules in FILES:
        for ioctl, want in data["ioctls"].items():
            yield pytest.param(ioctl, want, pointer, modules, id=f"{name}-{ioctl}")


@pytest.mark.parametrize(("name", "want", "pointer", "modules"), list(structs()))
def test_struct(name: str, want: Any, pointer: int, modules: Any) -> None:
    (module,) = (m for m in modules if name in m.STRUCTS)
    layout = module.layout(name, pointer)
    assert (layout.size, layout.align) == (want["size"], want["align"])
    got = {f.name: {"offset": f.offset, "size": f.size} for f in layout.fields.values()}
    assert got == {n: {"offset": f["offset"], "size": f["size"]} for n, f in want["fields"].items()}
    for n, f in want["fields"].items():
        if "element_size" in f:
            assert layout.fields[n].element_size == f["element_size"]


@pytest.mark.parametrize(("name", "want", "pointer", "modules"), list(ioctls()))
def test_ioctl(name: str, want: Any, pointer: int, modules: Any) -> None:
    (module,) = (m for m in modules if name in m.IOCTLS)
    row = module.IOCTLS[name]
    assert row.request(pointer) == want["request"] == int(want["hex"], 16)
    assert (row.type, row.nr) == (want["type"], want["nr"])


def test_no_row_without_a_vector() -> None:
    known = {s for _, _, data, _ in FILES for s in data["structs"]}
    assert set(drm.STRUCTS) | set(vcsm.STRUCTS) | set(dma_buf.STRUCTS) == known
    calls = {s for _, _, data, _ in FILES for s in data["ioctls"]}
    assert set(drm.IOCTLS) | set(vcsm.IOCTLS) | set(dma_buf.IOCTLS) == calls


CONSTANTS: dict[str, Any] = {
    "DRM_COMMAND_BASE": drm.COMMAND_BASE,
    "DRM_V3D_SUBMIT_CL_FLUSH_CACHE": drm.SUBMIT_CL_FLUSH_CACHE,
    "DRM_V3D_SUBMIT_EXTENSION": drm.SUBMIT_EXTENSION,
    "DRM_V3D_MAX_PERF_COUNTERS": drm.MAX_PERFMON_COUNTERS,
    "V3D_PERFCNT_NUM": drm.PERFCNT_NUM,
    "DRM_CAP_SYNCOBJ": drm.CAP_SYNCOBJ,
    "DRM_CAP_SYNCOBJ_TIMELINE": drm.CAP_SYNCOBJ_TIMELINE,
    "DRM_CAP_PRIME": drm.CAP_PRIME,
    "DRM_SYNCOBJ_CREATE_SIGNALED": drm.SYNCOBJ_CREATE_SIGNALED,
    "DRM_SYNCOBJ_WAIT_FLAGS_WAIT_ALL": drm.SYNCOBJ_WAIT_ALL,
    "DRM_SYNCOBJ_WAIT_FLAGS_WAIT_FOR_SUBMIT": drm.SYNCOBJ_WAIT_FOR_SUBMIT,
    "DRM_SYNCOBJ_WAIT_FLAGS_WAIT_AVAILABLE": drm.SYNCOBJ_WAIT_AVAILABLE,
    "DRM_V3D_PERFMON_CLEAR_GLOBAL": drm.PERFMON_CLEAR_GLOBAL,
    **{f"DMA_BUF_SYNC_{n}": getattr(dma_buf, f"SYNC_{n}") for n in ("READ", "WRITE", "RW", "START", "END")},
    **{f"DRM_V3D_PARAM_{p.name}": p.value for p in drm.Param},
    **{f"DRM_V3D_EXT_ID_{e.name}": e.value for e in drm.ExtensionId},
    **{f"V3D_{q.name}": q.value for q in drm.Queue},
}


def test_drm_constants() -> None:
    for file in ("drm_v3d.json", "drm_v3d_32.json"):
        assert load(file)["constants"] == CONSTANTS


def test_vcsm_constants() -> None:
    ours = {
        "VMCS_SM_RESOURCE_NAME": vcsm.RESOURCE_NAME,
        "VC_SM_CMA_RESOURCE_NAME": vcsm.RESOURCE_NAME,
        **{f"{p}_CACHE_{c.name}": c.value for c in vcsm.Cache for p in ("VMCS_SM", "VC_SM_CMA")},
        **{f"VC_SM_CACHE_OP_{c.name}": c.value for c in vcsm.CacheOp},
    }
    want = load("vcsm.json")["abi_64"]["constants"]
    assert ours == {n: want[n] for n in ours}


def test_mailbox() -> None:
    want = load("vcsm.json")["mailbox"]
    for size, key in ((4, "32"), (8, "64")):
        assert mailbox.PROPERTY.request(size) == want["ioctl"][key]["request"]
    assert mailbox.layout("execute_qpu_entry", 4).size == want["execute_qpu_control_block"]["entry_size"]
    assert want["execute_qpu_control_block"]["max_programs"] == mailbox.MAX_PROGRAMS
    code = want["message"]["header"][1]
    assert code["request"] == mailbox.CODE_REQUEST
    assert code["success"] == mailbox.CODE_SUCCESS
    assert code["error"] == mailbox.CODE_PARSE_ERROR


# -- machinery


def test_pack_and_unpack() -> None:
    layout = drm.layout("drm_v3d_submit_csd", 8)
    data = layout.pack(cfg=(1, 2, 3), bo_handles=0x1_0000_0002, bo_handle_count=5)
    assert isinstance(data, bytearray)
    assert len(data) == 88
    assert layout.numbers(data, "cfg") == (1, 2, 3, 0, 0, 0, 0)
    assert layout.number(data, "bo_handles") == 0x1_0000_0002
    assert data[48:56] == bytes.fromhex("0200000001000000")
    assert layout.unpack(data)["bo_handle_count"] == 5


def test_short_data_reads_as_zero() -> None:
    layout = drm.layout("drm_v3d_submit_csd", 8)
    data = layout.pack(extensions=1 << 60, perfmon_id=7)[:75]
    assert layout.number(data, "perfmon_id") == 7
    assert layout.number(data, "extensions") == 0
    assert layout.number(data, "flags") == 0


def test_names_and_embedded_structures_are_bytes() -> None:
    alloc = vcsm.layout("vmcs_sm_ioctl_alloc", 4)
    assert alloc.get(alloc.pack(name=b"hello"), "name") == b"hello" + bytes(27)
    base = drm.layout("drm_v3d_extension", 8).pack(id=drm.ExtensionId.MULTI_SYNC, next=3)
    sync = drm.layout("drm_v3d_multi_sync", 8)
    assert sync.get(sync.pack(base=bytes(base)), "base") == base


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 1 << 32}, "does not fit"),
        ({"size": -1}, "does not fit"),
        ({"size": b"1234"}, "takes numbers"),
        ({"size": (1, 2)}, "is a number"),
    ],
)
def test_nothing_is_masked(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        drm.layout("drm_v3d_create_bo", 8).pack(**values)


def test_wrong_use_is_refused() -> None:
    create = drm.layout("drm_v3d_perfmon_create", 8)
    with pytest.raises(ValueError, match="has 32 elements, got 33"):
        create.pack(counters=tuple(range(33)))
    with pytest.raises(KeyError, match="drm_v3d_perfmon_create has no field 'count'"):
        create.pack(count=1)
    with pytest.raises(ValueError, match="holds 32 bytes, got 33"):
        vcsm.layout("vmcs_sm_ioctl_alloc", 8).pack(name=bytes(33))
    with pytest.raises(ValueError, match="pointer size 2"):
        drm.layout("drm_version", 2)
    with pytest.raises(TypeError, match="is not a number"):
        create.number(create.pack(), "counters")
    with pytest.raises(TypeError, match="is not an array"):
        create.numbers(create.pack(), "id")


def test_bad_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown type 'u128'"):
        parse_structs("a: u128 b")
    with pytest.raises(ValueError, match="declared twice"):
        parse_structs("a: u8 b\na: u8 c")
    with pytest.raises(ValueError, match="unknown structure 'q'"):
        parse_ioctls("X R d 0 q", parse_structs("a: u8 b"))
