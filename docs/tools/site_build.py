"""Builds the site: ``python docs/tools/site_build.py`` (make docs).

The pages of the repository are copied with their links turned to where they stand on the site, the
reference is made of the source, and Zensical renders them in strict mode: a link or an anchor that
leads nowhere ends the build.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import site_messages
import site_reference

ROOT = Path(__file__).resolve().parents[2]
STAGED = ROOT / "build" / "docs"
SITE = ROOT / "site"

AT_ROOT = {
    "README.md": "index.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "UPGRADING.md": "project/upgrading.md",
}
"""Pages that stand at the root of the repository, and where on the site."""

GENERATED = ("verbs.md", "settings.md", "groups.md", "messages.md")
"""Pages of docs/reference/ that are made here and not kept in the repository."""

LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<to>[^)\s]+)\)")
FENCE = re.compile(r"^(```|~~~)")
_REMOTE = re.compile(
    r"<(?:script|img|iframe)[^>]*\ssrc=[\"']?(https?:)?//[^>]*>"
    r"|<link[^>]*rel=[\"']?(?:stylesheet|preload|preconnect)[^>]*href=[\"']?(?:https?:)?//[^>]*>"
)


def pages() -> dict[str, str]:
    """Return where each page of the repository stands on the site, both as relative paths."""
    found = dict(AT_ROOT)
    for file in sorted((ROOT / "docs").rglob("*")):
        path = file.relative_to(ROOT / "docs")
        if file.is_file() and path.parts[0] not in ("tools", "evidence"):
            found[f"docs/{path.as_posix()}"] = path.as_posix()
    return {source: place for source, place in found.items() if (ROOT / source).is_file()}


def generated() -> dict[str, str]:
    """Return the pages that are made of the source, by their place on the site."""
    package = ROOT / "src" / "tbr_lightning"
    texts = (
        site_reference.verbs_page(),
        site_reference.settings_page(),
        site_reference.groups_page(),
        site_messages.page(package),
    )
    return {f"reference/{name}": text for name, text in zip(GENERATED, texts, strict=True)}


def prose(text: str) -> Iterator[tuple[bool, str]]:
    """Yield the lines of a page with whether each stands outside of code blocks."""
    inside = False
    for line in text.splitlines(keepends=True):
        fence = FENCE.match(line.lstrip()) is not None
        yield not (inside or fence), line
        inside ^= fence


def on_site(text: str, source: str, places: dict[str, str]) -> str:
    """Return a page with its links as they are on the site.

    A link to what the site does not have (source, configs) becomes its text.
    """

    def turned(found: re.Match[str]) -> str:
        to, _, anchor = found["to"].partition("#")
        if re.match(r"[a-z]+:", to) or not to:
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), to))
        below = path.removeprefix("docs/")
        place = places.get(path, below if below in places.values() else None)
        if place is None:
            return found["text"]
        here = posixpath.dirname(places[source]) or "."
        link = posixpath.relpath(place, here) + (f"#{anchor}" if anchor else "")
        return f"{found['image']}[{found['text']}]({link})"

    return "".join(LINK.sub(turned, line) if is_prose else line for is_prose, line in prose(text))


def stage() -> None:
    """Write the pages that Zensical reads."""
    shutil.rmtree(STAGED, ignore_errors=True)
    made = generated()
    found = pages()
    places = found | {f"docs/{place}": place for place in made}
    for source, place in found.items():
        target = STAGED / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".md":
            target.write_text(on_site((ROOT / source).read_text("utf-8"), source, places), "utf-8")
        else:
            shutil.copyfile(ROOT / source, target)
    for place, text in made.items():
        (STAGED / place).parent.mkdir(parents=True, exist_ok=True)
        (STAGED / place).write_text(text, "utf-8")


def remote(site: Path) -> list[str]:
    """Return what the pages of a site would fetch from elsewhere: nothing is allowed."""
    return [
        f"{file.relative_to(site)}: {found[0][:120]}"
        for file in sorted(site.rglob("*.html"))
        for found in _REMOTE.finditer(file.read_text("utf-8"))
    ]


def main() -> int:
    """Stage, render, check."""
    stage()
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "-f", "zensical.toml"],
        cwd=ROOT,
        check=False,
    )
    if done.returncode:
        return done.returncode
    if found := remote(SITE):
        print("\n".join(["pages fetch from elsewhere:", *found]), file=sys.stderr)
        return 1
    print(f"the site is in {SITE}: open {SITE / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
