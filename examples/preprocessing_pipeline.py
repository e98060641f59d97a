"""Build an image preprocessing pipeline from lazy views, look inside it, then run it three ways.

Real photographs are loaded, cropped, turned to grayscale and given more contrast, and a mirrored copy
of each is added. The pipeline is made of views: building it runs nothing, and reading one item runs
only the stages that this item needs. The whole is then evaluated with

* list:     a plain list(...), one item after the other;
* prefetch: the same view, with two worker threads reading ahead;
* frugal:   a rearranged view that prepares each photograph once, though it is used twice.

SeqTools runs the same code in the same session, for comparison. To try it:

    pip install "lazyseq[demo]"
    python preprocessing_pipeline.py --items 200 --output contact_sheet.png
"""

import argparse
import collections
import functools
import importlib.util
import random
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import lazyseq

try:
    import seqtools
    from PIL import Image, ImageDraw, ImageOps

    # Only the folder is needed, for its sample photographs: finding it is much faster than importing all.
    SKLEARN = importlib.util.find_spec("sklearn")
    if SKLEARN is None:
        raise ImportError("No module named 'sklearn'")
except ImportError as error:
    message = f'{error}. This example needs Pillow, scikit-learn and seqtools: pip install "lazyseq[demo]"'
    if __name__ == "__main__":
        sys.exit(message)
    raise ImportError(message) from error

SIDE = 200  # width and height of a preprocessed image, in pixels

# The stages are ordinary functions of one image, which count how often they run.
calls = collections.Counter()
calls_lock = threading.Lock()  # the worker threads all count


def counted(function):
    """Make a function note each of its calls in `calls`, under its name."""

    @functools.wraps(function)
    def wrapper(argument):
        with calls_lock:
            calls[function.__name__] += 1
        return function(argument)

    return wrapper


@counted
def load(path):
    # Image.open reads the header only. Decoding here lets the file be closed at once, and charges the
    # time to this stage rather than to the next one.
    with Image.open(path) as image:
        image.load()
    return image


@counted
def normalize(image):
    return ImageOps.fit(image, (SIDE, SIDE))  # crop the middle to a square, then resize


@counted
def autocontrast(image):
    return ImageOps.autocontrast(image, cutoff=3)  # ignore the darkest and the brightest 3 %


grayscale = counted(ImageOps.grayscale)
mirror = counted(ImageOps.mirror)

STAGES = ["load", "normalize", "grayscale", "autocontrast", "mirror"]


def pipeline(lib, paths):
    """Build the views, by name. `lib` is lazyseq or seqtools: the code is the same for both."""
    photos = lib.smap(load, paths)
    normalized = lib.smap(normalize, photos)
    grayscaled = lib.smap(grayscale, normalized)
    contrasted = lib.smap(autocontrast, grayscaled)
    mirrored = lib.smap(mirror, contrasted)

    # All the plain images, then all the mirrored ones. Views keep no results, so a photograph is loaded
    # and prepared anew for its mirrored copy.
    augmented = lib.concatenate([contrasted, mirrored])

    # To do that work once, keep recent results where the two branches part, and place each mirrored image
    # right after the plain one, while the result is still at hand. A small cache is then enough.
    cached = lib.add_cache(contrasted, cache_size=10)
    pairs = lib.collate([cached, lib.smap(mirror, cached)])
    flattened = lib.unbatch(pairs, 2)

    return dict(
        photos=photos, normalized=normalized, grayscaled=grayscaled, contrasted=contrasted, mirrored=mirrored,
        augmented=augmented, cached=cached, pairs=pairs, flattened=flattened,
    )  # fmt: skip


def look(views):
    """Show that building views runs no stage, and what the reading of one item runs."""
    for name, view in views.items():
        print(f"  {name:<11}{len(view):>4} items  {view!r}")
    print(f"  stages run so far: {dict(calls) or 'none'}")
    for name, index in [("photos", 0), ("augmented", 0), ("augmented", -1), ("pairs", 0), ("pairs", 0)]:
        calls.clear()
        views[name][index]
        print(f"  {f'{name}[{index}]':<14} ran {dict(calls)}")


def contact_sheet(views):
    """Draw the first photograph as it is after each stage, side by side."""
    names = ["photos", "normalized", "grayscaled", "contrasted", "mirrored"]
    images = [views[name][0] for name in names]
    widths = [round(SIDE * image.width / image.height) for image in images]

    gap, header = 16, 28
    sheet = Image.new("RGB", (gap + sum(width + gap for width in widths), header + SIDE + gap), "white")
    draw = ImageDraw.Draw(sheet)
    left = gap
    for stage, image, width in zip(STAGES, images, widths, strict=True):
        label = f"{stage}  ({image.width} x {image.height}, {image.mode})"
        draw.text((left, 8), label, fill="black", font_size=13)
        sheet.paste(image.resize((width, SIDE)), (left, header))
        left += width + gap
    return sheet


WAYS = {"list": "augmented", "prefetch": "augmented", "frugal": "flattened"}  # the view each one reads


class Result(NamedTuple):
    wall: float  # seconds
    cpu: float  # seconds, all threads together
    counts: dict  # stage -> number of calls
    pixels: list  # bytes of each image: the plain ones, then the mirrored ones


def measure(lib, way, paths):
    """Evaluate every item of a new pipeline in the given way."""
    view = pipeline(lib, paths)[WAYS[way]]
    calls.clear()
    wall, cpu = time.perf_counter(), time.process_time()
    if way != "list":
        # Inside the timed part, because the workers may start as soon as they exist.
        view = lib.prefetch(view, max_buffered=10, nworkers=2)
    images = list(view)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    counts = {stage: calls[stage] for stage in STAGES}

    if way == "frugal":
        images = images[0::2] + images[1::2]  # plain, mirrored, plain, ... put back in the others' order
    return Result(wall, cpu, counts, [image.tobytes() for image in images])


def expected_pixels(paths):
    """The same images from ordinary loops, without any view: what every way has to give."""
    plain = [autocontrast(grayscale(normalize(load(path)))) for path in paths]
    return [image.tobytes() for image in plain + [mirror(image) for image in plain]]


def sample_paths(folder, items):
    """Copy scikit-learn's photographs to a folder and return their paths, repeated to `items`."""
    images = Path(SKLEARN.submodule_search_locations[0], "datasets", "images")
    photos = [shutil.copy(photo, folder) for photo in sorted(images.glob("*.jpg"))]
    # Drawn at random (always the same draw): strict turns could hide images that come in the wrong order.
    return random.Random(0).choices(photos, k=items)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=200, help="number of photographs (default: 200)")
    parser.add_argument("--output", default="contact_sheet.png", help="PNG file to write")
    parser.add_argument("--repeat", type=int, default=1, help="timed rounds; the fastest run of each is kept")
    args = parser.parse_args(argv)
    if args.items < 1 or args.repeat < 1:
        parser.error("--items and --repeat must be at least 1")

    with tempfile.TemporaryDirectory() as folder:
        paths = sample_paths(folder, args.items)

        print("Views, as built by lazyseq:")
        calls.clear()
        views = pipeline(lazyseq, paths)
        look(views)
        contact_sheet(views).save(args.output, "PNG")
        print(f"Contact sheet of the first photograph: {args.output}\n")

        expected = expected_pixels(paths)
        best, different = {}, set()
        libs = [lazyseq, seqtools]
        for _ in range(args.repeat):
            for way in WAYS:
                for lib in libs:
                    result, row = measure(lib, way, paths), (way, lib.__name__)
                    if result.pixels != expected:
                        different.add(f"{lib.__name__} {way}")
                    if row not in best or result.wall < best[row].wall:
                        best[row] = result
            libs.reverse()  # neither library always goes first

    print(f"{'library':<10}{'way':<10}{'wall s':>8}{'CPU s':>8}", *(f"{stage:>12}" for stage in STAGES))
    for (way, name), result in best.items():
        counts = (f"{count:>12}" for count in result.counts.values())
        print(f"{name:<10}{way:<10}{result.wall:>8.3f}{result.cpu:>8.3f}", *counts)
    ratios = (f"{way} {best[way, 'lazyseq'].wall / best[way, 'seqtools'].wall:.2f}" for way in WAYS)
    print("lazyseq / seqtools, wall time:", ", ".join(ratios))

    if different:
        sys.exit(f"Wrong pixels from: {', '.join(sorted(different))}")
    print("Pixels: every way gives the same images as ordinary loops, byte for byte.")


if __name__ == "__main__":
    main()
