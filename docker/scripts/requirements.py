"""Print the requirements of pyproject.toml, so that they are a layer apart from the code.

Usage: ``requirements.py PYPROJECT [--extras NAME,…] [--only NAME,…]``
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path


def requirements(pyproject: Path, extras: Iterable[str], only: Iterable[str]) -> list[str]:
    """Return the project's requirements with those of some extras.

    Args:
        pyproject: The file.
        extras: Names of optional dependencies to add.
        only: If there are any, the distributions to keep.

    Raises:
        ValueError: There is no such extra or distribution.
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    found = list(project["dependencies"])
    for name in extras:
        if name not in project["optional-dependencies"]:
            known = ", ".join(sorted(project["optional-dependencies"]))
            raise ValueError(f"EXTRAS: '{name}' is not an extra of the project; known: {known}")
        found += project["optional-dependencies"][name]
    by_name = {re.split(r"[\[<>=!~; ]", line, maxsplit=1)[0]: line for line in found}
    keep = list(only) or list(by_name)
    missing = [name for name in keep if name not in by_name]
    if missing:
        raise ValueError(f"not a requirement of the project: {', '.join(missing)}")
    return [by_name[name] for name in keep]


def main() -> int:
    """Print one requirement per line."""
    parser = argparse.ArgumentParser(description="requirements of pyproject.toml")
    parser.add_argument("pyproject", type=Path)
    parser.add_argument("--extras", default="")
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    try:
        lines = requirements(
            args.pyproject,
            [name for name in args.extras.split(",") if name],
            [name for name in args.only.split(",") if name],
        )
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
