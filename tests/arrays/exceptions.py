"""What arrays do otherwise than the standard or NumPy says, each with the reason; tests excuse nothing else.

docs/reference/array-accuracy.md says the same to users.
"""

from __future__ import annotations

from typing import Final

ABSENT: Final = {
    "float64": "the QPUs compute with 32 bits",
    "int64": "the QPUs compute with 32 bits",
    "uint64": "the QPUs compute with 32 bits",
    "complex128": "the QPUs compute with 32 bits",
    "diff": "of version 2024.12",
    "nextafter": "of version 2024.12",
    "isin": "of version 2025.12",
    "broadcast_shapes": "of version 2025.12",
    "Device": "a class of array-api-strict",
    "DType": "a class of array-api-strict",
    "DTypes": "a class of array-api-strict",
    "ArrayAPIStrictFlags": "a switch of array-api-strict",
    "get_array_api_strict_flags": "a switch of array-api-strict",
    "reset_array_api_strict_flags": "a switch of array-api-strict",
    "set_array_api_strict_flags": "a switch of array-api-strict",
    "set_cpu_mode": "a switch of array-api-strict",
}
"""Names that array-api-strict has and `gpu.xp` has not."""

PROMOTIONS: Final = "the standard's result has 64 bits, which the QPUs do not have: an error that names the cast"
"""Why int32 with uint32 is refused."""

NO_SPECIAL_VALUES: Final = {"vc4": "VideoCore IV has no NaN and no denormals, and its sums do not keep the sign of 0"}
"""Instruction sets on which special values are not compared, by reason."""

OTHER_THAN_NUMPY: Final = {
    "floor_divide": "of an infinite dividend the standard wants an infinity, NumPy gives NaN",
    "minimum": "of 0 and -0 the standard leaves open which one",
    "maximum": "of 0 and -0 the standard leaves open which one",
}
"""Functions whose special values are not all NumPy's."""

RELATIVE: Final = {"pow": "exp2(y log2(x)) keeps fewer digits", "tan": "near its poles",
                   "atanh": "near 1, by log1p of a quotient"}  # fmt: skip
"""Functions with four times the relative error of the others."""

ABSOLUTE: Final = {
    "sin": "the reduction is right to 2**-21 (docs/reference/lang-accuracy.md)",
    "cos": "the reduction is right to 2**-21",
    "log": "near 1 the unit's error is absolute",
    "log2": "near 1 the unit's error is absolute",
    "log10": "near 1 the unit's error is absolute",
}
"""Functions whose error is 2e-6 in absolute terms."""

INDICES: Final = "indices are int32: the default integer of the namespace, as the standard allows"
"""Why argmin, argsort, nonzero, searchsorted and unique_* do not give int64."""
