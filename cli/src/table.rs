//! Plain text tables and numbers for people.

/// One column: its heading, and whether it is a number (to the right) or a word (to the left).
pub struct Column {
    heading: &'static str,
    width: usize,
    right: bool,
}

/// A column of words, at least this wide.
pub const fn word(heading: &'static str, width: usize) -> Column {
    Column { heading, width, right: false }
}

/// A column of numbers, at least this wide.
pub const fn number(heading: &'static str, width: usize) -> Column {
    Column { heading, width, right: true }
}

/// A table that is printed row by row, so that a long run shows what it has.
pub struct Table {
    columns: Vec<Column>,
}

impl Table {
    /// A table with these columns.
    pub fn new(columns: Vec<Column>) -> Table {
        Table { columns }
    }

    /// The line of headings.
    pub fn header(&self) -> String {
        self.line(&self.columns.iter().map(|column| column.heading.to_owned()).collect::<Vec<_>>())
    }

    /// One row.
    pub fn line(&self, cells: &[String]) -> String {
        let mut line = String::new();
        for (column, cell) in self.columns.iter().zip(cells) {
            let width = column.width.max(column.heading.chars().count());
            if !line.is_empty() {
                line.push_str("  ");
            }
            let cell = if column.right { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
            line.push_str(&cell);
        }
        line.trim_end().to_owned()
    }
}

/// `1234567` as `1.23 M`, with three digits that count.
pub fn si(x: f64) -> String {
    let (scaled, unit) = match x.abs() {
        a if a >= 1e9 => (x / 1e9, " G"),
        a if a >= 1e6 => (x / 1e6, " M"),
        a if a >= 1e3 => (x / 1e3, " k"),
        _ => (x, ""),
    };
    format!("{}{unit}", digits(scaled))
}

/// A number of bytes in binary units.
pub fn bytes(n: usize) -> String {
    let x = n as f64;
    match n {
        0..1024 => format!("{n} B"),
        1024..1_048_576 => format!("{} KiB", digits(x / 1024.0)),
        1_048_576..1_073_741_824 => format!("{} MiB", digits(x / 1_048_576.0)),
        _ => format!("{} GiB", digits(x / 1_073_741_824.0)),
    }
}

/// Three digits that count, no exponent, and no decimals for whole numbers.
pub fn digits(x: f64) -> String {
    match x.abs() {
        _ if x.fract() == 0.0 && x.abs() < 1e4 => format!("{x}"),
        a if a >= 100.0 => format!("{x:.0}"),
        a if a >= 10.0 => format!("{x:.1}"),
        a if a >= 0.1 => format!("{x:.2}"),
        _ => format!("{x:.4}"),
    }
}
