"""Masks of polygons by matplotlib's point-in-path test, written to rasterise.json for tests/rasterise/golden.rs.

Needs matplotlib and, in the environment variable MINIPLACES, the folder of the photos' annotations; what is written
holds counts and hashes of masks, no photo and no polygon of theirs.

Each case is seen through a map that puts no pixel within MARGIN of an edge, so that which side an edge belongs to,
and rounding to f32, do not matter: what the two rasterisers must then agree in is the even-odd rule.
"""

import json
import math
import os
import re
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.path import Path as Outline

IMAGE_SIZE = 96
ORIGINAL_SIZE = 128
NUM_CLASSES = 175
MARGIN = 4e-5

FILES = [
    "a/airport_terminal/00000064", "l/living_room/00000079", "d/dining_room/00000009", "d/dining_room/00000184",
    "s/skyscraper/00000032", "s/ski_slope/00000005", "v/volcano/00000001", "b/butchers_shop/00000002",
]
NUM_MORE_FILES = 12

DEGENERATE = {
    "no area": [[2, 2], [9, 2], [5, 2]],
    "one point": [[4, 4]],
    "two points": [[1, 1], [11, 8]],
    "the same point five times": [[4, 4]] * 5,
    "a spike out and back": [[2, 2], [8, 2], [8, 6], [14, 6], [8, 6], [8, 7], [2, 7]],
    "clockwise": [[2, 1], [10, 3], [7, 8], [1, 6]],
    "anticlockwise": [[1, 6], [7, 8], [10, 3], [2, 1]],
    "bow tie": [[1, 1], [11, 8], [11, 1], [1, 8]],
    "pentagram": [[6, 0], [9.5, 9], [0.5, 3.4], [11.5, 3.4], [2.5, 9]],
    "wound twice": [[1, 1], [10, 1], [10, 8], [1, 8], [1, 1], [10, 1], [10, 8], [1, 8]],
    "closed explicitly": [[1, 1], [10, 1], [10, 8], [1, 8], [1, 1]],
    "outside": [[20, 20], [40, 20], [30, 40]],
    "around the image": [[-50, -50], [80, -50], [80, 80], [-50, 80]],
    "half outside": [[-7, 2], [6, -3], [6, 30]],
    "concave": [[0, 0], [12, 0], [12, 9], [9, 9], [9, 3], [3, 3], [3, 9], [0, 9]],
    "narrower than a pixel": [[5.2, 0], [5.3, 0], [5.3, 9], [5.2, 9]],
}
DEGENERATE_EXTENTS = (10, 13)  # H, W


def crc32c(data):
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


def maps(number):
    """Inverse maps to try: turned, scaled and moved, or nearly as it is."""
    for attempt in range(1000):
        if number % 4 == 0:
            yield [1, 0, 0.31 + attempt * 0.0137, 0, 1, -0.23 + attempt * 0.0071]
        else:
            angle, scale = math.radians(17 * number), 0.8 + 0.03 * number
            cos, sin = scale * math.cos(angle), scale * math.sin(angle)
            centre = (IMAGE_SIZE - 1) / 2
            offset = (centre - cos * centre + sin * centre, centre - sin * centre - cos * centre)
            yield [cos, -sin, offset[0] + attempt * 0.0137, sin, cos, offset[1] + attempt * 0.0071]


def covered(polygon, affine, extents, shift):
    """Which pixels the polygon covers, all of them moved by `shift` in the source."""
    rows, columns = np.meshgrid(*[np.arange(n, dtype=np.float64) for n in extents], indexing="ij")
    x = affine[0] * columns + affine[1] * rows + affine[2] + shift[0]
    y = affine[3] * columns + affine[4] * rows + affine[5] + shift[1]
    outline = Outline(np.array(polygon + polygon[:1], dtype=np.float64))
    return outline.contains_points(np.stack([x.ravel(), y.ravel()], axis=1)).reshape(extents)


def masks(objects, extents, candidates):
    """A map that is safe for all `objects`, and the mask of each class seen through it."""
    for affine in candidates:
        affine = [float(np.float32(v)) for v in affine]
        result = {}
        for number, polygon in objects:
            mask = covered(polygon, affine, extents, (0, 0))
            shifts = [(dx * MARGIN, dy * MARGIN) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
            if any((covered(polygon, affine, extents, shift) != mask).any() for shift in shifts):
                break
            result[number] = result.get(number, np.zeros(extents, dtype=bool)) | mask
        else:
            return affine, result
    raise SystemExit("every map puts a pixel on an edge")


def read_objects(path):
    scale = IMAGE_SIZE / ORIGINAL_SIZE
    objects = []
    for block in re.findall(r"<objects>(.*?)</objects>", path.read_text(), re.S):
        points = re.findall(r"<x>(.*?)</x>\s*<y>(.*?)</y>", block)
        number = int(re.search(r"<class>(\d+)</class>", block).group(1))
        objects.append((number, [[(float(v) - 0.5) * scale - 0.5 for v in point] for point in points]))
    return objects


def record_file(root, name, number):
    objects = read_objects(root / "objects" / "train" / f"{name}.xml")
    affine, by_class = masks(objects, (IMAGE_SIZE, IMAGE_SIZE), maps(number))
    stack = np.zeros((IMAGE_SIZE, IMAGE_SIZE, NUM_CLASSES), dtype=bool)
    for index, mask in by_class.items():
        stack[:, :, index] = mask
    places = np.flatnonzero(stack).astype("<u4")
    return {
        "image": f"train/{name}.jpg",
        "map": affine,
        "objects": len(objects),
        "covered": len(places),
        "crc32c": crc32c(places.tobytes()),
    }


def record_degenerate(name, polygon, number):
    affine, by_class = masks([(0, polygon)], DEGENERATE_EXTENTS, maps(4 * number))
    rows = ["".join("#" if v else "." for v in row) for row in by_class[0]]
    return {"name": name, "map": affine, "polygon": polygon, "mask": rows}


def main():
    root = Path(os.environ["MINIPLACES"])
    listed = [line.split()[0] for line in (root / "train.txt").read_text().splitlines()]
    names = [name.removeprefix("train/").removesuffix(".jpg") for name in listed]
    annotated = [name for name in names if (root / "objects" / "train" / f"{name}.xml").exists()]
    more = [name for name in annotated[:: len(annotated) // NUM_MORE_FILES] if name not in FILES][:NUM_MORE_FILES]
    files = [name for name in FILES if name in annotated] + more
    record = {
        "matplotlib": matplotlib.__version__,
        "image_size": IMAGE_SIZE,
        "degenerate": [record_degenerate(*case, i) for i, case in enumerate(DEGENERATE.items())],
        "files": [record_file(root, name, i) for i, name in enumerate(files)],
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
