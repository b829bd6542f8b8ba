"""Write a recipe with the encoder of an experiment in place of its own, so that training can begin with that experiment's weights.

Usage: recipe_with_encoder.py RECIPE EXPERIMENT OUT.toml
"""

import sys
from pathlib import Path

from audiossl.config import find_recipe, load_toml, write_toml
from audiossl.interop.encoder import open_source


def main() -> None:
    """Write the recipe."""
    if len(sys.argv) != 4:
        sys.exit("usage: recipe_with_encoder.py RECIPE EXPERIMENT OUT.toml")
    recipe, experiment, out = sys.argv[1:]
    tables = load_toml(find_recipe(recipe))
    write_toml(Path(out), {**tables, "encoder": open_source(experiment)[1]["encoder"]})


if __name__ == "__main__":
    main()
