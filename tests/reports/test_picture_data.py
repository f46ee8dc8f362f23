import numpy as np
import pytest

from mwray.reports.picture_data import chosen_epochs, columns, drops, rates, relative, shares, upper

NAN = float("nan")


def test_shares_are_within_each_kind() -> None:
    values = np.array([0.1, 0.1, 0.9, 1.5, NAN, 0.9, 0.9])
    clean = np.array([True, True, True, True, True, False, False])
    found = shares(values, clean, np.array([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(found.clean, [2 / 4, 1 / 4])  # NaN is left out, 1.5 is in no bin but counts
    np.testing.assert_allclose(found.wrong, [0, 1])


def test_a_kind_that_is_not_there_has_no_shares() -> None:
    found = shares(np.array([0.1, NAN]), np.array([True, False]), np.array([0.0, 1.0]))
    assert found.wrong is None
    assert found.clean is not None


def test_upper_passes_over_outliers_and_nan() -> None:
    values = np.append(np.linspace(0, 1, 1000), [500.0, NAN, np.inf])
    assert upper(values) == pytest.approx(0.996, abs=2e-3)


@pytest.mark.parametrize("values", [[], [NAN], [0.0, 0.0]])
def test_upper_is_an_axis_limit_even_of_nothing(values: list[float]) -> None:
    assert upper(np.array(values)) > 0


def test_relative_weights_have_mean_one_whatever_their_scale() -> None:
    weights = np.array([0.1, 0.3, NAN])
    np.testing.assert_allclose(relative(weights), [0.5, 1.5, NAN])
    np.testing.assert_allclose(relative(weights / 100), relative(weights))
    np.testing.assert_array_equal(relative(np.zeros(3)), np.zeros(3))


def test_rates_are_of_the_true_class() -> None:
    found = rates(np.array([[3, 1, 0], [0, 0, 0], [0, 5, 5]]))
    np.testing.assert_allclose(found, [[0.75, 0.25, 0], [NAN] * 3, [0, 0.5, 0.5]])


def test_chosen_epochs_keep_both_ends() -> None:
    chosen = chosen_epochs(range(1, 121), most=12)
    assert len(chosen) == 12
    assert (chosen[0], chosen[-1]) == (0, 119)
    np.testing.assert_array_equal(chosen_epochs(range(3)), [0, 1, 2])


def test_drops_lie_where_the_learning_rate_changed() -> None:
    found = drops(np.array([1.0, 2, 3, 4, 5]), np.array([0.1, 0.1, 0.01, 0.01, 0.001]))
    np.testing.assert_array_equal(found, [2, 4])


def test_columns_line_up_and_leave_out_what_is_not_a_number() -> None:
    found = columns([{"epoch": 1, "a": 0.5, "note": "x"}, {"epoch": 2, "b": True, "c": 3}])
    assert set(found) == {"epoch", "a", "c"}
    np.testing.assert_array_equal(found["epoch"], [1, 2])
    np.testing.assert_array_equal(found["a"], [0.5, NAN])
    np.testing.assert_array_equal(found["c"], [NAN, 3])
