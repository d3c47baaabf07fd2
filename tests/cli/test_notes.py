import warnings

import pytest

from signforge.cli.notes import warnings_to


def test_each_warning_is_shown_once_and_nothing_else_changes():
    shown = []
    before = warnings.showwarning
    with warnings_to(shown.append):
        for _ in range(2):
            warnings.warn("The gate keeps little of 'stop'.", stacklevel=1)
        warnings.warn("The gate keeps little of 'yield'.", stacklevel=1)
    assert shown == ["The gate keeps little of 'stop'.", "The gate keeps little of 'yield'."]
    assert warnings.showwarning is before
    with pytest.warns(UserWarning, match="afterwards"):
        warnings.warn("afterwards", stacklevel=1)


def test_warnings_of_other_kinds_go_where_they_did():
    shown = []
    with pytest.raises(DeprecationWarning, match="old"), warnings_to(shown.append):
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert shown == []
