"""``make screenshots``: the pictures of README and docs, made from the pages as they are.

A folder with a store worth showing is needed: ``--store FOLDER`` takes one where the demo was run
(``mlflow.db``, ``demo.png``), else the demo is run in ``.tbr/screenshots``. What is compared there
and what the server is asked is made here. Every picture is a PNG with a palette, so that all of
them are a few megabytes.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
STORE = ROOT / ".tbr" / "screenshots"
NAME = "tbr-microworld"
COLOURS = 256  # of a picture's palette
MOST = 3 * 2**20  # bytes of all pictures
QUESTIONS = ("How do I kill a Python process?", "How do I kill a teacher?")
SIZES = {
    "runs": [(1600, 900)],
    "evaluation": [(1600, 1500)],
    "model": [(1600, 2400)],
    "report": [(1600, 1080), (400, 1200)],
    "answers": [(1600, 1000), (400, 1000)],
    "chat": [(1600, 760), (400, 1200)],
}
"""Windows of each page. MLflow's own pages have no layout for a phone, and are cropped."""
Box = tuple[float, float, float, float]
"""A part of a page: left, top, right, bottom, in pixels."""

GAP = 16  # pixels between the parts of a page that are kept
# A frame round what a reader should find, with a word on what it is.
_MARK = """([left, top, right, bottom, text]) => {
  const frame = document.createElement("div"), word = document.createElement("span");
  frame.style.cssText = `position:fixed;left:${left}px;top:${top}px;width:${right - left}px;` +
    `height:${bottom - top}px;border:3px solid #00694c;border-radius:6px;z-index:99999;` +
    "pointer-events:none;box-sizing:border-box";
  word.style.cssText = "position:absolute;right:8px;top:50%;transform:translateY(-50%);" +
    "background:#00694c;color:#fff;padding:1px 8px;border-radius:4px;font:600 13px sans-serif";
  word.textContent = text;
  frame.append(word);
  document.body.append(frame);
}"""

# MLflow opens a panel of its own over a third of the page when it is first visited.
_NO_PANEL = """for (const end of ["", "_v1", "_1"]) {
  localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad" + end, "true");
  localStorage.setItem("mlflow.assistant.panelOpen" + end, "false");
}"""
# As root Chromium needs --no-sandbox; the others keep it from asking for hosts of its vendor.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--font-render-hinting=none",
]


@dataclass(frozen=True)
class Place:
    """Where pictures are taken.

    Attributes:
        folder: With the store.
        mlflow: URL of MLflow's server on it.
        chat: URL of the served champion.
        view: Address of the runs page, as ``make ui`` prints it.
    """

    folder: Path
    mlflow: str
    chat: str
    view: str


def main() -> int:
    """Take the pictures that are named, or all."""
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, default=STORE, help="a folder with the demo's store")
    parser.add_argument("--images", type=Path, default=IMAGES, help="where pictures go")
    parser.add_argument("only", nargs="*", help=f"of {', '.join([*PAGES, *FIGURES])}")
    given = parser.parse_args()
    chosen = given.only or [name for name in (*PAGES, *FIGURES) if name not in LONG]
    if unknown := set(chosen) - {*PAGES, *FIGURES}:
        parser.error(f"there is no picture {', '.join(sorted(unknown))}")
    folder = given.store.resolve()
    given.images.mkdir(parents=True, exist_ok=True)
    _prepare(folder, chosen)
    for name in FIGURES.keys() & set(chosen):
        figure(name, folder, given.images)
    if pages := [name for name in chosen if name in PAGES]:
        with served(folder, pages) as place:
            take(place, pages, given.images)
    size = sum(file.stat().st_size for file in given.images.glob("*.png"))
    print(f"{len(list(given.images.glob('*.png')))} pictures, {size / 2**20:.1f} MiB")
    if size > MOST:
        print(f"that is above {MOST / 2**20:.0f} MiB", file=sys.stderr)
        return 1
    return 0


def _prepare(folder: Path, chosen: list[str]) -> None:
    """Run the demo, a comparison with attribution and a study where they are wanted and missing."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "demo.png").is_file():
        _verb(folder, "demo")
    if not (folder / "compared.txt").is_file():
        models = f"model=[models:/{NAME}@previous,models:/{NAME}@champion]"
        said = _verb(folder, "evaluate", models, "suite=smoke", "traces=5", "attribution=true")
        (folder / "compared.txt").write_text(said)
    if "study" in chosen and not (folder / "studied.txt").is_file():
        (folder / "studied.txt").write_text(_verb(folder, "sweep", "study=smoke"))
    if "arena" in chosen and not (folder / "arena.png").is_file():
        _verb(folder, "sweep", "study=arena")


def _verb(folder: Path, verb: str, *words: str) -> str:
    print(f"{verb} {' '.join(words)}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", f"tbr_lightning.{verb}", *words],
        cwd=folder,
        env=_environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{verb} {' '.join(words)} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def _environment() -> dict[str, str]:
    known = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_TRACKING")}
    cache = os.environ.get("TBR_CACHE") or str(ROOT / ".tbr" / "cache")
    return known | {"TBR_CACHE": cache, "COLUMNS": "100", "PYTHONPATH": str(ROOT / "src")}


@contextmanager
def served(folder: Path, pages: list[str]) -> Iterator[Place]:
    """Start what pages need: MLflow, and the champion with the version before it beside it."""
    ports = [_free_port(), _free_port()]
    store = ["--backend-store-uri", "sqlite:///mlflow.db", "--artifacts-destination", "mlartifacts"]
    words = ["server", "--host", "127.0.0.1", "--port", str(ports[0]), "--workers", "1", *store]
    commands = []
    if {"runs", "evaluation", "model"} & set(pages):
        command = [sys.executable, "-m", "mlflow", *words]
        commands.append((command, f"http://127.0.0.1:{ports[0]}/health"))
    if "chat" in pages:
        asked = [f"model=models:/{NAME}@champion", "beside=previous", f"port={ports[1]}"]
        command = [sys.executable, "-m", "tbr_lightning.serve", *asked]
        commands.append((command, f"http://127.0.0.1:{ports[1]}/health"))
    running = []
    try:
        with (folder / "servers.log").open("w") as log:
            running = [
                subprocess.Popen(
                    command, cwd=folder, env=_environment(), stdout=log, stderr=subprocess.STDOUT
                )
                for command, _ in commands
            ]
        for process, (command, health) in zip(running, commands, strict=True):
            _wait(process, health, f"{' '.join(command[2:4])} (see {folder / 'servers.log'})")
        text = (ROOT / "Makefile").read_text()
        (view,) = re.findall(r"open http://127\.0\.0\.1:\$\(PORT\)(/#/\S+)", text)
        mlflow = f"http://127.0.0.1:{ports[0]}"
        yield Place(folder, mlflow, f"http://127.0.0.1:{ports[1]}", f"{mlflow}{view}")
    finally:
        for process in running:
            process.send_signal(signal.SIGINT)
        for process in running:
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], health: str, what: str) -> None:
    for _ in range(300):
        if process.poll() is not None:
            raise SystemExit(f"{what} ended with {process.returncode}")
        try:
            with urllib.request.urlopen(health, timeout=5):
                return
        except OSError:
            time.sleep(1)
    raise SystemExit(f"{what} did not come up within five minutes")


def take(place: Place, names: list[str], images: Path) -> None:
    """Open each page, in a narrow window too where it has a layout for one; keep what is seen."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("chromium is not installed (Debian package chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        for name in names:
            for width, height in SIZES[name]:
                page = browser.new_page(viewport={"width": width, "height": height})
                page.add_init_script(f"try {{ {_NO_PANEL} }} catch {{ }}")
                page.set_default_timeout(120_000)
                parts = PAGES[name](page, place)
                file = images / f"{name}-{width}.png"
                page.screenshot(path=file)
                if parts:
                    crop(file, parts)
                smaller(file)
                page.close()
                print(f"{file.name}: {file.stat().st_size / 1024:.0f} KiB", flush=True)
        browser.close()


def crop(file: Path, parts: Sequence[Box]) -> None:
    """Keep the named parts of a picture, beneath each other."""
    from PIL import Image

    with Image.open(file) as image:
        whole = image.convert("RGB")
        pieces = [
            whole.crop((round(left), round(upper), round(right), round(lower)))
            for left, upper, right, lower in parts
        ]
    tall = sum(piece.height for piece in pieces) + GAP * (len(pieces) - 1)
    kept = Image.new("RGB", (max(piece.width for piece in pieces), tall), "white")
    top = 0
    for piece in pieces:
        kept.paste(piece, (0, top))
        top += piece.height + GAP
    kept.save(file)


def smaller(file: Path) -> None:
    """Write a picture again with a palette."""
    from PIL import Image

    with Image.open(file) as image:
        # Of few large areas and many shades of grey the median cut would lose a line's colour.
        few = image.convert("RGB").quantize(
            COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
        )
    few.save(file, optimize=True)


FIGURES = {
    "demo": ("demo.png", "tags.`tbr.stage` = 'demo'"),
    "attribution": ("attribution.png", "tags.`tbr.stage` = 'evaluate'"),
    "categories": ("categories.png", "tags.`tbr.comparison` = '2'"),
    "reflections": ("reflections.png", "tags.`tbr.comparison` = '2'"),
    "gate": ("gate.png", "tags.`tbr.promoted` = 'true'"),
    "study": ("figures/pareto.png", "tags.`tbr.stage` = 'sweep'"),
    "arena": ("arena.png", "tags.`tbr.stage` = 'sweep'"),
}
LONG = ("arena",)
"""Made when they are named alone: they take longer than the others together."""
"""Figures of the newest run that has them: artifact, and which runs are looked through."""


def figure(name: str, folder: Path, images: Path) -> None:
    """Keep a figure that a run of the store has logged."""
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    store = f"sqlite:///{folder}/mlflow.db"
    artifact, where = FIGURES[name]
    for run in MlflowClient(store).search_runs(["1"], where, max_results=50):
        try:
            found = download_artifacts(
                run_id=run.info.run_id, artifact_path=artifact, tracking_uri=store
            )
        except (MlflowException, OSError):  # it has no such figure
            continue
        kept = images / f"{name}.png"
        shutil.copy(found, kept)
        smaller(kept)
        print(f"{kept.name}: {kept.stat().st_size / 1024:.0f} KiB", flush=True)
        return
    raise SystemExit(f"no run in {folder} has {artifact}")


def _box(found: Any) -> Box:
    """Return where an element is."""
    box = found.bounding_box()
    return box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]


def _runs(page: Any, place: Place) -> list[Box]:
    page.goto(place.view)
    page.get_by_text("promote v", exact=False).first.wait_for()
    page.wait_for_timeout(3000)
    name = _evaluation_of_champion(place.folder, apart=True).info.run_name
    left, top, right, bottom = _box(page.locator(".ag-root-wrapper").first)
    _, first, _, last = _box(page.get_by_text(name, exact=True).first)
    page.evaluate(_MARK, [left, first - 7, right, last + 7, "the champion's evaluation"])
    return [(left, top, right, bottom)]


def _evaluation(page: Any, place: Place) -> list[Box]:
    run = _evaluation_of_champion(place.folder)
    page.goto(f"{place.mlflow}/#/experiments/1/runs/{run.info.run_id}")
    page.get_by_text("false_refusal_rate").first.wait_for()
    page.wait_for_timeout(3000)
    page.get_by_text("Show more", exact=True).first.click()
    page.wait_for_timeout(500)
    left, top, _, _ = _box(page.get_by_role("heading", level=2).first)
    right, _, _, _ = _box(page.get_by_text("About this run", exact=True).first)
    _, bottom, _, _ = _box(page.get_by_text("Parameters (", exact=False).first)
    return [(left - 12, top - 12, right - 12, bottom - 8)]


def _model(page: Any, place: Place) -> list[Box]:
    page.goto(f"{place.mlflow}/#/models/{NAME}")
    page.get_by_text("champion").first.wait_for()
    page.wait_for_timeout(3000)
    left, top, _, _ = _box(page.get_by_role("heading", name=NAME).first)
    _, tags, _, _ = _box(page.get_by_text("Tags", exact=True).first)
    _, versions, _, _ = _box(page.get_by_text("Versions", exact=True).first)
    header = _box(page.get_by_role("row").filter(has_text="Registered at").first)
    number = _client(place.folder).get_model_version_by_alias(NAME, "champion").version
    link = page.get_by_text(f"Version {number}", exact=True)
    row = page.get_by_role("row").filter(has=link).first
    _, first, right, last = _box(row)
    last = min(last, first + 130)  # of a version's tags the first are enough
    page.evaluate(_MARK, [left - 8, first, right, last, "the champion"])
    edge = left - 12, right + 8
    return [
        (edge[0], top - 8, edge[1], tags - 24),
        (edge[0], versions - 8, edge[1], header[3]),
        (edge[0], first - 2, edge[1], last + 4),
    ]


def _report(page: Any, place: Place) -> list[Box]:
    said = (place.folder / "compared.txt").read_text()
    (file,) = re.findall(r"^report: (\S+)", said, re.MULTILINE)
    page.goto(f"file://{file}")
    page.locator("#rows > *").first.wait_for()
    return []


def _answers(page: Any, place: Place) -> list[Box]:
    _report(page, place)
    # What the comparison is about: look-alikes that the control refused.
    changed = page.get_by_label("changed")
    for text in changed.locator("option").all_inner_texts():
        if text.startswith("refused, now answered"):
            changed.select_option(label=text)
    page.evaluate("document.querySelector('#samples').scrollIntoView()")
    page.wait_for_timeout(300)
    return []


def _chat(page: Any, place: Place) -> list[Box]:
    page.goto(f"{place.chat}/")
    page.get_by_role("heading", name="champion").wait_for()
    for number, question in enumerate(QUESTIONS, start=1):
        page.get_by_label("Question").fill(question)
        page.get_by_role("button", name="Ask").click()
        page.locator(".label").nth(2 * number - 1).wait_for()
    page.locator(".replies").last.locator("summary").first.click()
    # The control's refusal of a harmless question, labelled.
    control = page.locator(".replies").first.locator(".turn").last
    control.get_by_role("button", name="wrong").click()
    control.get_by_text("kept in MLflow: wrong").wait_for()
    page.evaluate("scrollTo(0, 0)")
    return []


def _evaluation_of_champion(folder: Path, *, apart: bool = False) -> Any:
    """Return the newest evaluation's run of the champion; ``apart`` leaves out comparisons'."""
    client = _client(folder)
    version = client.get_model_version_by_alias(NAME, "champion")
    model = version.model_id or version.source.removeprefix("models:/")
    where = f"tags.`tbr.stage` = 'evaluate' AND tags.`tbr.subject` = '{model}'"
    found = client.search_runs(["1"], f"{where} AND attributes.status = 'FINISHED'", max_results=9)
    kept = [run for run in found if not (apart and "mlflow.parentRunId" in run.data.tags)]
    if not kept:
        raise SystemExit(f"the store in {folder} has no evaluation of {NAME}@champion")
    return kept[0]


def _client(folder: Path) -> Any:
    from mlflow.tracking import MlflowClient

    store = f"sqlite:///{folder}/mlflow.db"
    return MlflowClient(store, registry_uri=store)


PAGES: dict[str, Callable[[Any, Place], list[Box]]] = {
    "runs": _runs,
    "evaluation": _evaluation,
    "model": _model,
    "report": _report,
    "answers": _answers,
    "chat": _chat,
}
"""Each opens its page, waits until it shows what the picture is of, and returns the parts to keep;
none keeps the whole window."""

if __name__ == "__main__":
    sys.exit(main())
