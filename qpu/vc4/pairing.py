"""The pairing rules of VideoCore IV: read ports, small immediate, rotation, packs, write swap and flags.

`combine` makes one instruction of an ADD half, a MUL half and a signal, `fits` tells whether that is possible, and
`clashes` lists what prevents it. `results` does the same for the two destinations of load immediates, semaphores and
branches; `halves` splits an instruction into its halves. Builder, text assembler and schedulers use these functions
and have no pairing rules of their own. Source of the rules: docs/hardware/vc4.md 2.1, 3.5, 5 and 8.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from qpu.core.isa import Unit
from qpu.errors import Diagnostic
from qpu.vc4 import regs
from qpu.vc4.instr import Alu, Claims, Dst, Half, Port, Src, claims
from qpu.vc4.ops import ADD_OPS, MUL_OPS, float_operands
from qpu.vc4.regs import FILE_FREE_READS, MUX_A, MUX_B, NOP, SIG_ALU, SIG_SMALL_IMM, File

__all__ = [
    "IDLE_ADD", "IDLE_MUL", "RULES", "Advice", "Clash", "Results", "clashes", "combine", "diagnostic", "fits", "halves",
    "results", "source_name",
]  # fmt: skip


class Clash(NamedTuple):
    """Why halves do not fit. slots: the operands concerned, in order: ``add.d``, ``add.a``, ``mul.rotate`` ..."""

    rule: str
    message: str
    slots: tuple[str, ...] = ()


class Advice(NamedTuple):
    """What is allowed in an instruction, and what to write instead."""

    allowed: str
    help: str


RULES: Final[dict[str, Advice]] = {
    "port-a": Advice(
        "one register of file A and one of file B an instruction; r0..r5 take no port",
        "copy one of them to an accumulator or to register file B first",
    ),
    "port-b": Advice(
        "one register of file B, or one small immediate or rotation, an instruction; r0..r5 take no port",
        "copy one of them to an accumulator or to register file A first",
    ),
    "small-imm": Advice(
        "one small immediate or rotation, which all operands may use", "load one of them into a register with ldi"
    ),
    "write-swap": Advice(
        "one result in register file A and one in file B, or in accumulators",
        "write one result to an accumulator or to the other file",
    ),
    "unpack": Advice("one unpack mode an instruction", "copy the value to another register first"),
    "unpack-type": Advice(
        "two float operations, or two integer operations", "unpack into another register first, or use two instructions"
    ),
    "pack": Advice("one packed result an instruction", "write two instructions"),
    "pm": Advice("packs and unpacks of register file A, or r4 unpacks and MUL packs", "write two instructions"),
    "signal": Advice(
        "a small immediate or rotation without a signal",
        "use a register instead of the constant, or put the signal on a nop",
    ),
    "flags": Advice(
        "flags from the ADD operation, or from a MUL operation alone", "set the flags in an instruction of its own"
    ),
    "dual-issue": Advice("one ADD operation and one MUL operation an instruction", "write two instructions"),
}  # fmt: skip
"""The rules of `clashes`, with what is allowed and what to do."""


def diagnostic(clash: Clash) -> Diagnostic:
    """A clash as a diagnostic without location."""
    advice = RULES[clash.rule]
    return Diagnostic(clash.rule, clash.message, allowed=advice.allowed, help=advice.help)


def source_name(s: Src) -> str:
    """The name of a source in messages."""
    if s.port is Port.IMM:
        return f"the small immediate {regs.small_imm_text(s.n)}"
    if s.port is Port.ACC:
        return regs.ACCUMULATORS[s.n]
    return regs.read_name(File.B if s.port is Port.B else File.A, s.n)


IDLE_ADD: Final = Half(Unit.ADD)
IDLE_MUL: Final = Half(Unit.MUL)
_NOTHING: Final = claims(())
_new: Final = tuple.__new__  # faster than calling the class; needs all fields


# -- read ports and the small immediate


def _rotation_code(imm: int, rotate: int, whole: bool) -> int | None:
    """The code that is both the constant `imm` and the rotation `rotate`, or None.

    Codes 48..63 are rotations and, at the same time, the constants -16..-1. Rotations within quads count modulo 4.
    """
    code = imm + 32 if imm < 48 else imm
    if imm < 16 or code > 63:
        return None
    if code == rotate:
        return code
    return code if not whole and 48 not in (code, rotate) and (code - rotate) % 4 == 0 else None


def _ports(one: Claims | None, two: Claims | None, rotate: int, whole: bool) -> tuple[int, int, bool] | None:
    """(raddr_a, raddr_b, whether raddr_b is a constant) for two claims and a rotation, -1 where nothing is read.

    An address that both files have gets port A where that is free. None: no assignment exists.
    """
    if one is None or two is None:
        return None
    a, b, imm, either = one
    a2, b2, imm2, either2 = two
    if a2 >= 0:
        if a >= 0 and a != a2:
            return None
        a = a2
    if b2 >= 0:
        if b >= 0 and b != b2:
            return None
        b = b2
    if imm2 >= 0:
        if imm >= 0 and imm != imm2:
            return None
        imm = imm2
    if rotate:
        code = rotate if imm < 0 else _rotation_code(imm, rotate, whole)
        if code is None:
            return None
        imm = code
    if imm >= 0:
        if b >= 0:
            return None
        b = imm
    if not either and not either2:
        return a, b, imm >= 0
    either = either + tuple(n for n in either2 if n not in either)
    found = _place_either(either, a, b, imm < 0)
    if found is None and b in either and imm < 0:
        found = _place_either([n for n in either if n != b], a, b, True)
    return None if found is None else (*found, imm >= 0)


def _place_either(addresses: Sequence[int], a: int, b: int, b_reads: bool) -> tuple[int, int] | None:
    for n in addresses:
        if a in (-1, n):
            a = n
        elif b_reads and b in (-1, n):
            b = n
        else:
            return None
    return a, b


def _slots(half: Half) -> Iterator[tuple[str, Src]]:
    name = half.unit.value
    for role, s in (("a", half.a), ("b", half.b)):
        if s is not None and s.port:
            yield f"{name}.{role}", s
    for s in half.reads:
        if s.port:
            yield f"{name}.read", s


def _port_clash(add: Half, mul: Half) -> Clash:
    """The clash about a read port: the first source that does not fit beside those before it, and the operand
    that occupies the port."""
    wanted = [*_slots(add), *_slots(mul)]
    placed: list[Src] = []
    for slot, s in wanted:
        if _ports(claims([*placed, s]), _NOTHING, 0, False) is None:
            return _no_port(s, slot, wanted[: len(placed)])
        placed.append(s)
    name = "the rotation by r5" if mul.rotate == 48 else f"the rotation by {mul.rotate - 48}"
    for slot, s in wanted:
        if s.port is Port.IMM and _ports(claims([s]), _NOTHING, mul.rotate, mul.whole) is None:
            both = f"{source_name(s)} and {name} both need the one small immediate field"
            return Clash("small-imm", both, (slot, "mul.rotate"))
    holder = next(((slot, s) for slot, s in wanted if s.port is Port.B), None) or wanted[-1]
    message = f"{name} takes the read port of register file B, which {source_name(holder[1])} needs"
    return Clash("port-b", message, (holder[0], "mul.rotate"))


def _no_port(s: Src, slot: str, before: Sequence[tuple[str, Src]]) -> Clash:
    def holder(*ports: Port) -> tuple[str, Src] | None:
        return next(((at, o) for port in ports for at, o in before if o.port is port and o != s), None)

    if s.port is Port.IMM:
        other = holder(Port.IMM)
        if other is not None:
            both = f"{source_name(other[1])} and {source_name(s)[4:]}"
            return Clash("small-imm", f"{both} both need the one small immediate field", (other[0], slot))
        other = holder(Port.B, Port.ANY)
        assert other is not None
        message = f"{source_name(s)} takes the read port of register file B, which {source_name(other[1])} needs"
        return Clash("port-b", message, (other[0], slot))
    if s.port is Port.B:
        other = holder(Port.B)
        if other is None and (other := holder(Port.IMM)) is not None:
            message = f"{source_name(other[1])} takes the read port of register file B, which {source_name(s)} needs"
            return Clash("port-b", message, (other[0], slot))
        other = other or holder(Port.ANY)
        file, rule = "B", "port-b"
    else:
        other = holder(Port.A) or holder(Port.ANY)
        file, rule = "A", "port-a"
    assert other is not None
    message = f"{source_name(other[1])} and {source_name(s)} both need the one read port of register file {file}"
    return Clash(rule, message, (other[0], slot))


# -- packs


_SAME_AS_INTEGER = 3  # the unpack mode (8dr) with the same result for floats and integers


def _unpack_clash(add: Half, mul: Half) -> Clash | None:
    for pm, name in ((0, "register file A"), (1, "r4")):
        modes = add.unpacks[pm] | mul.unpacks[pm]
        if len(modes) < 2:
            continue
        slots = [slot for slot, s in _unpacked_slots(add, mul) if (s.port is Port.ACC) == bool(pm)]
        for slot, s in _unpacked_slots(add, mul):
            if slot in slots and not pm:
                name = source_name(s)
        if 0 not in modes:
            message = f"{name} is read with two unpack modes; there is one unpack field"
        else:
            message = f"{name} is read unpacked and as it is; the unpack would apply to the other operand too"
        return Clash("unpack", message, tuple(slots[:1] + slots[-1:]))
    (mode,) = add.unpacks[0] & mul.unpacks[0] or (0,)
    if mode not in (0, _SAME_AS_INTEGER):
        ops = (ADD_OPS[add.op], MUL_OPS[mul.op])
        if ops[0] is not None and ops[1] is not None and float_operands(ops[0]) != float_operands(ops[1]):
            which = ops[0] if float_operands(ops[0]) else ops[1]
            return Clash(
                "unpack-type",
                f"{which.name} makes the unpack deliver floats to the other operation too, which takes integers",
                ("add.a", "mul.a"),
            )
    return None


def _unpacked_slots(add: Half, mul: Half) -> list[tuple[str, Src]]:
    found: list[tuple[str, Src]] = []
    for half in (add, mul):
        for role, s in (("a", half.a), ("b", half.b)):
            if s is not None and ((s.port is Port.A and s.n < 32) or (s.port is Port.ACC and s.n == 4)):
                found.append((f"{half.unit.value}.{role}", s))
    return found


def _packs_file_a(half: Half) -> bool:
    """True when the half writes ra0..ra31, where a pack with pm = 0 applies."""
    return half.dst.file is File.A and half.dst.n < 32


def _pack_clashes(add: Half, mul: Half) -> Iterator[Clash]:
    found = [(half, half.packs) for half in (add, mul) if half.packs is not None]
    wants = [(pm, "packs", f"{half.unit.value}.d") for half, (pm, _) in found]
    for half in (add, mul):
        for pm in (0, 1):
            if half.unpacks[pm] - {0}:
                slot = next(
                    (at for at, s in _unpacked_slots(half, IDLE_MUL) if s.unpack and (s.port is Port.ACC) == bool(pm)),
                    f"{half.unit.value}.d",
                )
                wants.append((pm, "unpacks", slot))
    if len({pm for pm, _, _ in wants}) > 1:
        first, last = wants[0][2], next(slot for pm, _, slot in wants if pm != wants[0][0])
        message = "register file A packing or unpacking (pm = 0) excludes r4 unpacking and MUL packing (pm = 1)"
        yield Clash("pm", message, (first, last))
        return
    if len(found) == 2:
        yield Clash("pack", "both halves pack; an instruction packs one result", ("add.d", "mul.d"))
    elif found:
        half, (pm, _) = found[0]
        other = mul if half is add else add
        if pm and half is add:
            yield Clash("pack", _MUL_PACK.format("an ADD operation"), ("add.d",))
        elif not pm and not _packs_file_a(half) and _packs_file_a(other):
            name = regs.write_name(File.A, other.dst.n)
            message = f"the pack would apply to {name}, the result of the other operation"
            yield Clash("pack", message, (f"{half.unit.value}.d", f"{other.unit.value}.d"))


# -- the two results


class Results(NamedTuple):
    """Fields of an instruction that depend on its two destinations."""

    ws: int
    pm: int
    pack: int


def results(add: Dst, mul: Dst) -> Results | Clash:
    """The write swap and pack fields for the destinations of both ALUs, or why they exclude each other."""
    if add.file is not None and add.file is mul.file:
        return Clash("write-swap", _SAME_FILE, ("add.d", "mul.d"))
    if add.pack and add.pm:
        return Clash("pack", _MUL_PACK.format("the ADD side"), ("add.d",))
    if add.pack and mul.pack:
        return Clash("pack", "both results are packed; an instruction packs one result", ("add.d", "mul.d"))
    packed = add if add.pack else mul
    ws = int(add.file) if add.file is not None else 0 if mul.file is None else 1 - int(mul.file)
    return Results(ws, packed.pm if packed.pack else 0, packed.pack)


_MUL_PACK = "the pack mode is one of MUL results; this is the result of {}"
_SAME_FILE = "both results go to the same register file; one instruction writes each file once"


# -- the whole instruction


def clashes(add: Half, mul: Half, sig: int = SIG_ALU, *, strict: bool = True) -> Sequence[Clash]:
    """All reasons why an ADD half, a MUL half and a signal are not one instruction; empty when they fit.

    strict: also refuse what can be encoded but changes the meaning of an operand (rule ``unpack-type``).
    """
    return _clashes(add, mul, sig, _ports(add.claims, mul.claims, mul.rotate, mul.whole), strict)


def _clashes(add: Half, mul: Half, sig: int, ports: object, strict: bool) -> Sequence[Clash]:
    found: list[Clash] = []
    if add.unit is not Unit.ADD or mul.unit is not Unit.MUL:
        message = f"a half of the {add.unit} ALU and one of the {mul.unit} ALU do not make a pair"
        return [Clash("dual-issue", message, ("add.d", "mul.d"))]
    if ports is None:
        found.append(_port_clash(add, mul))
    if sig != SIG_ALU and (add.imm or mul.imm):
        message = "a small immediate or rotation takes the one signal field, so no signal fits"
        found.append(Clash("signal", message))
    if add.ws >= 0 and mul.ws >= 0 and add.ws != mul.ws:
        found.append(Clash("write-swap", _SAME_FILE, ("add.d", "mul.d")))
    if add.modes or mul.modes:
        clash = _unpack_clash(add, mul)
        if clash is not None and (strict or clash.rule != "unpack-type"):
            found.append(clash)
        found += _pack_clashes(add, mul)
    if mul.push and add.op:
        message = "flags come from the ADD operation; the MUL operation cannot set them beside it"
        found.append(Clash("flags", message, ("add.d", "mul.d")))
    return found


def fits(add: Half, mul: Half, sig: int = SIG_ALU) -> bool:
    """True when the two halves and the signal make one instruction: `clashes` finds nothing."""
    if (sig != SIG_ALU and (add.imm or mul.imm)) or (mul.push and add.op):
        return False
    if add.ws >= 0 and mul.ws >= 0 and add.ws != mul.ws:
        return False
    ports = _ports(add.claims, mul.claims, mul.rotate, mul.whole)
    if ports is None:
        return False
    if not (add.modes or mul.modes) and add.unit is Unit.ADD and mul.unit is Unit.MUL:
        return True
    return not _clashes(add, mul, sig, ports, True)


def combine(add: Half | None, mul: Half | None = None, sig: int = SIG_ALU, *, strict: bool = True) -> Alu | Diagnostic:
    """One instruction of two halves (None: nop) and a signal, or a diagnostic with the first of their `clashes`.

    Inputs that both files have (uniform, varying, VPM, mutex) use port A unless another source needs it. A rotation
    also provides the constant of its code. The write swap follows from the destinations.
    """
    add, mul = add or IDLE_ADD, mul or IDLE_MUL
    ports = _ports(add.claims, mul.claims, mul.rotate, mul.whole)
    found = _clashes(add, mul, sig, ports, strict)
    if found or ports is None:
        return diagnostic(found[0])
    raddr_a, raddr_b, imm = ports
    pm = pack = unpack = 0
    if add.modes or mul.modes:
        modes = [(pm, mode) for half in (add, mul) for pm in (0, 1) for mode in half.unpacks[pm] if mode]
        if modes:
            pm, unpack = modes[0]
        packs = add.packs or mul.packs
        if packs is not None:
            pm, pack = packs
    add_a, add_b = _muxes(add, raddr_a) if add.either else add.muxes
    mul_a, mul_b = _muxes(mul, raddr_a) if mul.either else mul.muxes
    return _new(Alu, (
        SIG_SMALL_IMM if imm else sig,
        unpack,
        pm,
        pack,
        1 if mul.push and add == IDLE_ADD else add.cond,
        mul.cond,
        1 if add.push or mul.push else 0,
        add.ws if add.ws >= 0 else max(mul.ws, 0),
        add.dst.n,
        mul.dst.n,
        mul.op,
        add.op,
        raddr_a if raddr_a >= 0 else NOP,
        raddr_b if raddr_b >= 0 else NOP,
        add_a,
        add_b,
        mul_a,
        mul_b,
    ))  # fmt: skip


def _muxes(half: Half, raddr_a: int) -> tuple[int, int]:
    """Operand muxes, with the assigned port for an input that both files have."""
    first, second = (
        MUX_B if s is not None and s.port is Port.ANY and s.n != raddr_a else mux
        for s, mux in zip((half.a, half.b or half.a), half.muxes, strict=True)
    )
    return first, second


# -- splitting an instruction


def halves(i: Alu) -> tuple[Half, Half]:
    """The two halves of an instruction. Inputs that are read but not used are `reads` of the ADD half."""
    imm = i.sig == SIG_SMALL_IMM
    rotates = imm and i.raddr_b >= 48 and bool(i.op_mul) and (i.mul_a, i.mul_b) != (MUX_B, MUX_B)
    code = i.raddr_b - 32 if i.raddr_b >= 48 else i.raddr_b
    unpack_a, unpack_r4 = (0, i.unpack) if i.pm else (i.unpack, 0)
    free = FILE_FREE_READS - {NOP}
    port_a = Src(Port.ANY if i.raddr_a in free else Port.A, i.raddr_a, unpack_a if i.raddr_a < 32 else 0)
    port_b = Src(Port.IMM, code) if imm else Src(Port.ANY if i.raddr_b in free else Port.B, i.raddr_b)

    def source(mux: int) -> Src:
        if mux == MUX_A:
            return port_a
        return port_b if mux == MUX_B else Src(Port.ACC, mux, unpack_r4 if mux == 4 else 0)

    add_op = ADD_OPS[i.op_add]
    unary = add_op is not None and add_op.arity == 1
    a = source(i.add_a) if i.op_add else None
    b = source(i.add_b) if i.op_add and not unary else None
    c, d = (source(i.mul_a), source(i.mul_b)) if i.op_mul else (None, None)
    used = (a, b, c, d)
    reads: list[Src] = []
    if i.raddr_a != NOP and port_a not in used:
        reads.append(port_a)
    if (i.raddr_b != NOP or imm) and port_b not in (*used, *reads) and not rotates:
        reads.append(port_b)
    sides = (File.B, File.A) if i.ws else (File.A, File.B)
    packed = 1 if i.pm else i.ws  # the side whose result is packed
    ends: list[Dst] = []
    for side, (n, file) in enumerate(zip((i.waddr_add, i.waddr_mul), sides, strict=True)):
        applies = i.pack and side == packed and (i.pm or n < 32)
        ends.append(Dst(n, None if regs.file_free_write(n) else file, i.pack if applies else 0, i.pm if applies else 0))
    pack = (i.pm, i.pack) if i.pack and not any(e.pack for e in ends) else None
    carried = any(s is not None and s.unpack for s in used)
    unpack = (i.pm, i.unpack) if i.unpack and not carried else None
    add = Half(
        Unit.ADD, i.op_add, ends[0], a, b, cond=i.cond_add, push=bool(i.sf and (i.op_add or not i.op_mul)),
        reads=reads, pack=pack, unpack=unpack,
    )  # fmt: skip
    mul = Half(
        Unit.MUL, i.op_mul, ends[1], c, d, cond=i.cond_mul, push=bool(i.sf and not i.op_add and i.op_mul),
        rotate=i.raddr_b if rotates else 0,
    )  # fmt: skip
    return add, mul
