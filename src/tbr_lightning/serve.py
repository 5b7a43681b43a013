"""The command ``serve``: a registered model behind an OpenAI-compatible API; with ``chat``."""

from __future__ import annotations

import sys
from dataclasses import replace

from tbr_lightning import cli
from tbr_lightning.config.serve import ServeConfig


def command(config: ServeConfig) -> int:
    """Serve until interrupted."""
    from tbr_lightning.serving.server import serve

    if config.mitigation is not None and config.mitigation.name != "none":
        from tbr_lightning.config.verbs import EvaluateConfig
        from tbr_lightning.mitigations.log_mitigated import kept

        asked = EvaluateConfig(
            model_uri=config.model_uri,
            suite=config.suite,
            judge=config.judge,
            mitigation=config.mitigation,
            tracking=config.tracking,
            paths=config.paths,
        )
        config = replace(config, model_uri=kept(asked).model_uri)
    return serve(config)


def command_chat(config: ServeConfig) -> int:
    """Talk to a running server in the terminal."""
    from tbr_lightning.serving.chat import chat

    return chat(config)


if __name__ == "__main__":
    sys.exit(cli.main("serve"))
