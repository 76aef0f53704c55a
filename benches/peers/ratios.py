"""Prints how residuum's speed compares with a peer's, row by row.

    python benches/peers/ratios.py OURS.jsonl THEIRS.jsonl

Both files hold the JSON lines of benches/step.rs and of step.py or gpu.py; other lines are passed over.
"""

import json
import sys


def rows(path: str) -> dict:
    """Results by (model, size, batch, mode, input); of a row measured more than once, the fastest."""
    with open(path, encoding="utf-8") as lines:
        results = [json.loads(line) for line in lines if line.startswith("{")]
    fastest = {}
    for r in (r for r in results if "images_per_second" in r):
        # Without a GPU all rows are as one: copying is next to nothing there.
        key = (r["model"], r["size"], r["batch"], r["mode"], r.get("input", "copied"))
        if key not in fastest or r["images_per_second"] > fastest[key]["images_per_second"]:
            fastest[key] = r
    return fastest


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    ours, theirs = rows(sys.argv[1]), rows(sys.argv[2])
    shared = [key for key in theirs if key in ours]
    if not shared:
        sys.exit(f"no row is in both {sys.argv[1]} and {sys.argv[2]}")
    labels = [f"{r['peer']} {r['version']}" for r in (ours[shared[0]], theirs[shared[0]])]
    print(f"images per second: {labels[0]} against {labels[1]}; +- is the interquartile range")
    print(f"{'model':<10}{'size':>5}{'batch':>6}  {'mode':<6} {'input':<8}{'ours':>9}{'+-':>6}{'theirs':>9}{'+-':>6}{'ratio':>7}")
    for key in shared:
        model, size, batch, mode, source = key
        a, b = (side[key] for side in (ours, theirs))
        speeds = "".join(f"{r['images_per_second']:>9.1f}{r['spread']:>6.0%}" for r in (a, b))
        ratio = a["images_per_second"] / b["images_per_second"]
        print(f"{model:<10}{size:>5}{batch:>6}  {mode:<6} {source:<8}{speeds}{ratio:>7.2f}")
    for key in sorted(ours.keys() ^ theirs.keys()):
        print(f"measured on one side only: {' '.join(map(str, key))}")


if __name__ == "__main__":
    main()
