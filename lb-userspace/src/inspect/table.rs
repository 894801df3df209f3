//! Lines with columns, as kubectl prints them: aligned, without rules, headings in capitals.

use std::fmt::Write as _;

/// What can be a line of a table.
pub trait Row {
    /// Headings, in the order of the columns. Those of the wide table begin with those of the other.
    fn headings(wide: bool) -> Vec<&'static str>;
    /// As many cells as there are headings.
    fn cells(&self, wide: bool) -> Vec<String>;
}

/// All rows under their headings.
#[must_use]
pub fn table<R: Row>(rows: &[R], wide: bool) -> String {
    let headings = R::headings(wide).into_iter().map(str::to_owned).collect();
    let mut lines: Vec<Vec<String>> = vec![headings];
    lines.extend(rows.iter().map(|row| row.cells(wide)));
    let columns = lines[0].len();
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let cells = lines.iter().filter_map(|line| line.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for line in &lines {
        let mut padded = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            write!(padded, "{cell:<width$}   ").expect("writing to a string succeeds");
        }
        text += padded.trim_end();
        text.push('\n');
    }
    text
}

/// A cell that may have nothing in it.
pub(super) fn or_dash(cell: Option<impl ToString>) -> String {
    cell.map_or_else(|| "-".to_owned(), |cell| cell.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pair(&'static str, &'static str);

    impl Row for Pair {
        fn headings(_: bool) -> Vec<&'static str> {
            vec!["NAME", "VALUE"]
        }
        fn cells(&self, _: bool) -> Vec<String> {
            vec![self.0.into(), self.1.into()]
        }
    }

    #[test]
    fn columns_are_aligned_and_lines_end_with_their_last_cell() {
        let text = table(&[Pair("a", "1"), Pair("longer", "")], false);
        assert_eq!(text, "NAME     VALUE\na        1\nlonger\n");
    }
}
