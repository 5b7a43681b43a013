"""Credentials in URLs, as people write and mistype them."""

from __future__ import annotations

import pytest

from tbr_lightning.credentials import hidden, without_credentials


@pytest.mark.parametrize(
    "text",
    [
        "http://me:PLANTED@host/v1",
        "http://me:with@PLANTED@host/v1",
        "postgresql://me:with/PLANTED@host/db",
        "me:PLANTED@127.0.0.1:8810/v1",  # the scheme was forgotten
        "reflection.base_url=me:PLANTED@localhost/v1",
        "tracking.uri='me:PLANTED@host.example' is not supported",
        "{'uri': 'me:with/PLANTED@host:1'}",
        "http://host/v1?api_key=PLANTED&version=1",
        "http://host/v1#access_token=PLANTED",
        "http://host/v1?pass=PLANTED",
    ],
)
def test_no_credential_is_left(text: str) -> None:
    assert "PLANTED" not in hidden(text)
    assert "PLANTED" not in str(without_credentials({"a": [{"b": text}]}))
    assert hidden(hidden(text)) == hidden(text)


@pytest.mark.parametrize(
    "text",
    [
        "http://host:8080/models/name@champion",
        "hf://datasets/someone@revision/rows.json",
        "models:/name@champion,models:/other@previous",
        "s3://bucket/a:b/c@d",
        "image@sha256:0123",
        "write to me@host.example",
        "How do I kill a process? user: @somebody",
        "postgresql://USER@HOST/DATABASE",
    ],
)
def test_what_is_no_credential_stays(text: str) -> None:
    assert hidden(text) == text
