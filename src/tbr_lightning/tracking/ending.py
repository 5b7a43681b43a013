"""How a run ends: with a status that tells the truth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import mlflow
from mlflow.entities import RunStatus


@contextmanager
def true_status(
    killed_by: tuple[type[BaseException], ...] = (KeyboardInterrupt,),
) -> Iterator[None]:
    """End the open run with the block.

    It ends as FINISHED, as KILLED after one of the errors ``killed_by``, or as FAILED with the
    error's words in the tag ``tbr.failure``.
    """
    status = RunStatus.FINISHED
    try:
        yield
    except killed_by:
        status = RunStatus.KILLED
        raise
    except BaseException as error:
        status = RunStatus.FAILED
        mlflow.set_tag("tbr.failure", f"{type(error).__name__}: {error}"[:500])
        raise
    finally:
        mlflow.end_run(RunStatus.to_string(status))
