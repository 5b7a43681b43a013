"""Reads a study of many trials from its storage in a moment.

Optuna makes an object of SQLAlchemy's for every value and every attribute, which takes 4 s of a
process's time for 10,000 trials. Here only rows are read; what is made of them is Optuna's.
"""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session

_PARTS = {
    "params": models.TrialParamModel,
    "values": models.TrialValueModel,
    "user_attributes": models.TrialUserAttributeModel,
    "system_attributes": models.TrialSystemAttributeModel,
    "intermediate_values": models.TrialIntermediateValueModel,
}


@dataclass(frozen=True)
class _Row:
    """What Optuna looks at to make a trial: of each part, rows with the names of its columns."""

    trial_id: int
    number: int
    state: TrialState
    datetime_start: datetime | None
    datetime_complete: datetime | None
    params: list[Any]
    values: list[Any]
    user_attributes: list[Any]
    system_attributes: list[Any]
    intermediate_values: list[Any]


class Storage(RDBStorage):
    """Optuna's storage, which reads all trials of a study at once faster."""

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        if states is not None or trial_id_greater_than >= 0:
            found: list[FrozenTrial] = super()._get_trials(
                study_id, states, included_trial_ids, trial_id_greater_than
            )
            return found
        with self.scoped_session() as session, _without_collector():
            return [
                self._build_frozen_trial_from_trial_model(row) for row in _rows(session, study_id)
            ]


@contextmanager
def _without_collector() -> Iterator[None]:
    """Make many objects without a search for garbage among them every so often."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def _rows(session: Session, study_id: int) -> list[_Row]:
    parts = {name: _part(session, model, study_id) for name, model in _PARTS.items()}
    trials = (
        session.query(models.TrialModel)
        .filter(models.TrialModel.study_id == study_id)
        .order_by(models.TrialModel.trial_id)
    )
    return [
        _Row(
            trial.trial_id,
            trial.number,
            trial.state,
            trial.datetime_start,
            trial.datetime_complete,
            **{name: rows[trial.trial_id] for name, rows in parts.items()},
        )
        for trial in trials
    ]


def _part(session: Session, model: Any, study_id: int) -> defaultdict[int, list[Any]]:
    """Return a table's rows by trial."""
    ours = sqlalchemy.select(models.TrialModel.trial_id).where(
        models.TrialModel.study_id == study_id
    )
    table = model.__table__
    found: defaultdict[int, list[Any]] = defaultdict(list)
    for row in session.execute(table.select().where(table.c.trial_id.in_(ours))):
        found[row.trial_id].append(row)
    return found
