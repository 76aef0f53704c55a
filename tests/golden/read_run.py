"""Reads the files of a run with other people's readers and prints what they hold as one JSON object.

    python tests/golden/read_run.py RUN predictions.csv evaluation.csv                      (pandas, tensorboard)

`predictions.csv` is what `residuum predict --csv` printed, `evaluation.csv` what `residuum eval --csv` did.
"""

import json
import sys
from pathlib import Path

import pandas
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def scalars(run: Path) -> dict:
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [[event.step, event.value] for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def rows(table: pandas.DataFrame) -> list:
    return json.loads(table.to_json(orient="records", double_precision=15))


def main(run: Path, predictions: Path, evaluation: Path) -> None:
    metrics = pandas.read_json(run / "metrics.jsonl", lines=True, dtype=False, precise_float=True)
    # A run that was killed logs what came after its checkpoint once more.
    steps = metrics[metrics["kind"] == "step"].drop_duplicates("step", keep="last")
    read = {
        "tensorboard": scalars(run),
        "steps": rows(steps[["step", "loss"]]),
        "summary": rows(pandas.read_csv(run / "summary.csv")),
        "of_images": rows(pandas.read_json(run / "predictions.jsonl", lines=True, precise_float=True)),
        "predictions": rows(pandas.read_csv(predictions)),
        "evaluation": rows(pandas.read_csv(evaluation)),
    }
    print(json.dumps(read))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
