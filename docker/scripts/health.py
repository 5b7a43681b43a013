"""Health check of a container: exit code 0 if a GET of the URL answers 200 within five seconds."""

from __future__ import annotations

import sys
import urllib.request


def main(url: str) -> int:
    """Ask once; the reason of a failure shows in ``docker inspect``."""
    try:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(url, timeout=5) as answer:
            if answer.status == 200:
                return 0
            print(f"{url}: HTTP {answer.status}")
    except OSError as error:
        print(f"{url}: {error}")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
