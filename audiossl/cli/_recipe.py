"""The recipe that `pretrain` and `finetune` follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiossl.cli.main import MisuseError

if TYPE_CHECKING:
    from pathlib import Path


def chosen_recipe(recipe: str | None, out: Path | None, verb: str, *, resume: bool) -> str:
    """Return the recipe, or where none is given the one that the experiment `out` goes on with; MisuseError where there is none either."""
    from audiossl.interop.encoder import CONFIG

    if recipe is not None:
        return recipe
    if not resume:
        raise MisuseError(f"audiossl {verb}: no recipe is given; write `audiossl {verb} RECIPE ...`")
    if out is None or not (out / CONFIG).is_file():
        place = "without --out" if out is None else f"in {out}"
        raise MisuseError(f"audiossl {verb}: no recipe is given, and {place} there is none to go on with; give RECIPE")
    return str(out / CONFIG)
