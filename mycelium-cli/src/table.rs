//! Tables with a rule around every row, as scripts that read mycelium's output know them.

use std::fmt;

/// Rows of cells; the header is an ordinary row.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with this header.
    pub(crate) fn new(header: &[&str]) -> Self {
        Self {
            rows: vec![header.iter().map(|&cell| cell.to_owned()).collect()],
        }
    }

    /// Add a row. Cells beyond the header's are not shown, missing ones are empty.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        let cells = cells.into_iter().map(|cell| printable(&cell));
        self.rows.push(cells.collect());
    }

    /// Add a column to the right: its header, and a cell for every row so far.
    pub(crate) fn column(&mut self, header: &str, cells: impl IntoIterator<Item = Option<String>>) {
        let mut cells = cells.into_iter();
        for (index, row) in self.rows.iter_mut().enumerate() {
            row.push(if index == 0 {
                header.to_owned()
            } else {
                printable(&cells.next().flatten().unwrap_or_default())
            });
        }
    }
}

/// A terminal obeys control characters; what others may have chosen must not steer it.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut widths = vec![0; self.rows.first().map_or(0, Vec::len)];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut rule: String = widths
            .iter()
            .map(|width| format!("+{}", "-".repeat(width + 2)))
            .collect();
        rule.push('+');
        writeln!(f, "{rule}")?;
        for row in &self.rows {
            for (index, width) in widths.iter().enumerate() {
                let cell = row.get(index).map_or("", String::as_str);
                write!(f, "| {cell:width$} ")?;
            }
            writeln!(f, "|\n{rule}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_rule_below() {
        let mut table = Table::new(&["Id", "Name"]);
        table.row(vec!["1".to_owned(), "überlang".to_owned()]);
        table.row(vec!["23".to_owned(), "b\x1b[2J".to_owned()]);
        table.column("More", [None, Some("x".to_owned())]);
        assert_eq!(
            table.to_string(),
            "\
+----+----------+------+
| Id | Name     | More |
+----+----------+------+
| 1  | überlang |      |
+----+----------+------+
| 23 | b\u{fffd}[2J    | x    |
+----+----------+------+
"
        );
    }

    #[test]
    fn a_table_without_rows_is_its_header() {
        assert_eq!(Table::new(&["A"]).to_string(), "+---+\n| A |\n+---+\n");
    }
}
