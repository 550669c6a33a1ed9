//! Text tables.

/// Three blanks between columns, nothing after the last.
const GAP: usize = 3;

/// Pads every column to its widest cell. The result has no newline at its end.
pub fn align<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let widths: [usize; COLUMNS] = std::array::from_fn(|column| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    });
    let lines = rows.iter().map(|row| {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + GAP));
        }
        line.truncate(line.trim_end().len());
        line
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["ID", "PID"], ["é", "1"], ["long", ""]].map(|row| row.map(str::to_owned));
        assert_eq!(align(&rows), "ID     PID\né      1\nlong");
    }
}
