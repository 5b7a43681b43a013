"""Image and stack definitions: linted, safe by default, and true to the code they start."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from tbr_lightning.config.compose import compose_verb

from ..conftest import ROOT
from .conftest import DOCKER, SCRIPTS, interpolated, variables

ONE_OFF = ("train", "promote")


def tool(name: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name(name), *words], capture_output=True, text=True, check=False
    )


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions, continued lines joined."""
    lines = [
        line
        for line in (DOCKER / "Dockerfile").read_text().splitlines()
        if not line.startswith("#")
    ]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]  # type: ignore[misc]


@pytest.mark.parametrize(
    "words",
    [
        ("hadolint", "--failure-threshold", "style", DOCKER / "Dockerfile"),
        (
            *("shellcheck", "--external-sources", "--severity", "style"),
            *(DOCKER / "postgres" / "databases.sh", DOCKER / "build-with-buildah"),
            DOCKER / "try-images.sh",
        ),
        (
            *("compose-lint", "check", "--config", DOCKER / ".compose-lint.yml"),
            *("--strict-config", "--fail-on", "low", DOCKER / "compose.yaml"),
        ),
    ],
    ids=lambda words: words[0],
)
def test_the_files_lint_clean(words: tuple[str | Path, ...]) -> None:
    done = tool(*words)  # type: ignore[arg-type]
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_linters_see_a_mistake(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python:latest\nRUN cd /tmp && pip install mlflow\n")
    assert tool("hadolint", bad).returncode == 1
    stack = tmp_path / "compose.yaml"
    stack.write_text("services: {a: {image: 'a:1', privileged: true}}\n")
    assert tool("compose-lint", "check", "--fail-on", "high", stack).returncode == 1


@pytest.mark.parametrize("file", ["compose.yaml", "compose.gpu.yaml"])
def test_the_stack_is_valid_compose(file: str) -> None:
    # Merge keys are resolved first, as Compose does.
    text = yaml.safe_dump(yaml.safe_load(interpolated(DOCKER / file)))
    PyCompose.from_yaml(text).validate()
    with pytest.raises(ValueError, match="cap_dropp"):
        PyCompose.from_yaml(
            text.replace("cap_drop:", "cap_dropp:").replace("deploy:", "cap_dropp:")
        )


def test_what_the_images_copy_exists_and_reaches_the_build() -> None:
    kept = [
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    stages = {text.split()[2] for word, text in instructions() if word == "FROM" and " AS " in text}
    seen = 0
    for word, text in instructions():
        if word != "COPY":
            continue
        parts = text.split()
        if parts[0].startswith("--from="):
            assert parts[0].removeprefix("--from=") in stages
            continue
        for source in parts[:-1]:
            seen += 1
            assert (ROOT / source).exists(), source
            assert any(source == k or source.startswith(f"{k}/") for k in kept), source
    assert seen >= 8
    for k in kept:
        assert (ROOT / k).exists(), k


def test_the_wheel_finds_what_it_is_made_of() -> None:
    """pyproject.toml names files that its build reads: they are in the build stage too."""
    import tomllib

    hatch = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]
    needed = {*hatch["build"]["targets"]["wheel"]["force-include"], "src", "README.md", "LICENSE"}
    copied = {
        source
        for word, text in instructions()
        if word == "COPY" and not text.startswith("--")
        for source in text.split()[:-1]
    }
    assert needed <= copied


def test_secrets_stay_out_of_images_and_of_git() -> None:
    for word, text in instructions():
        if word in ("ARG", "ENV"):
            assert not re.search(r"TOKEN|PASSWORD|API_KEY|INDEX_URL", text), text
    for path in ("docker/secrets/serve_token", "docker/.env"):
        done = subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT, check=False)
        assert done.returncode == 0 or not (ROOT / ".git").exists(), path
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignore
    assert not any(
        fnmatch.fnmatch(f"docker/{name}", line[1:])
        for name in ("secrets", ".env")
        for line in ignore
        if line.startswith("!")
    )


def test_every_image_runs_unprivileged_with_an_init() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    for target in ("mlflow", "verb"):
        (stage,) = re.findall(rf"^FROM runtime AS {target}$(.*?)(?=^FROM|\Z)", text, re.M | re.S)
        assert "USER 10001:10001" in stage
        assert 'ENTRYPOINT ["tini"' in stage


def test_images_are_pinned(stack: dict[str, Any]) -> None:
    images = [*re.findall(r"PYTHON_IMAGE=(\S+)", (DOCKER / "Dockerfile").read_text())]
    images += [service["image"] for service in stack["services"].values()]
    for image in images:
        if "…" not in image:
            assert re.search(r":(?!latest)[\w.-]+$", image), image
    build = stack["services"]["train"]["build"]
    assert build["args"]["PYTHON_IMAGE"] in images


def test_services_are_closed_by_default(stack: dict[str, Any]) -> None:
    for name, service in stack["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
        for key, value in (service.get("environment") or {}).items():
            if "PASSWORD" in key or "TOKEN" in key:
                assert value is None or value.startswith("/run/secrets/"), key
            assert "@" not in str(value) or re.search(r"//\w+@", value), f"{key}: a password?"
    assert stack["networks"]["database"]["internal"] is True
    assert "ports" not in stack["services"]["postgres"]


def _volumes(stack: dict[str, Any], *, written: bool = False) -> dict[str, set[str]]:
    return {
        name: {
            volume.split(":")[0]
            for volume in service.get("volumes", [])
            if not (written and volume.endswith(":ro"))
        }
        for name, service in stack["services"].items()
    }


def test_training_writes_nothing_that_promotion_or_serving_trusts(stack: dict[str, Any]) -> None:
    mounted, written = _volumes(stack), _volumes(stack, written=True)
    for name in ("promote", "serve"):
        # The base of an adapter is part of what is examined, and held to the signed digest.
        assert mounted[name] & written["train"] <= {"bases"}, name
        assert "bases" not in written[name]
    # What serving believes is written by promotion alone.
    assert [name for name in written if "trusted-keys" in written[name]] == ["promote"]
    assert "trusted-keys" in mounted["serve"]


def test_the_private_key_is_in_one_container(stack: dict[str, Any]) -> None:
    mounted = _volumes(stack)
    assert [name for name in mounted if "promote-key" in mounted[name]] == ["promote"]
    environment = stack["services"]["promote"]["environment"]
    (place,) = [v for v in stack["services"]["promote"]["volumes"] if v.startswith("promote-key:")]
    assert environment["TBR_EVIDENCE_KEY"].startswith(place.split(":")[1])
    for name in ("promote", "serve"):
        assert stack["services"][name]["environment"]["TBR_PUBLIC_KEYS"].startswith(
            "/var/lib/tbr/trusted/"
        )
    secrets = {name: service.get("secrets", []) for name, service in stack["services"].items()}
    holders = [name for name, held in secrets.items() if "ledger_password" in held]
    assert holders == ["postgres", "promote"]


def test_images_of_others_are_pinned_by_digest_or_said_not_to_be(stack: dict[str, Any]) -> None:
    example = (DOCKER / "env.example").read_text()
    for image in (
        stack["services"]["postgres"]["image"],
        stack["services"]["train"]["build"]["args"]["PYTHON_IMAGE"],
    ):
        if "@sha256:" not in image:
            assert re.search(rf"not pinned.*^\w+_IMAGE={re.escape(image)}$", example, re.M | re.S)


def test_a_service_has_what_it_mounts(stack: dict[str, Any]) -> None:
    for name, service in stack["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DOCKER / source).exists(), source
            else:
                assert source in stack["volumes"], f"{name}: {source}"
        for other in service.get("depends_on", {}):
            assert other in stack["services"]
        for key, value in (service.get("environment") or {}).items():
            if key.endswith("_FILE"):
                assert Path(value).name in service["secrets"], f"{name}: {key}"


def test_make_secrets_writes_those_of_the_stack(stack: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    done = subprocess.run(
        [sys.executable, DOCKER / "make_secrets.py", folder],
        capture_output=True,
        text=True,
        check=True,
    )
    names = {Path(secret["file"]).name for secret in stack["secrets"].values()}
    assert {file.name for file in folder.iterdir()} == names
    # Readable in a container by its user, on this machine only by who may enter the folder.
    assert folder.stat().st_mode & 0o777 == 0o700
    before = {file.name: file.read_text() for file in folder.iterdir()}
    for name, secret in before.items():
        assert (folder / name).stat().st_mode & 0o777 == 0o444
        assert len(secret) >= 43
        assert secret not in done.stdout
    (folder / "serve_token").unlink()
    subprocess.run([sys.executable, DOCKER / "make_secrets.py", folder], check=True)
    after = {file.name: file.read_text() for file in folder.iterdir()}
    assert {name for name in names if before[name] != after[name]} == {"serve_token"}


def test_env_example_lists_the_variables_with_their_defaults() -> None:
    lines = (DOCKER / "env.example").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    known = variables(DOCKER / "compose.yaml")
    known.pop("GIT_COMMIT")  # make images fills it in
    assert example == known


@pytest.mark.parametrize("service", ["train", "promote", "serve"])
def test_the_command_of_a_service_composes(
    stack: dict[str, Any], service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    import verb

    definition = stack["services"][service]
    environment = {
        "TBR_VERB": definition["build"]["target"],
        **{k: v for k, v in definition["environment"].items() if v is not None},
    }
    words = verb.command(definition.get("command", []), environment)
    assert words[2] == f"tbr_lightning.{service}"
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("TBR_SERVE_TOKEN", "a-token-of-the-tests-own")
    config = compose_verb(service, words[3:]).config
    assert config.tracking.uri == "http://mlflow:5000"
    assert config.tracking.artifacts is None
    if service == "serve":
        assert (config.host, config.port) == ("0.0.0.0", 8000)
        assert definition["ports"][0].endswith(f":{config.port}")
        # `docker stop` gives open requests the time that the server gives them.
        grace = int(definition["stop_grace_period"].removesuffix("s"))
        assert grace >= config.drain + 10
        assert config.token_env in ("TBR_SERVE_TOKEN",)
        assert f"{config.token_env}_FILE" in definition["environment"]
    if service in ("promote", "serve"):
        assert config.tracking.ledger == environment["TBR_LEDGER"]


def test_the_paths_that_the_images_write_are_volumes(stack: dict[str, Any]) -> None:
    text = (DOCKER / "Dockerfile").read_text()
    home = re.search(r"TBR_HOME=(\S+)", text)[1]  # type: ignore[index]
    for name in ("train", "promote", "serve"):
        mounted = {v.split(":")[1] for v in stack["services"][name]["volumes"]}
        hub = stack["services"][name]["environment"].get("HF_HOME", f"{home}/huggingface")
        assert {f"{home}/cache", f"{home}/runs", hub} <= mounted
        # A new volume has the owner of the folder in the image that it is mounted over.
        assert all(f" {folder}" in text for folder in mounted)
        assert "/tmp" in stack["services"][name]["tmpfs"]


def test_the_requirements_are_those_of_the_project() -> None:
    def lines(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, SCRIPTS / "requirements.py", ROOT / "pyproject.toml", *words],
            capture_output=True,
            text=True,
            check=False,
        )

    everything = lines("--extras", "postgres").stdout.splitlines()
    assert any(line.startswith("torch>=") for line in everything)
    assert any(line.startswith("psycopg[binary]") for line in everything)
    assert not any(line.startswith("pytest") for line in everything)
    few = lines("--extras", "postgres", "--only", "mlflow,psycopg").stdout
    assert [line[:6] for line in few.splitlines()] == ["mlflow", "psycop"]
    wrong = lines("--extras", "postgrez")
    assert (wrong.returncode, "'postgrez' is not an extra" in wrong.stderr) == (2, True)
    # Each has its version in constraints.txt, as well as torch, which the image asks for alone.
    pins = (ROOT / "constraints.txt").read_text().lower().replace("_", "-")
    for line in [*everything, "torch"]:
        name = re.split(r"[\[<>=]", line)[0].lower().replace("_", "-")
        assert f"\n{name}==" in f"\n{pins}", name
