"""The study of a search: where its trials are kept, in Optuna's terms.

Akiba et al., Optuna: A next-generation hyperparameter optimization framework, 2019.
"""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mnist_lit.config.schema import Search
from mnist_lit.errors import ConfigError, need, reason
from mnist_lit.text import masked

BEAT, STALE = (
    15,
    60,
)  # seconds between signs of life, and without one until a trial counts as killed


@contextmanager
def opened_study(search: Search, steps: int = 1) -> Iterator[Any]:
    """Yield the ``optuna.Study`` that a search keeps its trials in; it is made if it is new.

    Args:
        search: The keys of the search.
        steps: How many values a trial reports.

    Raises:
        MissingPackageError: Optuna is not installed.
        ConfigError: The storage cannot be reached, or no longer.
    """
    optuna = need("optuna", "search")
    from sqlalchemy import NullPool

    optuna.logging.set_verbosity(logging.ERROR)  # a line for every trial comes from the search
    # A rate that rises for a third of the epochs says little in the first of them.
    spared = max(2, steps // search.repeats // 4)
    pruners = {
        "none": optuna.pruners.NopPruner,
        "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=spared),
        "hyperband": lambda: optuna.pruners.HyperbandPruner(min_resource=2, max_resource=steps),
    }
    url = str(search.storage)
    # A connection that is kept would go on with a file that has been removed.
    file = {"connect_args": {"timeout": 60}, "poolclass": NullPool}
    with quiet_optuna():
        try:
            storage = optuna.storages.RDBStorage(
                url,
                engine_kwargs={"pool_pre_ping": True, **(file if url.startswith("sqlite") else {})},
                heartbeat_interval=BEAT,
                grace_period=STALE,
                heartbeat_stale_trial_callback=repeat_trial,
                skip_table_creation=search.trial is not None,  # a trial's process finds its study
            )
            study = optuna.create_study(
                storage=storage,
                study_name=search.study,
                direction="maximize",
                sampler=optuna.samplers.TPESampler(multivariate=True, constant_liar=True),
                pruner=pruners[search.pruner](),
                load_if_exists=True,
            )
        except Exception as error:  # of SQLAlchemy, a driver or Optuna
            raise ConfigError(
                f"search.storage={masked(url)}: cannot be used: {masked(reason(error))}"
            ) from None
    try:
        yield study
    except optuna.exceptions.StorageInternalError as error:
        raise ConfigError(
            f"search.storage={masked(url)}: no longer to be used: "
            f"{masked(reason(error.__cause__ or error))}"
        ) from None
    finally:
        storage.remove_session()
        storage.engine.dispose()


def repeat_trial(study: Any, trial: Any) -> None:
    """Have the parameters of a trial that was killed tried again, under a number of its own."""
    import optuna

    with quiet_optuna():
        # Optuna adds to the trial's own list.
        optuna.storages.RetryHeartbeatStaleTrialCallback()(study, copy.deepcopy(trial))


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Keep from the console what Optuna says of its own interface."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", "Heartbeat of storage is supposed to be used with")
        yield
