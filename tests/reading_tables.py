"""Reads cells and texts of tables, for tests."""

from steadylens.report.tables import Cell, Table


def cells(table: Table, name: str) -> tuple[Cell, ...]:
    return next(row.cells[1:] for row in table.rows if row.cells[0].text == name)


def texts(table: Table, name: str) -> list[str]:
    return [cell.text for cell in cells(table, name)]


def best_in_column(table: Table, column: int) -> list[str]:
    return [row.cells[0].text for row in table.rows if row.cells[column].best]
