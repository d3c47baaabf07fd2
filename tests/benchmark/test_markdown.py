from signforge.benchmark.markdown import _list, table_markdown
from signforge.benchmark.tables import Table


def test_markdown_cells_cannot_break_the_table():
    table = Table("t", ("name", "n"), (("a|b\nc\\", "1"),))
    assert table_markdown(table) == "| name | n |\n| --- | ---: |\n| a\\|b c\\\\ | 1 |"


def test_names_stay_text_in_cells_and_lists():
    table = Table("t", ("name",), (("<img src=x> [a](http://b)",),))
    assert table_markdown(table).endswith("| &lt;img src=x> \\[a](http://b) |")
    assert _list(["of <img src=x> &\nsuch", "`real`"]) == "- of &lt;img src=x> &amp; such\n- `real`"
