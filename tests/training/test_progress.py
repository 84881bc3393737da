import io

from rich.console import Console

from svdistill.runs.records import EpochRecord
from svdistill.training import progress
from svdistill.training.progress import BarReporter, Reporter

RECORD = EpochRecord(
    "both", 4, 0.05, 1.2345, 0.5, 61.0, 62.5, 63.25, 1.3, 1.0, 2.0, 0.5, 1234.0, 9.0
)


class Meter:
    """An epoch so far, that counts how often it is read."""

    readings = 0

    def mean_task_loss(self):
        self.readings += 1
        return 1.5

    def train_accuracy(self):
        return 42.0


METER = Meter()


def watched():
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    with BarReporter(console) as reporter:
        reporter.start("run", total_steps=10, done_steps=4)
        reporter.bar.refresh()
        begun = console.file.getvalue()
        for _ in range(3):
            reporter.step(METER)
        reporter.bar.refresh()
        reporter.epoch(RECORD)
    return begun, console.file.getvalue()


def test_the_bar_goes_on_from_where_a_run_was_stopped():
    begun, shown = watched()
    assert "4/10" in begun
    assert "nan" not in begun
    assert "7/10" in shown
    assert "loss 1.500  accuracy 42.0 %" in shown


def test_steps_in_quick_succession_read_the_meter_once(monkeypatch):
    """Each reading waits for the device."""
    now, meter = [100.0], Meter()
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with BarReporter(Console(file=io.StringIO())) as reporter:
        reporter.start("run", 100, 0)
        for seconds, readings in ((0, 1), (0.1, 1), (0.2, 2), (0.2, 2)):
            now[0] += seconds
            reporter.step(meter)
            assert meter.readings == readings


def test_an_epoch_is_a_line_that_counts_from_one():
    line = next(line for line in watched()[1].splitlines() if "both epoch" in line)
    for expected in ("epoch   5", "lr 0.05", "loss 1.2345", "transfer 0.5", "test 63.25 %"):
        assert expected in line
    assert "dev 62.50 %" in line


def test_the_bar_counts_images_too():
    console = Console(file=io.StringIO(), width=200, force_terminal=True)
    with BarReporter(console) as reporter:
        reporter.start("store", 400, 64)
        reporter.advance(50)
        reporter.bar.refresh()
        assert "114/400" in console.file.getvalue()


def test_a_plain_reporter_says_nothing(capsys):
    with Reporter() as reporter:
        reporter.start("run", 10, 0)
        reporter.step(None)
        reporter.epoch(RECORD)
        reporter.message("text")
    assert capsys.readouterr().out == ""


def test_the_time_is_told_from_the_first_steps_but_those_that_load(monkeypatch):
    now, console = [0.0], Console(file=io.StringIO(), width=120)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with BarReporter(console) as reporter:
        reporter.start("run", total_steps=1210, done_steps=10, evaluations=1200.0)
        for seconds in (30.0, 30.0, *[0.5] * 20):
            now[0] += seconds
            reporter.step(METER)
    shown = console.file.getvalue()
    assert shown.count("evaluations") == 1
    assert "1,200 steps of 0.5 s, and evaluations: about 20 min" in shown


def test_a_log_has_a_line_a_minute_of_steps_and_images(monkeypatch):
    now, console = [0.0], Console(file=io.StringIO(), width=200)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with BarReporter(console) as reporter:
        for number in range(1, 201):
            reporter.reading(number, 200)
            now[0] += 1.0
        reporter.start("run", total_steps=1000, done_steps=100)
        for _ in range(100):
            now[0] += 1.0
            reporter.step(METER)
    lines = [line for line in console.file.getvalue().splitlines() if " left" in line]
    assert lines == [
        "61 of 200 images read, about 2 min left",
        "121 of 200 images read, about 1 min left",
        "181 of 200 images read, about 19 s left",
        "step 160 of 1,000  loss 1.500  accuracy 42.0 %  about 14 min left",
    ]


def test_a_message_is_text():
    console = Console(file=io.StringIO(), width=120)
    BarReporter(console).message("[/INST] [red]dog[/red] :cat: \x1b[2J")
    assert console.file.getvalue() == "[/INST] [red]dog[/red] :cat: \\x1b[2J\n"
