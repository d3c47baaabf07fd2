from signforge.benchmark.markdown import table_markdown
from signforge.benchmark.tables import Table


def test_markdown_cells_cannot_break_the_table():
    table = Table("t", ("name", "n"), (("a|b\nc\\", "1"),))
    assert table_markdown(table) == "| name | n |\n| --- | ---: |\n| a\\|b c\\\\ | 1 |"
