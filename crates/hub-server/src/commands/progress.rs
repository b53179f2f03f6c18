use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use hub_storage::CopyProgress;

/// Between two changes of the line on a terminal.
const REDRAW: Duration = Duration::from_millis(100);
/// Between two lines about the same step elsewhere.
const REPEAT: Duration = Duration::from_secs(10);
/// Cells of the bar.
const WIDTH: u64 = 24;

/// One line on standard error that changes; where that is no terminal, a line per step.
pub(super) struct Line {
    terminal: bool,
    /// Nothing is shown: standard error is for the one error of a program's run.
    silent: bool,
    step: String,
    shown_at: Option<Instant>,
}

impl Line {
    pub(super) fn new(silent: bool) -> Self {
        Self { terminal: std::io::stderr().is_terminal(), silent, step: String::new(), shown_at: None }
    }

    /// One that is silent elsewhere than on a terminal unless the work takes long.
    pub(super) fn if_long(silent: bool) -> Self {
        let line = Self::new(silent);
        Self { shown_at: (!line.terminal).then(Instant::now), ..line }
    }

    /// Shows `text` unless it was just done.
    pub(super) fn show(&mut self, step: &str, text: impl FnOnce() -> String) {
        let pause = if self.terminal { REDRAW } else { REPEAT };
        if self.silent || self.step == step && self.shown_at.is_some_and(|at| at.elapsed() < pause) {
            return;
        }
        step.clone_into(&mut self.step);
        self.shown_at = Some(Instant::now());
        let mut out = std::io::stderr().lock();
        // Who has closed standard error wants no progress.
        let _gone = if self.terminal { write!(out, "\r\x1b[K{}", text()) } else { writeln!(out, "{}", text()) };
        let _gone = out.flush();
    }

    /// Removes the line.
    pub(super) fn end(&self) {
        if self.terminal && self.shown_at.is_some() {
            let _gone = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// The progress of a copy as one number: every row is copied, then read twice.
pub(super) struct Bar {
    /// Rows before the table, and rows of it.
    places: HashMap<&'static str, (u64, u64)>,
    total: u64,
    done: u64,
    last: Option<CopyProgress>,
    /// Whether it is the copy's rows that are read, no longer the source's.
    second: bool,
}

impl Bar {
    pub(super) fn new(sizes: &[(&'static str, u64)]) -> Self {
        let mut total = 0;
        let place = |(table, rows): &(&'static str, u64)| {
            let before = total;
            total += rows;
            (*table, (before, *rows))
        };
        let places = sizes.iter().map(place).collect();
        Self { places, total, done: 0, last: None, second: false }
    }

    /// Takes in where the copy is; answers what it does there and a line about it.
    pub(super) fn at(&mut self, now: CopyProgress) -> (String, String) {
        let (before, rows) = self.places.get(now.table).copied().unwrap_or_default();
        let last = self.last.filter(|last| last.table == now.table && last.comparing && now.comparing);
        self.second = last.is_some_and(|last| self.second || now.rows <= last.rows);
        self.last = Some(now);
        let at = match (now.comparing, self.second) {
            (false, _) => before + now.rows,
            (true, false) => self.total + 2 * before + now.rows,
            (true, true) => self.total + 2 * before + rows + now.rows,
        };
        // A table that grows against all rules must not turn the bar back.
        self.done = self.done.max(at.min(3 * self.total));
        let step = format!("{} {}", if now.comparing { "comparing" } else { "copying" }, now.table);
        let line = format!("{}  {step}: {} of {rows} rows", self.drawn(), now.rows);
        (step, line)
    }

    fn percent(&self) -> u64 {
        (100 * self.done).checked_div(3 * self.total).unwrap_or(100)
    }

    fn drawn(&self) -> String {
        let full = usize::try_from(WIDTH * self.percent() / 100).unwrap_or(0);
        let empty = usize::try_from(WIDTH).unwrap_or(0).saturating_sub(full);
        format!("[{}{}] {:>3} %", "#".repeat(full), ".".repeat(empty), self.percent())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_goes_forward_to_its_end() {
        let mut bar = Bar::new(&[("accounts", 1), ("calls", 1_000), ("edges", 0)]);
        let mut seen = Vec::new();
        for table in ["accounts", "calls", "edges"] {
            let steps: &[u64] = if table == "calls" { &[500, 1_000, 1_000] } else { &[u64::from(table == "accounts")] };
            for rows in steps {
                bar.at(CopyProgress { table, rows: *rows, comparing: false });
                seen.push(bar.percent());
            }
        }
        assert_eq!(bar.percent(), 33);
        for table in ["accounts", "calls", "edges"] {
            let steps: &[u64] = if table == "calls" { &[500, 1_000] } else { &[u64::from(table == "accounts")] };
            for rows in steps.iter().chain(steps) {
                bar.at(CopyProgress { table, rows: *rows, comparing: true });
                seen.push(bar.percent());
            }
        }
        assert!(seen.is_sorted(), "{seen:?}");
        assert_eq!(bar.percent(), 100);
        assert_eq!(Bar::new(&[]).percent(), 100);
    }
}
