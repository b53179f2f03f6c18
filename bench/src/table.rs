//! Tables for people.

use crate::report::{Figure, Report, Section};

/// Column heads.
pub(crate) const HEADS: [&str; 11] = [
    "case",
    "system",
    "median",
    "unit",
    "min-max",
    "server µs",
    "x relay",
    "x WebSocket",
    "x one hub",
    "x NATS",
    "aim",
];

/// Whether a column holds numbers, which go to the right.
pub(crate) const fn is_number(column: usize) -> bool {
    matches!(column, 2 | 4..=9)
}

/// The figure's cells, in the order of [`HEADS`].
pub(crate) fn cells(figure: &Figure) -> [String; 11] {
    let ratio = |r: Option<f64>| r.map(|r| format!("{r:.2}")).unwrap_or_default();
    let low = figure.runs.iter().copied().fold(f64::INFINITY, f64::min);
    let high = figure.runs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let spread = if figure.runs.len() > 1 { format!("{}-{}", number(low), number(high)) } else { String::new() };
    [
        figure.case.clone(),
        figure.system.to_owned(),
        number(figure.median()),
        figure.unit.to_owned(),
        spread,
        figure.cpu.map(|c| format!("{c:.1}")).unwrap_or_default(),
        ratio(figure.to_relay),
        ratio(figure.to_socket),
        ratio(figure.to_one),
        ratio(figure.to_nats),
        verdict(figure),
    ]
}

fn verdict(figure: &Figure) -> String {
    match figure.verdict() {
        None => String::new(),
        Some(true) => "reached".to_owned(),
        Some(false) => {
            let part = |aim: Option<f64>, ratio: Option<f64>, name: &str| {
                (ratio? > aim?).then(|| format!("missed: {:.1} of {name}", aim.unwrap_or_default()))
            };
            let (least, most) = (figure.aim.least, figure.aim.most);
            let passed = least.filter(|l| figure.median() < *l).or(most.filter(|m| figure.median() > *m));
            let parts = [
                part(figure.aim.relay, figure.to_relay, "relay"),
                part(figure.aim.nats, figure.to_nats, "NATS"),
                passed.map(|aim| format!("missed: {}", number(aim))),
            ];
            parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
        }
    }
}

/// Three figures that count, thousands apart.
pub(crate) fn number(value: f64) -> String {
    if value < 0.0 {
        return format!("-{}", number(-value));
    }
    if value < 100.0 {
        return format!("{value:.*}", if value < 10.0 { 2 } else { 1 });
    }
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Prints all sections.
pub(crate) fn print(report: &Report) {
    for section in &report.sections {
        println!("\n{}  [{}]", section.title, section.name);
        if !section.figures.is_empty() {
            rows(section);
        }
        section.missing.iter().for_each(|missing| println!("  not measured: {missing}"));
    }
    let machine = &report.machine;
    println!(
        "\n{} processors ({}), shared by clients and servers; load average {:.1} before, {:.1} after; {} turns each; {:.0} s",
        machine.processors, machine.model, machine.load.0, machine.load.1, report.turns, report.seconds
    );
    println!(
        "x relay, x one hub, x NATS: times slower than those (0.5 = twice as fast). server µs: processor time of the \
         servers per call or item."
    );
    if report.quick {
        println!("A quick run: short windows, rough figures.");
    }
}

fn rows(section: &Section) {
    let cells: Vec<[String; 11]> = section.figures.iter().map(cells).collect();
    let used = |column: usize| cells.iter().any(|row| !row[column].is_empty());
    let columns: Vec<usize> = (0..HEADS.len()).filter(|c| used(*c)).collect();
    let width = |c: usize| cells.iter().map(|row| row[c].chars().count()).chain([HEADS[c].chars().count()]).max();
    let line = |row: &[String; 11]| {
        let parts = columns.iter().map(|&c| {
            let (text, width) = (&row[c], width(c).unwrap_or(0));
            if is_number(c) { format!("{text:>width$}") } else { format!("{text:<width$}") }
        });
        println!("  {}", parts.collect::<Vec<_>>().join("  ").trim_end());
    };
    line(&HEADS.map(str::to_owned));
    let mut case = "";
    for (figure, row) in section.figures.iter().zip(&cells) {
        let mut row = row.clone();
        if figure.case == case {
            row[0].clear();
        }
        case = &figure.case;
        line(&row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        let shown = [1.234, 56.78, 999.4, 12_345.6, 1_234_567.0, -1_453.6].map(number);
        assert_eq!(shown, ["1.23", "56.8", "999", "12,346", "1,234,567", "-1,454"]);
    }
}
