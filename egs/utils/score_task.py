"""Score a fine-tuned experiment on a data directory by what its task evaluates, print the values, and keep them in its results.json.

Usage: score_task.py EXPERIMENT DATA [NUM_WORKERS [DEVICE]]
"""

import sys
from pathlib import Path

from audiossl.cli._device import chosen_device
from audiossl.data.loader import LoaderConfig
from audiossl.data.manifest import Manifest
from audiossl.diagnostics.results import add_result
from audiossl.train.run_finetune import load_finetuned, predict_all


def main() -> None:
    """Print a line of values."""
    if len(sys.argv) not in {3, 4, 5}:
        sys.exit("usage: score_task.py EXPERIMENT DATA [NUM_WORKERS [DEVICE]]")
    experiment, data = Path(sys.argv[1]), Path(sys.argv[2])
    config = LoaderConfig(num_workers=int(sys.argv[3]) if len(sys.argv) > 3 else 2)
    module, tables = load_finetuned(experiment)
    module.to(chosen_device(sys.argv[4] if len(sys.argv) == 5 else "auto"))
    manifest = Manifest.open(data)

    def bad(utterance: str, message: str) -> None:
        print(f"{utterance}: {message}; left out", file=sys.stderr)

    values = module.task.evaluate(dict(predict_all(module, manifest, config, on_bad=bad)), manifest)
    for name, value in values.items():
        add_result(experiment, f"{data.name} {name}", value, "%", seed=tables["train"]["seed"], data=str(data))
    print(f"{experiment.name}: " + ", ".join(f"{name} {value:.2f}" for name, value in values.items()))


if __name__ == "__main__":
    main()
