"""quick_imports: what is skipped is there for whoever asks for it, and the collector is as it was."""

import gc
import sys
from collections.abc import Iterator

import pytest

from lightning_cifake.commands.quick_imports import quick_imports


@pytest.fixture
def without_signal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import scipy

    for name in [name for name in sys.modules if name.startswith("scipy.signal")]:
        monkeypatch.delitem(sys.modules, name)
    before = vars(scipy).pop("signal", None)  # not by hasattr: scipy would import it
    yield
    vars(scipy).pop("signal", None)
    if before is not None:
        vars(scipy)["signal"] = before


@pytest.mark.usefixtures("without_signal")
def test_scipy_signal_is_not_imported_by_what_only_looks_for_a_name_in_it() -> None:
    with quick_imports():
        import scipy.signal

        assert hasattr(scipy.signal, "hamming")  # as torchmetrics asks
        assert "scipy.signal._signaltools" not in sys.modules
    assert "scipy.signal" not in sys.modules


@pytest.mark.usefixtures("without_signal")
def test_scipy_signal_is_whole_for_whoever_uses_it_inside_or_behind() -> None:
    with quick_imports():
        import scipy.signal

        early = scipy.signal
        from scipy.signal import convolve

        assert convolve([1, 2], [3]).tolist() == [3, 6]
    import scipy.signal

    assert early.convolve is scipy.signal.convolve is convolve and early is not scipy.signal


def test_the_collector_is_on_again_even_behind_an_error_and_stays_off_where_it_was() -> None:
    with pytest.raises(ImportError), quick_imports():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()
    gc.disable()
    try:
        with quick_imports():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()
