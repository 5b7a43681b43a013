"""Upload of an exported folder to the hub, or to what ``HF_ENDPOINT`` names."""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from tbr_lightning.errors import UserError, in_one_line

TOKEN = "HF_TOKEN"
"""Environment variable of the token: it is in no config, and so in no log."""


def check_token() -> str:
    """Return the hub token.

    Raises:
        UserError: There is none in the environment.
    """
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise UserError(
            f"to=hub needs a token that may write: set the environment variable {TOKEN}"
        )
    return token


def upload(folder: Path, repo: str, *, private: bool) -> str:
    """Make the repository if it is not there, upload a folder in one commit, and return its URL.

    Raises:
        UserError: The hub refuses, or is not reached.
    """
    api = HfApi(token=check_token())
    try:
        url = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo, folder_path=folder, commit_message="Export by TBR-Lightning"
        )
    except (HfHubHTTPError, OSError) as error:
        raise UserError(
            f"repo={repo} was not written ({in_one_line(error, 200)}): what was exported is in "
            f"{folder}"
        ) from error
    return str(url)
