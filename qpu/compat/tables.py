"""The words of the predecessors' builders and what they are called here: one row each, for dialects and `qpu port`.

PyVideoCore is for VideoCore IV; py-videocore6 and py-videocore7 share their words for V3D 4.2 and 7.1.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "V3D_CONDS", "V3D_EXCLUDED", "V3D_MODIFIERS", "V3D_SIGNALS", "V3D_SIGNALS_WITH_PLACE", "VC4_ADD", "VC4_BRANCHES",
    "VC4_CONDS", "VC4_MUL", "VC4_PACK", "VC4_REGISTERS", "VC4_SETUPS", "VC4_SIGNALS",
]  # fmt: skip

# -- VideoCore IV

VC4_ADD: Final[dict[str, str]] = {
    "iadd": "add", "isub": "sub", "imin": "min", "imax": "max", "band": "and_", "bor": "or_", "bxor": "xor",
    "bnot": "not_",
    **{name: name for name in (
        "fadd", "fsub", "fmin", "fmax", "fminabs", "fmaxabs", "ftoi", "itof", "shr", "asr", "ror", "shl", "clz",
        "v8adds", "v8subs", "mov", "nop",
    )},
}  # fmt: skip
"""Operations of the ADD ALU, old -> ours. They set the flags unless ``set_flags=False``; nop never does."""

VC4_MUL: Final[dict[str, str]] = {
    "imul24": "mul24",
    **{name: name for name in ("fmul", "v8muld", "v8min", "v8max", "v8adds", "v8subs", "mov", "rotate")},
}
"""Operations of the MUL ALU. Alone they set no flags unless ``set_flags=True``."""

VC4_CONDS: Final[dict[str, str]] = {
    "always": "always", "never": "never",
    "zs": "ifz", "zc": "ifnz", "ns": "ifn", "nc": "ifnn", "cs": "ifc", "cc": "ifcc",
}  # fmt: skip

VC4_SIGNALS: Final[dict[str, str | None]] = {
    "no signal": None, "breakpoint": "bkpt", "break": "bkpt", "thread switch": "thrsw", "thread end": "thrend",
    "wait scoreboard": "sbwait", "unlock scoreboard": "sbdone", "last thread switch": "lthrsw",
    "load cv": "loadcv", "load coverage": "loadcv", "load color": "loadc", "load color and thread end": "ldcend",
    "load tmu0": "ldtmu0", "load tmu1": "ldtmu1", "load alpha": "loadam", "load alpha mask": "loadam",
}  # fmt: skip

VC4_BRANCHES: Final[dict[str, str]] = {
    "jmp": "always",
    **{
        f"j{flag}{state}{suffix}": where + ("" if state == "s" else "c" if flag == "c" else "n") + flag
        for flag in "znc"
        for state in "sc"
        for suffix, where in (("", "all"), ("_all", "all"), ("_any", "any"))
    },
}

VC4_REGISTERS: Final[tuple[str, ...]] = (
    "uniform", "varying_read", "element_number", "qpu_number", "null", "x_coord", "y_coord", "ms_mask", "rev_flag",
    "vpm", "vpm_read", "vpm_write", "vpm_ld_busy", "vpm_ld_wait", "vpm_st_busy", "vpm_st_wait", "mutex", "mutex_acq",
    "mutex_rel", "broadcast", "tmu_noswap", "host_interrupt", "uniforms_address", "quad_x", "quad_y", "ms_flags",
    "tlb_stencil_setup", "tlb_z", "tlb_color_ms", "tlb_color_all", "tlb_alpha_mask", "vpmvcd_rd_setup",
    "vpmvcd_wr_setup", "vpm_ld_addr", "vpm_st_addr", "sfu_recip", "sfu_recipsqrt", "sfu_rsqrt", "sfu_exp2", "sfu_exp",
    "sfu_log2", "sfu_log", "tmu0_s", "tmu0_t", "tmu0_r", "tmu0_b", "tmu1_s", "tmu1_t", "tmu1_r", "tmu1_b",
)  # fmt: skip
"""Special registers beside ra0..ra31, rb0..rb31 and r0..r5; our names are the same."""

VC4_PACK: Final[dict[str, str]] = {
    "rep 8d": "8dr", "rep8d": "8dr", "8d rep": "8dr", "rep 8888": "8888", "32 sat": "32s",
    **{f"{mode} sat": f"{mode}s" for mode in ("16a", "16b", "8888", "8a", "8b", "8c", "8d")},
}  # fmt: skip
"""Pack and unpack modes whose names differ."""

VC4_SETUPS: Final[dict[str, tuple[str, ...]]] = {
    "setup_vpm_read": ("n", "mode", "y", "x", "stride"),
    "setup_vpm_write": ("mode", "y", "x", "stride"),
    "setup_dma_load": ("nrows", "ncols", "mode", "y", "x", "vpitch", "mpitch"),
    "setup_dma_store": ("nrows", "ncols", "mode", "y", "x"),
    "setup_dma_load_stride": ("stride",),
    "setup_dma_store_stride": ("stride", "blockmode"),
}
"""Set-up functions: our parameters in the order of the old ones."""

# -- V3D

V3D_CONDS: Final[dict[str, str]] = {
    **dict.fromkeys(("ifa", "ifb", "ifna", "ifnb"), "cond"),
    **dict.fromkeys(("pushz", "pushn", "pushc"), "push"),
    **{verb + flag: "update" for verb in ("and", "nor") for flag in ("z", "nz", "n", "nn", "c", "nc")},
}  # fmt: skip
"""Values of the old ``cond=`` -> the keyword that takes them here."""

V3D_SIGNALS: Final[tuple[str, ...]] = ("thrsw", "ldunif", "ldunifa", "ucb", "wrtmuc")
V3D_SIGNALS_WITH_PLACE: Final[tuple[str, ...]] = ("ldunifrf", "ldunifarf", "ldtmu", "ldvary", "ldtlb", "ldtlbu")

V3D_MODIFIERS: Final[dict[str, str]] = {
    "none": "", "abs": "abs", "l": "l", "h": "h", "r32": "ff", "rl2h": "ll", "rh2l": "hh", "swap": "swp",
    "sat": "sat", "nsat": "nsat", "max0": "max0", "ul": "ul", "uh": "uh", "il": "il", "ih": "ih",
}  # fmt: skip
"""Modes of ``.pack`` and ``.unpack`` -> modifiers."""

V3D_EXCLUDED: Final[frozenset[str]] = frozenset(
    "absolute and_ b end imm isa label loop lri magic max min new_label not_ or_ raw rf rot sfu_exp sfu_log sfu_recip "
    "sfu_rsqrt sfu_rsqrt2 sfu_sin uniforms xor workgroup_x workgroup_y workgroup_z local_index".split()
)
"""Names of our builders that are no words of the old ones, some of which are Python's."""
