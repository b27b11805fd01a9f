//! A table in plain characters: names on the left, numbers on the right.

use std::iter::repeat_n;

/// A number of a table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// How many; written with commas between thousands.
    Count(u64),
    /// How much; written with commas between thousands and three decimals.
    Real(f64),
}

/// A table with its cells written.
#[derive(Debug)]
pub(super) struct Grid {
    /// What stands above each column.
    columns: Vec<String>,
    /// The name and the cells of each row.
    rows: Vec<(String, Vec<String>)>,
}

/// What stands above the names.
const NAMES: &str = "Field";

impl Value {
    fn is_zero(self) -> bool {
        match self {
            Self::Count(count) => count == 0,
            Self::Real(amount) => amount == 0.0,
        }
    }

    fn written(self) -> String {
        match self {
            Self::Count(count) => with_commas(count.to_string()),
            Self::Real(amount) => with_commas(format!("{amount:.3}")),
        }
    }
}

/// Puts commas between the thousands of a decimal number.
fn with_commas(number: String) -> String {
    let digits = number.strip_prefix('-').unwrap_or(&number);
    let integer = digits.find('.').unwrap_or(digits.len());
    if integer <= 3 {
        return number;
    }
    let mut written = String::with_capacity(number.len() + integer / 3);
    let sign = number.len() - digits.len();
    for (place, digit) in number.chars().enumerate() {
        let before = place.checked_sub(sign).filter(|&before| before > 0 && before < integer);
        if before.is_some_and(|before| (integer - before) % 3 == 0) {
            written.push(',');
        }
        written.push(digit);
    }
    written
}

impl Grid {
    /// A table of one column, without rows.
    pub(super) fn of_one_column(column: &str) -> Self {
        Self { columns: vec![column.to_owned()], rows: Vec::new() }
    }

    /// A table whose columns have the same rows in the same order.
    pub(super) fn of_columns<const ROWS: usize>(
        columns: impl Iterator<Item = (String, [(&'static str, Value); ROWS])>,
    ) -> Self {
        let (columns, fields): (Vec<_>, Vec<_>) = columns.unzip();
        let mut grid = Self { columns, rows: Vec::with_capacity(ROWS) };
        if let Some(first) = fields.first() {
            for (row, (name, _)) in first.iter().enumerate() {
                grid.row(name, fields.iter().filter_map(|fields| fields.get(row)).map(|(_, value)| *value));
            }
        }
        grid
    }

    /// Adds a row, unless it is 0 in every column.
    pub(super) fn row(&mut self, name: &str, values: impl IntoIterator<Item = Value>) {
        let values: Vec<Value> = values.into_iter().collect();
        if !values.iter().all(|value| value.is_zero()) {
            self.rows.push((name.to_owned(), values.into_iter().map(Value::written).collect()));
        }
    }

    /// Appends the table, with its title before it; nothing if it has no rows.
    pub(super) fn write(&self, title: &str, text: &mut String) {
        if self.rows.is_empty() {
            return;
        }
        let names = self.rows.iter().map(|(name, _)| name.len()).chain([NAMES.len()]).max().unwrap_or(0);
        let width = |(column, title): (usize, &String)| {
            let cells = self.rows.iter().filter_map(|(_, cells)| cells.get(column)).map(String::len);
            cells.chain([title.len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = self.columns.iter().enumerate().map(width).collect();
        text.extend(["[", title, "]\n"]);
        write_rule(names, &widths, text);
        write_row(NAMES, &self.columns, names, &widths, text);
        write_rule(names, &widths, text);
        for (name, cells) in &self.rows {
            write_row(name, cells, names, &widths, text);
        }
        write_rule(names, &widths, text);
    }
}

fn write_rule(names: usize, widths: &[usize], text: &mut String) {
    for width in std::iter::once(&names).chain(widths) {
        text.push('+');
        text.extend(repeat_n('-', width + 2));
    }
    text.push_str("+\n");
}

fn write_row(name: &str, cells: &[String], names: usize, widths: &[usize], text: &mut String) {
    text.push_str("| ");
    text.push_str(name);
    text.extend(repeat_n(' ', names.saturating_sub(name.len())));
    for (cell, width) in cells.iter().zip(widths) {
        text.push_str(" | ");
        text.extend(repeat_n(' ', width.saturating_sub(cell.len())));
        text.push_str(cell);
    }
    text.push_str(" |\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart_by_commas_and_amounts_have_three_decimals() {
        let written = |value: Value| value.written();
        assert_eq!(written(Value::Count(0)), "0");
        assert_eq!(written(Value::Count(999)), "999");
        assert_eq!(written(Value::Count(525_525)), "525,525");
        assert_eq!(written(Value::Count(1_234_567_890)), "1,234,567,890");
        assert_eq!(written(Value::Real(0.0)), "0.000");
        assert_eq!(written(Value::Real(160.7451)), "160.745");
        assert_eq!(written(Value::Real(138_089.9391)), "138,089.939");
        assert_eq!(written(Value::Real(999_999.9999)), "1,000,000.000");
        assert_eq!(written(Value::Real(-1234.5)), "-1,234.500");
    }

    #[test]
    fn a_row_of_zeros_is_left_out_and_a_table_without_rows_too() {
        let mut grid = Grid::of_one_column("Value");
        grid.row("nothing", [Value::Count(0)]);
        let mut text = String::new();
        grid.write("Empty", &mut text);
        assert_eq!(text, "");
        grid.row("something", [Value::Real(0.25)]);
        grid.write("Full", &mut text);
        let table = "[Full]\n\
                     +-----------+-------+\n\
                     | Field     | Value |\n\
                     +-----------+-------+\n\
                     | something | 0.250 |\n\
                     +-----------+-------+\n";
        assert_eq!(text, table);
    }
}
