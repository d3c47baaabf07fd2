import io
from dataclasses import replace

import pytest
from rich.console import Console

from signforge.config import GanConfig
from signforge.gan.metrics import Status
from signforge.live import LISTED_CLASSES, events, gan_display, minutes_left, status_line
from signforge.terminal import print_message

NAMES = ("stop", "yield [old]", "[red]no entry[/red]", *map(str, range(3, 43)))
STATUS = Status(
    seen_kimg=100.0,
    seconds=60.0,
    images_per_second=250.0,
    discriminator_loss=1.25,
    generator_loss=0.5,
    real_logits_mean=0.1,
    fake_logits_mean=-0.1,
    generator_learning_rate=4e-4,
    discriminator_learning_rate=2e-4,
    memory_mib=1536.0,
)
PROBED = replace(
    STATUS,
    label_agreement=0.912,
    worst_class_label_agreement=0.25,
    worst_class=2,
    fd=30.5,
    fd_ratio=2.125,
    collapsed_classes=(2, 1),
)
CONFIG = GanConfig(total_kimg=400)


def shown(*statuses: Status, live: bool) -> list[str]:
    file = io.StringIO()
    console = Console(file=file, width=120, force_terminal=live, color_system=None)
    with gan_display(console, CONFIG, NAMES) as display:
        for status in statuses:
            display.on_status(status)
    return file.getvalue().splitlines()


# --- lines ---------------------------------------------------------------------------------------


def test_a_status_is_one_line_without_a_terminal() -> None:
    # 300,000 images at 250 a second are 20 minutes.
    assert shown(STATUS, live=False) == [
        "GAN 100 kimg  250 img/s  D 1.250  G 0.500  lr G 0.0004, D 0.0002  1536 MiB  20.0 min left"
    ]


def test_a_line_has_all_that_a_probe_found() -> None:
    line = status_line(replace(PROBED, rollbacks=2), CONFIG, NAMES)
    worst = "worst 25.0 %: 2 [red]no entry[/red]"
    assert f"  label agreement 91.2 % ({worst})  fd 30.5 (2.12 times real)  " in line
    assert "  rollbacks 2  " in line


def test_a_distance_without_a_floor() -> None:
    assert "  fd 30.5  " in status_line(replace(PROBED, fd_ratio=None), CONFIG, NAMES)


@pytest.mark.parametrize(("max_minutes", "left"), [(None, 20.0), (5, 4.0), (100, 20.0), (0.5, 0.0)])
def test_the_time_left_ends_at_the_earlier_limit(max_minutes: float | None, left: float) -> None:
    config = GanConfig(total_kimg=400, max_minutes=max_minutes)
    assert minutes_left(STATUS, config) == pytest.approx(left)


def test_the_time_left_counts_what_is_done_between_steps() -> None:
    assert minutes_left(replace(STATUS, pace_images_per_second=125.0), CONFIG) == pytest.approx(40)


@pytest.mark.parametrize("seen_kimg", [400.0, 410.0])
def test_nothing_is_left_of_a_finished_run(seen_kimg: float) -> None:
    assert minutes_left(replace(STATUS, seen_kimg=seen_kimg, images_per_second=0.0), CONFIG) == 0


# --- what must not be missed ---------------------------------------------------------------------


def test_nothing_new_is_nothing_said() -> None:
    assert events(None, STATUS, NAMES) == []
    assert events(PROBED, PROBED, NAMES) == []
    assert events(PROBED, replace(PROBED, collapsed_classes=(1, 2)), NAMES) == []


def test_classes_that_collapse_and_recover_are_named() -> None:
    later = replace(PROBED, seen_kimg=120.0, collapsed_classes=(0, 1))
    assert events(None, PROBED, NAMES) == [
        "Classes at 100 kimg: collapsed: 1 yield [old], 2 [red]no entry[/red]."
    ]
    assert events(PROBED, later, NAMES) == [
        "Classes at 120 kimg: collapsed: 0 stop; recovered: 2 [red]no entry[/red]."
    ]
    assert events(later, replace(PROBED, collapsed_classes=()), NAMES) == [
        "Classes at 100 kimg: recovered: 0 stop, 1 yield [old]."
    ]


def test_many_collapsed_classes_are_counted() -> None:
    (sentence,) = events(None, replace(PROBED, collapsed_classes=tuple(range(43))), NAMES)
    assert sentence.endswith(f" and {43 - LISTED_CLASSES} more.")
    assert len(sentence) < 200


def test_a_rollback_is_said_once() -> None:
    rolled = replace(STATUS, rollbacks=1)
    (sentence,) = events(STATUS, rolled, NAMES)
    assert sentence.startswith("At 100 kimg the GAN has been rolled back")
    assert "for the first time" in sentence
    assert events(rolled, rolled, NAMES) == []


@pytest.mark.parametrize(("rollbacks", "times"), [(1, "once"), (2, "2 times")])
def test_rollbacks_before_the_first_status_are_counted(rollbacks: int, times: str) -> None:
    """A resumed run may have had them long ago, so it is not said when."""
    (sentence,) = events(None, replace(STATUS, rollbacks=rollbacks), NAMES)
    assert sentence.startswith(
        f"The GAN has been rolled back to its last good state {times} so far"
    )


@pytest.mark.parametrize("live", [False, True])
def test_names_are_shown_verbatim(live: bool) -> None:
    text = "\n".join(shown(PROBED, live=live))
    assert "collapsed: 1 yield [old], 2 [red]no entry[/red]." in text


# --- the panel -----------------------------------------------------------------------------------


def test_a_panel_on_a_terminal() -> None:
    text = "\n".join(shown(replace(PROBED, rollbacks=1), live=True))
    rows = {line.split()[1] for line in text.splitlines() if line.startswith("│ ")}
    assert {"done", "speed", "loss", "learning", "label", "Frechet", "collapsed"} <= rows
    for figure in (
        "GAN: 100 of 400 kimg",
        "250 img/s, 20.0 min left",
        "discriminator 1.250, generator 0.500",
        "G 0.0004, D 0.0002",
        "91.2 % (worst 25.0 %: 2 [red]no entry[/red])",
        "30.5 (2.12 times real)",
        "2 [red]no entry[/red], 1 yield [old]",
        "1,536 MiB",
    ):
        assert figure in text, figure


def test_without_a_probe_its_rows_are_left_out() -> None:
    text = "\n".join(shown(STATUS, live=True))
    assert "label agreement" not in text
    assert "collapsed" not in text


def test_a_finished_run_may_have_seen_more_than_asked_for() -> None:
    assert any(
        "GAN: 410 of 400 kimg" in line
        for line in shown(replace(STATUS, seen_kimg=410.0), live=True)
    )


def test_tracks_and_messages_stand_beside_the_panel() -> None:
    """rich draws one live display at a time, so a bar of its own would be refused."""
    file = io.StringIO()
    console = Console(file=file, width=120, force_terminal=True, color_system=None)
    with gan_display(console, CONFIG, NAMES) as display:
        assert list(display.track(iter("abc"), "classifier [x]", 3)) == ["a", "b", "c"]
        display.message("tensorboard [failed]")
        print_message(console, "straight to the console")
    text = file.getvalue()
    assert "classifier [x] 1 of 3" in text
    assert "tensorboard [failed]\n" in text
    assert "straight to the console\n" in text


@pytest.mark.parametrize("live", [False, True])
def test_a_display_that_is_left_by_an_error_makes_room_for_the_next(live: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=live)

    def fail() -> None:
        with gan_display(console, CONFIG, NAMES) as display:
            display.on_status(STATUS)
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    with gan_display(console, CONFIG, NAMES) as display:
        display.on_status(STATUS)
