"""What a command does when the tracker (MLflow), its database or its artifact store is down.

Here an outage is told from other errors and gets its sentence and its exit code, 75. The rest is
where the work is: ``tracking/store.py`` tries at the start, ``tracking/metric_spool.py`` keeps the
points of a training, ``tracking/open_run.py`` what a run could not write at its end,
``tuning/trial.py`` and ``tuning/mlflow_sync.py`` wait in a sweep, and ``serving/rollout.py`` goes
on serving the last champion.
"""

from __future__ import annotations

from tbr_lightning.errors import UserError, causes, disk_full, first_line

_CLIENTS = ("mlflow", "sqlalchemy", "psycopg", "requests", "urllib3")
_GONE = (
    "Max retries exceeded",
    "Connection refused",
    "Connection aborted",
    "Connection reset",
    "timed out",
    "database is locked",
    "disk I/O error",
    "server closed the connection",
    "terminating connection",
    "connection failed",
    "the database system is",
    "500 Server Error",  # of the tracker, where its database or artifact store is gone
    "502 Server Error",
    "503 Server Error",
    "504 Server Error",
    "too many 500 error responses",
    "too many 502 error responses",
    "too many 503 error responses",
    "too many 504 error responses",
)

OUTAGE = 75
"""Exit code (``EX_TEMPFAIL``) where tracker or database did not answer: the same command again."""


class OutageError(UserError):
    """A service that the command needs did not respond; exit code 75.

    Running the same command again later may succeed.
    """


def outage(error: BaseException) -> str | None:
    """Return a sentence if tracker or database did not answer, else ``None``."""
    for cause in causes(error):
        library = type(cause).__module__.partition(".")[0]
        if library in _CLIENTS and any(word in str(cause) for word in _GONE):
            return (
                f"MLflow or its database does not answer ({first_line(error)}): finished work is "
                "kept; once it is reachable, run the same command again (for train, add "
                "resume=latest)"
            )
    return None


def unreadable(uri: str, error: BaseException, fix: str) -> UserError:
    """Return the error for a model whose files cannot be read from the artifact store.

    Args:
        uri: The model's.
        error: What reading them raised.
        fix: What to do where neither the disk is full nor the store away.
    """
    if (full := disk_full(error)) is not None:
        return UserError(full)
    if (gone := outage(error)) is not None:
        return OutageError(gone)
    # MLflow heads the list of what failed with lines that say nothing.
    lines = [line for line in str(error).splitlines() if line.strip() and "####" not in line]
    reason = (lines[1:2] or lines or [type(error).__name__])[0].strip()
    return UserError(
        f"the files of {uri} are gone from the artifact store or cannot be read "
        f"({reason[:200]}): {fix}"
    )


def refused(error: BaseException, sentence: str) -> UserError:
    """Return what to raise where a store refuses something: the sentence, unless it is away."""
    gone = outage(error)
    return UserError(sentence) if gone is None else OutageError(gone)
