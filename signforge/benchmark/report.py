"""A finished (or cut short) benchmark as HTML, Markdown, CSV and plots.

Everything is made from the files of the run directory, so a report can be made again at any time.
"""

from pathlib import Path

from signforge.benchmark.csv_tables import classes_csv, results_csv
from signforge.benchmark.html_report import report_html
from signforge.benchmark.markdown import report_markdown
from signforge.benchmark.plots import save_class_balance, save_per_class_gain
from signforge.benchmark.record import read_record
from signforge.benchmark.summary import Summary, summarise_run
from signforge.files import write_atomically


def write_report(run_dir: Path) -> Summary:
    """Writes report.html, results.md, results.csv, classes.csv and two plots.

    Raises SignforgeError where the folder holds no finished row.
    """
    summary = summarise_run(run_dir)
    write_summary(run_dir, summary)
    return summary


def write_summary(run_dir: Path, summary: Summary) -> None:
    """The files of ``write_report``, for a summary of ``run_dir`` that is there already."""
    record = read_record(run_dir)
    save_class_balance(run_dir / "class_balance.png", summary)
    save_per_class_gain(run_dir / "per_class_gain.png", summary)
    write_atomically(run_dir / "results.csv", results_csv(summary).encode())
    write_atomically(run_dir / "classes.csv", classes_csv(summary).encode())
    write_atomically(run_dir / "results.md", report_markdown(summary, record).encode())
    write_atomically(run_dir / "report.html", report_html(run_dir, summary, record).encode())
