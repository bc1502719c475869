import pytest

from darla import errors
from darla.errors import DarlaError, did_you_mean

KINDS = [kind for name, kind in vars(errors).items() if name.endswith("Error")]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_is_a_darla_error_and_says_what_it_is(kind: type):
    assert issubclass(kind, DarlaError)
    assert kind.__doc__


def test_there_are_errors():
    assert len(KINDS) > 5


def test_did_you_mean_names_the_nearest_or_nothing():
    assert did_you_mean("lab-quikc", ["lab", "lab-quick", "jaco"]) == " (did you mean 'lab-quick'?)"
    assert did_you_mean("zzz", ["lab", "jaco"]) == ""
    assert did_you_mean("lab", []) == ""
