"""Measures residuum and other libraries on this machine's CPU, in turn row by row, and prints the ratios.

    python benches/peers/compare.py [--rows TEXT] [--seconds S] [--rounds N] [--precisions f32,bf16] [--out DIR]

Every row is measured by a process of its own, first residuum's, then each peer's, and in the next round in the other order. A
measurement during which others used more than 3 % of the cores is repeated once, and then left out of the table by name. On Linux.
--out keeps the raw rows, the table and the environment. PyTorch and torchvision have to be there; onnxruntime and onnx are
measured where they are.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import re
import resource
import statistics
import subprocess
import sys
import time

from step import ROWS, is_asked_for

HERE = pathlib.Path(__file__).resolve().parent
MOST_OTHER_WORK = 0.03
PEERS = {"pytorch": "step.py", "onnxruntime": "onnx_step.py"}


def build() -> str:
    """Path of the compiled benchmark of residuum."""
    command = ["cargo", "bench", "--bench", "step", "--no-run"]
    told = subprocess.run(command, cwd=HERE.parent.parent, stderr=subprocess.PIPE, text=True, check=False)
    found = re.search(r"Executable benches/step.rs \((.+)\)", told.stderr)
    if told.returncode != 0 or not found:
        sys.exit(f"{' '.join(command)} failed:\n{told.stderr}")
    return str(HERE.parent.parent / found[1])


def busy_seconds() -> float:
    """Processor time that the machine has spent on anything so far, or that was taken from it."""
    with open("/proc/stat", encoding="ascii") as stat:
        user, nice, system, _idle, _wait, irq, softirq, stolen = map(int, stat.readline().split()[1:9])
    return (user + nice + system + irq + softirq + stolen) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure_once(command: list) -> tuple:
    """The rows that `command` prints, and the share of the cores that others used meanwhile."""
    begin, busy, own = time.monotonic(), busy_seconds(), own_seconds()
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    available = (time.monotonic() - begin) * len(os.sched_getaffinity(0))
    others = max(0.0, (busy_seconds() - busy) - (own_seconds() - own)) / available
    return [json.loads(line) for line in printed.splitlines() if line.startswith("{")], others


def measure(command: list) -> list:
    for _ in range(2):
        rows, others = measure_once(command)
        if others <= MOST_OTHER_WORK:
            break
        print(f"  others used {others:.0%} of the cores", file=sys.stderr)
    return [row | {"other_work": round(others, 3)} for row in rows]


def fastest(results: list) -> dict:
    """Of all setups of a peer the one with the best median over rounds, as one row."""
    by_setup = {}
    for result in results:
        by_setup.setdefault(result.get("setup", ""), []).append(result)
    numbers = ("images_per_second", "spread", "cpu_ms", "peak_mib")
    medians = [
        rows[0] | {key: statistics.median(row[key] for row in rows) for key in numbers} for rows in by_setup.values()
    ]
    return max(medians, key=lambda row: row["images_per_second"])


def table(results: list) -> str:
    """A line for each row and peer, without what was measured while others worked."""
    quiet = [result for result in results if result["other_work"] <= MOST_OTHER_WORK]
    lines = [
        "images per second and their interquartile range, processor time of an image in ms, largest memory of the process in MiB;",
        "ratio: images per second of residuum over the peer's",
        "",
        f"{'row':<20}{'':<6}{'peer':<14}{'setup':<16}{'images/s':>9}{'+-':>6}{'ratio':>7}{'ms':>8}{'MiB':>7}",
    ]
    left_out = []
    for title, precision in dict.fromkeys((result["title"], result["precision"]) for result in results):
        of_row = [r for r in quiet if (r["title"], r["precision"]) == (title, precision)]
        by_peer = {}
        for result in of_row:
            by_peer.setdefault(result["peer"], []).append(result)
        if "residuum" not in by_peer or len(by_peer) < 2:
            left_out.append(f"{title} {precision}")
            continue
        ours = fastest(by_peer["residuum"])
        for peer, found in by_peer.items():
            row = fastest(found)
            ratio = "" if peer == "residuum" else f"{ours['images_per_second'] / row['images_per_second']:.2f}"
            speed = f"{row['images_per_second']:>9.1f}{row['spread']:>6.0%}{ratio:>7}"
            numbers = f"{speed}{row['cpu_ms']:>8.2f}{row['peak_mib']:>7.0f}"
            lines.append(f"{title:<20}{precision:<6}{peer:<14}{row.get('setup', ''):<16}{numbers}")
    if left_out:
        lines += ["", "left out, because others used the cores: " + ", ".join(left_out)]
    return "\n".join(lines) + "\n"


def environment() -> str:
    said = lambda *command: subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, cwd=HERE).stdout.strip()
    with open("/proc/cpuinfo", encoding="ascii") as info:
        text = info.read()
    model = re.search(r"model name\s*: (.+)", text)[1]
    flags = set(re.search(r"flags\s*: (.+)", text)[1].split())
    vectors = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    versions = [f"{name} {said(sys.executable, '-c', f'import {name}; print({name}.__version__)')}"
                for name in ("torch", "torchvision", "onnxruntime") if importlib.util.find_spec(name)]
    return "\n".join([
        f"date    {time.strftime('%Y-%m-%d', time.gmtime())}",
        f"commit  {said('git', 'rev-parse', 'HEAD')}",
        f"cpu     {model}, {len(os.sched_getaffinity(0))} threads, {' '.join(vectors)}",
        f"rust    {said('rustc', '--version')}",
        f"peers   {', '.join(versions)}",
        f"flags   {' '.join(sys.argv[1:])}",
    ]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="", metavar="TEXT", help="only rows whose `model size mode` contains TEXT")
    parser.add_argument("--seconds", type=float, default=5.0, help="time of a row and setup in a round (default 5)")
    parser.add_argument("--rounds", type=int, default=2, help="default 2")
    parser.add_argument("--precisions", default="f32", metavar="NAMES", help="of f32 and bf16 (default f32)")
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR", help="folder for rows.jsonl, summary.txt, environment.txt")
    args = parser.parse_args()
    if missing := [name for name in ("torch", "torchvision") if not importlib.util.find_spec(name)]:
        sys.exit(f"{sys.executable} has no {' and no '.join(missing)}; start this with an interpreter that has both")
    commands = {"residuum": [build(), "--bench", "--json"]}
    for peer, script in PEERS.items():
        if peer == "pytorch" or importlib.util.find_spec(peer) and importlib.util.find_spec("onnx"):
            commands[peer] = [sys.executable, str(HERE / script)]
    results = []
    for row in filter(lambda row: is_asked_for(row, args.rows), ROWS):
        title = f"{row[0]} {row[1]} {row[3]}"
        for precision in args.precisions.split(","):
            for turn in range(args.rounds):
                for peer in list(commands)[:: 1 if turn % 2 == 0 else -1]:
                    if peer == "onnxruntime" and (row[3], precision) != ("infer", "f32"):
                        continue
                    print(f"{title} {precision}, round {turn + 1}: {peer}", file=sys.stderr)
                    flags = ["--rows", title, "--seconds", str(args.seconds), "--precision", precision]
                    found = measure(commands[peer] + flags)
                    results += [result | {"title": title, "round": turn + 1} for result in found]
    summary = table(results)
    print(summary, end="")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "rows.jsonl").write_text("".join(json.dumps(result) + "\n" for result in results))
        (args.out / "summary.txt").write_text(summary)
        (args.out / "environment.txt").write_text(environment())


if __name__ == "__main__":
    main()
