import io
import os
import signal

import pytest
from rich.console import Console

from signforge.benchmark.tables import Table
from signforge.terminal import (
    StopSignals,
    is_first_process,
    print_lines,
    print_message,
    print_notes,
    print_table,
    rich_track,
    stderr_console,
)

LONG = "runs/[red]brackets[/red]/" + "deep/" * 60 + ":smile: 12 images"


def plain_console() -> tuple[Console, io.StringIO]:
    """What stderr is in a script: no terminal."""
    file = io.StringIO()
    return Console(file=file, width=80), file


def live_console() -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=120, force_terminal=True, color_system=None), file


def test_a_message_is_one_line_and_verbatim() -> None:
    console, file = plain_console()
    print_message(console, LONG)
    assert file.getvalue() == LONG + "\n"


def test_a_note_is_one_line_each() -> None:
    console, file = plain_console()
    print_notes(console, ["train.p[3] is odd.", LONG])
    assert file.getvalue() == f"Note: train.p[3] is odd.\nNote: {LONG}\n"


def test_messages_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    print_message(stderr_console(), "hello")
    assert capsys.readouterr() == ("", "hello\n")


@pytest.mark.parametrize(("rank", "first"), [(None, True), ("0", True), ("1", False)])
def test_only_the_first_of_several_processes_speaks(
    rank: str | None, first: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    print_message(stderr_console(), "hello")
    assert is_first_process() == first
    assert capsys.readouterr() == ("", "hello\n" if first else "")


@pytest.mark.parametrize("make", [plain_console, live_console])
def test_a_track_yields_every_item(make) -> None:
    console, file = make()
    assert list(rich_track(console)(iter("abc"), "Reading", 3)) == ["a", "b", "c"]
    assert ("Reading" in file.getvalue()) == console.is_terminal


def test_a_track_shows_its_description_verbatim() -> None:
    console, file = live_console()
    assert list(rich_track(console)(range(2), "Reading [old] signs", 2)) == [0, 1]
    assert "Reading [old] signs" in file.getvalue()


def test_a_track_that_is_left_early_cleans_up() -> None:
    """A bar left open would refuse the next one: rich draws one live display at a time."""
    console, _ = live_console()
    track = rich_track(console)

    def read_half() -> None:
        for item in track(range(5), "First", 5):
            if item == 2:
                raise ValueError("broken file")

    with pytest.raises(ValueError, match="broken file"):
        read_half()
    assert list(track(range(2), "Second", 2)) == [0, 1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_becomes_a_flag(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    with StopSignals() as stop:
        assert not stop()
        assert stop.exit_code is None
        os.kill(os.getpid(), number)
        assert stop()
        assert stop.exit_code == code
    assert signal.getsignal(number) is before


def test_a_second_interrupt_acts_at_once() -> None:
    # A shell's background job starts with interrupts ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop()
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_handlers_come_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="inside"), StopSignals():
        raise ValueError("inside")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_table_keeps_its_cells_whole(capsys: pytest.CaptureFixture[str]) -> None:
    cells = tuple(f"{'x' * 18}{n}" for n in range(8))
    print_table(Table(title="Arms", header=cells, rows=(cells,), text_columns=1))
    out, err = capsys.readouterr()
    assert all(out.count(cell) == 2 for cell in cells)
    assert err == ""


def test_a_table_shows_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    row = ("stop [old]", "[red]", "1")
    print_table(Table(title="Classes", header=("class", "b", "n"), rows=(row,), text_columns=1))
    out = capsys.readouterr().out
    assert all(cell in out for cell in row)


def test_lines_are_plain(capsys: pytest.CaptureFixture[str]) -> None:
    print_lines([LONG, "second"])
    assert capsys.readouterr() == (f"{LONG}\nsecond\n", "")
