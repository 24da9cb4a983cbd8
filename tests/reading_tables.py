"""What tests look for in a table."""

from steadylens.report.tables import Cell, Table


def cells(table: Table, name: str) -> tuple[Cell, ...]:
    return next(line.cells[1:] for line in table.lines if line.cells[0].text == name)


def texts(table: Table, name: str) -> list[str]:
    return [cell.text for cell in cells(table, name)]


def best_in_column(table: Table, column: int) -> list[str]:
    return [line.cells[0].text for line in table.lines if line.cells[column].best]
