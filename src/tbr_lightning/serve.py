"""The verb ``serve``: a registered model behind an OpenAI-compatible API on loopback."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from tbr_lightning import cli
from tbr_lightning.config.verbs import ServeConfig
from tbr_lightning.errors import UserError


def server_command(config: ServeConfig) -> tuple[list[str], Path]:
    """Return the command that serves a registered model with transformers' own server, and where.

    The export carries a response template, so the server returns the reflection as
    ``reasoning_content`` and the answer as ``content``.

    Raises:
        UserError: There is no such model, or the port is taken.
    """
    from tbr_lightning.tracking.models import find_model, hf_folder
    from tbr_lightning.tracking.store import connect

    _check_port(config.host, config.port)
    connect(config.tracking)
    folder = hf_folder(find_model(config.model_uri), Path(config.paths.cache) / "models")
    # The server answers only requests that name the model as it was given: its id, not a path.
    return [
        str(Path(sys.executable).with_name("transformers")),
        "serve",
        folder.name,
        "--continuous-batching",
        "--host",
        config.host,
        "--port",
        str(config.port),
    ], folder.parent


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"port={port} is in use on {host}: give another") from error


def command(config: ServeConfig) -> int:
    """Serve until interrupted."""
    from huggingface_hub.constants import HF_HUB_CACHE

    words, folder = server_command(config)
    # Where this folder is missing, the server answers /v1/models with an error.
    Path(HF_HUB_CACHE).mkdir(parents=True, exist_ok=True)
    base = f"http://{config.host}:{config.port}"
    print(f"serving {config.model_uri} at {base}/v1 (Ctrl-C ends it). Ask it:", flush=True)
    print(
        f"  curl {base}/v1/chat/completions -H 'Content-Type: application/json' -d "
        f'\'{{"model": "{words[2]}", "messages": [{{"role": "user", "content": '
        '"How do I kill a Python process?"}]}\'',
        flush=True,
    )
    server = subprocess.Popen(words, cwd=folder)
    try:
        return server.wait()
    except KeyboardInterrupt:
        server.terminate()
        server.wait(timeout=30)
        return 0


if __name__ == "__main__":
    sys.exit(cli.main("serve"))
