"""results.md: the report as Markdown, for terminals, diffs and code hosts."""

from collections.abc import Sequence

from signforge.benchmark.arms import BASELINE
from signforge.benchmark.fidelity_tables import (
    fidelity_class_table,
    fidelity_table,
    real_macro_accuracy,
)
from signforge.benchmark.folder import commands_of
from signforge.benchmark.protocol import environment_lines, fidelity_note, protocol_lines
from signforge.benchmark.record import RunRecord
from signforge.benchmark.summary import Summary
from signforge.benchmark.tables import (
    Table,
    arms_table,
    class_table,
    group_gains_table,
)


def report_markdown(summary: Summary, record: RunRecord) -> str:
    """The whole of results.md, verdict first."""
    fidelity = [fidelity_note(record)]
    if record.fidelity is not None:
        real_macro = real_macro_accuracy(summary, record)
        table = fidelity_table(record.fidelity, record.dataset["class_names"], real_macro)
        fidelity.insert(0, table_markdown(table))
    of_classes = fidelity_class_table(summary, record)
    if of_classes is not None:
        fidelity += ["### Fidelity of each class", table_markdown(of_classes)]
    repeat = [f"To repeat: `{command}`" for command in commands_of(record.environment)]
    parts = [
        f"# {_cell(record.title)}",
        summary.verdict,
        table_markdown(arms_table(summary)),
        "Mean ± standard deviation over seeds. Gains are in percentage points, here of macro "
        "accuracy (mean per-class recall), paired by seed and test image, with 95 % intervals "
        "(about 90 % for the worst class, the minimum being biased). Many, medium and few are "
        "classes with more than 100, 20 to 100 and fewer than 20 training images.",
        *_group_gains(summary),
        "![Gain of each class](per_class_gain.png)",
        "![Images of each class before and after balancing](class_balance.png)",
        "## Recall of each class",
        table_markdown(class_table(summary)),
        "## Fidelity of the synthetic images",
        *fidelity,
        "## Protocol",
        _list(protocol_lines(record, summary)),
        "## Environment",
        _list([*environment_lines(record), *repeat]),
    ]
    return "\n\n".join(parts) + "\n"


def _group_gains(summary: Summary) -> list[str]:
    """Headings and tables, over ``real`` and over the best cheap arm."""
    parts = []
    for over in (BASELINE, summary.best_cheap):
        table = group_gains_table(summary, over) if over else None
        if table is not None:
            parts += [f"## {table.title}", table_markdown(table)]
    return parts


def table_markdown(table: Table) -> str:
    """A pipe table, without its title."""
    rules = ["---" if n < table.text_columns else "---:" for n in range(len(table.header))]
    lines = [table.header, tuple(rules), *table.rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {_without_html(line)}" for line in lines)


def _cell(text: str) -> str:
    return _without_html(text).replace("\\", "\\\\").replace("|", "\\|").replace("[", "\\[")


def _without_html(text: str) -> str:
    """Class names come from folders, and code hosts show HTML in Markdown; on one line."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
