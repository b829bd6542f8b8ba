"""Write a recipe with another objective, of which only the length of the crops is carried over: the rest has its defaults.

Usage: recipe_with_objective.py RECIPE OBJECTIVE OUT.toml
"""

import sys
from pathlib import Path

from audiossl.config import find_recipe, load_toml, write_toml


def main() -> None:
    """Write the recipe."""
    if len(sys.argv) != 4:
        sys.exit("usage: recipe_with_objective.py RECIPE OBJECTIVE OUT.toml")
    recipe, objective, out = sys.argv[1:]
    tables = load_toml(find_recipe(recipe))
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    crops = {"crop_duration": tables["objective"]["crop_duration"]}
    write_toml(Path(out), {**tables, "objective": {"name": objective, **crops}})


if __name__ == "__main__":
    main()
