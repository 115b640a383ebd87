"""Preparation of launches: the driver jobs of a program, its uniforms and a launch shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from qpu.core.arguments import Addressed, within
from qpu.core.isa import Isa
from qpu.drivers.base import Completion, CsdJob, Job, QpuJob
from qpu.drivers.drm.csd import split_dispatch
from qpu.errors import UsageError, counted
from qpu.runtime.canary import raw
from qpu.runtime.pool import MemoryPool, Place
from qpu.runtime.uniforms import Uniforms, declared, own, place, stream_of, streams_of
from qpu.v3d.launch import Dispatch
from qpu.vc4.launch import Programs

if TYPE_CHECKING:
    from qpu.core.code import Code
    from qpu.drivers.base import Bo, DeviceInfo

__all__ = ["OBSERVERS", "JobObserver", "Shape", "prepare"]

Shape: TypeAlias = Dispatch | Programs
OBSERVERS: list[JobObserver] = []
"""Observers of all launches, such as a recorder."""


class JobObserver:
    """An observer of launches; by itself it does nothing."""

    def called(self, arguments: Mapping[str, Any]) -> None:
        """A kernel is about to be launched: its arguments by the names of its parameters."""

    def submitted(self, pool: MemoryPool, info: DeviceInfo, program: Code, job: Job) -> None:
        """A job is about to be submitted."""

    def launched(self, launch: Any) -> None:
        """The jobs that were submitted last are a `qpu.launch.Launch`."""

    def finished(self) -> None:
        """The job that was submitted last has ended well; only called for launches that are waited for at once."""


_Shape = TypeVar("_Shape", Dispatch, Programs)

_DISPATCH = Dispatch()
_PROGRAMS = Programs()


def prepare(
    pool: MemoryPool,
    info: DeviceInfo,
    program: Code,
    uniforms: Uniforms,
    shape: Shape | None,
    scratch: list[Bo],
    given: list[int],
) -> list[Job]:
    """The jobs of a launch, in order; its uniform streams lie in memory that is added to `scratch`. The numbers of
    their words are added to `given`, where they are known.

    Raises: UsageError for everything that can be refused, before memory is allocated.
    """
    uniforms = declared(getattr(program, "uniforms", None), uniforms)  # `upload` refuses what is not a program
    if info.isa is Isa.VC4:
        if not isinstance(shape, Programs):
            shape = _default(shape, info.isa, _PROGRAMS, "vc4.Programs")
        streams = streams_of(pool, uniforms, shape.streams)
        count = shape.count if shape.count is not None else len(streams)
        if len(streams) > 1 and count != len(streams):
            raise UsageError(
                f"count = {count}, but there are {counted(len(streams), 'row')} of uniforms", help="give one of the two"
            )
        within("programs (vc4.Programs(count), rows of uniforms)", count, 1, info.qpus)
        code = pool.upload(program)
        addresses = place(pool, streams, scratch)
        given += [len(row) // 4 for row in streams if isinstance(row, bytes)]
        entries = tuple((addresses[i % len(addresses)], code.address) for i in range(count))
        return [QpuJob(entries, pool.listed(code, *scratch))]
    if not isinstance(shape, Dispatch):
        shape = _default(shape, info.isa, _DISPATCH, "v3d.Dispatch")
    completion = None if shape.completion is None else _completion(*shape.completion, pool)
    stream = stream_of(pool, uniforms)
    code = pool.upload(program)
    if isinstance(stream, bytes):
        given.append(len(stream) // 4)
    job = CsdJob(
        code=code.address,
        uniforms=place(pool, [stream], scratch)[0],
        bos=pool.listed(code, *scratch),
        workgroups=shape.counts,
        workgroup_size=shape.workgroup_size,
        workgroups_per_supergroup=shape.workgroups_per_supergroup,
        max_supergroup_id=shape.max_supergroup_id,
        threads=shape.threads,
        single_segment=shape.single_segment,
        batches=shape.batches,
    )
    jobs: list[CsdJob] = [job] if shape.max_batches is None else split_dispatch(job, shape.max_batches)
    if completion is not None:
        completion.bo.view[completion.offset : completion.offset + 4] = bytes(4)
        jobs[-1] = replace(jobs[-1], completion=completion)
    return list[Job](jobs)


def _default(shape: object, isa: Isa, default: _Shape, name: str) -> _Shape:
    if shape is None:
        return default
    if isinstance(shape, Dispatch):
        raise UsageError(f"v3d.Dispatch is for V3D; this device is {isa.label}", help=f"pass a {name}")
    if isinstance(shape, Programs):
        raise UsageError(f"vc4.Programs is for VideoCore IV; this device is {isa.label}", help=f"pass a {name}")
    raise UsageError(f"shape = {shape!r} is a {type(shape).__name__}", help=f"give a {name}")


def _completion(word: Addressed, value: int, pool: MemoryPool) -> Completion:
    own(word, pool)
    assert isinstance(word, Place)
    bo, offset, size = word.extent
    if offset % 4 or offset + 4 > size:
        raise UsageError(f"completion word at byte {offset} of {size}", help="pass an aligned u32 inside the buffer")
    inner, start = raw(bo)
    return Completion(inner, offset + start, value)
