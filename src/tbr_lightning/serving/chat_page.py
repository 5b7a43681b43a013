"""The page at ``/``: talking to the served model in a browser."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib import resources

from aiohttp import web


async def chat_page(request: web.Request) -> web.Response:
    """Return the page; it holds nothing of the model, and asks as every client does."""
    text, policy = _page()
    headers = {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
    }
    return web.Response(text=text, headers=headers, content_type="text/html", charset="utf-8")


@cache
def _page() -> tuple[str, str]:
    """Return the page and its policy: its own script and style, this server, and nothing else."""
    text = resources.files("tbr_lightning.serving").joinpath("chat_page.html").read_text("utf-8")
    allowed = {tag: _hash(text, tag) for tag in ("script", "style")}
    return text, (
        f"default-src 'none'; script-src '{allowed['script']}'; style-src '{allowed['style']}'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash(text: str, tag: str) -> str:
    (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
