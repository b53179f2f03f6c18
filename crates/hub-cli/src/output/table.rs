use super::{Paint, Style, clean, cut};

/// Narrowest last column that is worth showing.
const LAST: usize = 12;

/// One field of a table.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    paint: Paint,
}

impl Cell {
    pub(crate) fn new(text: impl AsRef<str>, paint: Paint) -> Self {
        Self { text: clean(text.as_ref()), paint }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Paint::Plain)
    }
}

/// Columns of text. Only the last one is ever cut, and only for a terminal: ids must stay whole to be copied.
#[derive(Debug)]
pub(crate) struct Table {
    heads: Vec<Cell>,
    right: Vec<bool>,
    rows: Vec<Vec<Cell>>,
    wrap: bool,
}

impl Table {
    /// `>` before a head aligns its column to the right.
    pub(crate) fn new(heads: &[&str]) -> Self {
        let right = heads.iter().map(|head| head.starts_with('>')).collect();
        let heads = heads.iter().map(|head| Cell::new(head.trim_start_matches('>'), Paint::Dim)).collect();
        Self { heads, right, rows: Vec::new(), wrap: false }
    }

    /// Two columns without heads: names and values.
    pub(crate) fn facts() -> Self {
        Self { heads: Vec::new(), right: vec![false; 2], rows: Vec::new(), wrap: true }
    }

    /// Breaks the last column into lines where it would be cut: for what people read whole.
    pub(crate) const fn wrapping(mut self) -> Self {
        self.wrap = true;
        self
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(crate) fn fact(&mut self, name: &str, value: impl Into<Cell>) {
        self.row([Cell::new(name, Paint::Dim), value.into()]);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn render(&self, style: Style, width: Option<usize>) -> String {
        let heads = (!self.heads.is_empty()).then_some(&self.heads);
        let lines: Vec<&Vec<Cell>> = heads.into_iter().chain(&self.rows).collect();
        let last = self.right.len().saturating_sub(1);
        let widths: Vec<usize> = (0..=last)
            .map(|i| lines.iter().filter_map(|line| line.get(i)).map(|c| c.text.chars().count()).max().unwrap_or(0))
            .collect();
        let before: usize = widths.iter().take(last).map(|w| w + 2).sum();
        let room = width.map(|width| width.saturating_sub(before).max(LAST));
        let mut text = String::new();
        for line in lines {
            for part in self.parts(line, last, room) {
                text.push_str(self.line(&part, &widths, style).trim_end());
                text.push('\n');
            }
        }
        text
    }

    /// A row as the lines it takes.
    fn parts(&self, cells: &[Cell], last: usize, room: Option<usize>) -> Vec<Vec<Cell>> {
        let mut cells = cells.to_vec();
        let (Some(room), Some(cell)) = (room, cells.get_mut(last)) else { return vec![cells] };
        if !self.wrap {
            cell.text = cut(&cell.text, room);
            return vec![cells];
        }
        let paint = cell.paint;
        let mut pieces = wrap(&cell.text, room).into_iter();
        cell.text = pieces.next().unwrap_or_default();
        let more = pieces.map(|piece| {
            let mut line = vec![Cell::new("", Paint::Plain); last];
            line.push(Cell::new(piece, paint));
            line
        });
        std::iter::once(cells).chain(more).collect()
    }

    fn line(&self, cells: &[Cell], widths: &[usize], style: Style) -> String {
        let last = widths.len().saturating_sub(1);
        let mut text = String::new();
        for (i, (cell, width)) in cells.iter().zip(widths).enumerate() {
            // Padding stays outside of the colour, and outside of what the last column has.
            let gap = " ".repeat(width.saturating_sub(cell.text.chars().count()));
            let painted = style.paint(cell.paint, &cell.text);
            match (self.right.get(i) == Some(&true), i == last) {
                (true, _) => text.extend([gap.as_str(), painted.as_str(), "  "]),
                (false, true) => text.push_str(&painted),
                (false, false) => text.extend([painted.as_str(), gap.as_str(), "  "]),
            }
        }
        text
    }
}

/// Breaks a text at its spaces into lines of at most `width` characters; a longer word stays whole.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > width {
            lines.push(String::new());
            used = 0;
        }
        if let Some(line) = lines.last_mut() {
            if used > 0 {
                line.push(' ');
                used += 1;
            }
            line.push_str(word);
            used += length;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style { colour: false };

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["NAME", ">COUNT", "WHAT"]);
        table.row(["a".into(), "1".into(), "short".into()]);
        table.row(["longer".into(), "100".into(), "a long description".into()]);
        assert_eq!(
            table.render(PLAIN, None),
            "NAME    COUNT  WHAT\n\
             a           1  short\n\
             longer    100  a long description\n"
        );
        assert_eq!(
            table.render(PLAIN, Some(27)),
            "NAME    COUNT  WHAT\n\
             a           1  short\n\
             longer    100  a long desc…\n"
        );
    }

    #[test]
    fn a_wrapping_column_is_whole() {
        let mut table = Table::new(&["NAME", "WHAT"]).wrapping();
        table.row(["a".into(), "some words that go on".into()]);
        assert_eq!(
            table.render(PLAIN, Some(18)),
            "NAME  WHAT\n\
             a     some words\n      that go on\n"
        );
        assert_eq!(wrap("", 5), [""]);
        assert_eq!(wrap("toolongword x", 5), ["toolongword", "x"]);
    }

    #[test]
    fn facts_have_no_heads_and_cells_no_controls() {
        let mut table = Table::facts();
        table.fact("hub", "x\ny\u{1b}");
        table.fact("version", "1");
        assert_eq!(table.render(PLAIN, None), "hub      x y\u{fffd}\nversion  1\n");
    }

    #[test]
    fn colour_does_not_count_as_width() {
        let mut table = Table::new(&["A", "B"]);
        table.row([Cell::new("x", Paint::Red), "y".into()]);
        let text = table.render(Style { colour: true }, None);
        assert_eq!(text, "\x1b[2mA\x1b[0m  \x1b[2mB\x1b[0m\n\x1b[31mx\x1b[0m  y\n");
    }
}
