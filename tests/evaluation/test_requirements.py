import pytest

from mnist_lit.config.schema import Requirements
from mnist_lit.errors import UserError
from mnist_lit.evaluation.requirements import check_accuracy, check_before, refuse
from mnist_lit.network.compact import CompactCNN

LIMITS = Requirements(
    min_val_accuracy=0.994,
    max_parameters=20_000,
    max_epochs=20,
    batch_norm=True,
    dropout=True,
    fully_connected=True,
    enforce=True,
)


@pytest.mark.parametrize(
    ("correct", "passed"), [(9_939, False), (9_940, True), (9_941, True), (10_000, True)]
)
def test_accuracy_is_met_from_exactly_its_limit_on(correct: int, passed: bool) -> None:
    (check,) = check_accuracy(correct / 10_000, LIMITS)
    assert check.passed is passed
    verdict = "✓" if passed else "✗"
    assert check.line().startswith(f"{verdict} Validation Accuracy ≥ 99.4%:")


def test_parameters_must_be_strictly_fewer() -> None:
    network = CompactCNN([{"channels": 4}], dropout=0.1)
    for limit, passed in ((94, False), (95, True)):
        limits = LIMITS.model_copy(update={"max_parameters": limit})
        check = check_before(network, 20, limits)[0]
        assert (check.name, check.value, check.passed) == ("max_parameters", 94, passed)


def test_a_layer_that_is_not_asked_for_may_be_missing() -> None:
    network = CompactCNN([{"channels": 4}])
    missing = {c.name for c in check_before(network, 20, LIMITS) if not c.passed}
    assert missing == {"dropout"}
    relaxed = LIMITS.model_copy(update={"dropout": False})
    refuse(check_before(network, 20, relaxed))


def test_refusal_names_everything_that_is_over_budget() -> None:
    network = CompactCNN([{"channels": 64}, {"channels": 64}])
    with pytest.raises(UserError) as caught:
        refuse(check_before(network, 30, LIMITS))
    message = str(caught.value)
    for part in ("max_parameters=20000", "max_epochs=20, but this run has 30", "dropout=True"):
        assert part in message
    assert "requirements.enforce=false" in message
    assert "\n" not in message
