//! The page for the repository.

use crate::report::{Report, Section};
use crate::table::{HEADS, cells, is_number};

const INTRO: &str = "\
# Benchmarks

Written by `cargo xtask bench --markdown docs/benchmarks.md`; do not edit. `cargo xtask bench --help` tells how to run it
on your machine, where only ratios of one run should be compared.

The hub runs as the released binary in a process of its own, over loopback, with everything on: schema validation,
rights, recording with `synchronous=FULL`. One setting differs from the defaults: `--max-in-flight 4096`, so that 1,024
calls over one connection do not meet that limit. Beside it, in turns, run

- a **bare relay**: a WebSocket relay with the same four hops and the same shape (a reader and a coalescing writer per
  connection), which finds the receiver at a fixed place in the message and knows nothing else. It is the limit;
- **`nats-server`** request-reply, through a minimal client of its text protocol over plain TCP.

The clients of all three are of the same kind and cost: one task per connection that reads all there is, then writes
once, finds ids at fixed places and parses no JSON. So is the callee. Only the rows `by SDK` use the SDK on both ends,
as agents do. *x relay* and *x NATS* are how many times slower than those the hub is (0.5 is twice as fast). *server µs*
is the processor time of the server processes per call or item. Hubs that share a Postgres and a Redis are compared to
*one hub* on the same two.

Aims: 2.0 of the relay, 1.0 of NATS at 64 calls in flight, and 2 ms for 99 of 100 searches.
";

/// The whole page.
pub(crate) fn page(report: &Report) -> String {
    let machine = &report.machine;
    let mut out = String::from(INTRO);
    let run = format!(
        "This run: {} processors ({}), Linux {}, shared by clients, servers and whatever else ran (other builds may \
         have); load average {:.1} before, {:.1} after; {} turns each, medians shown{}.",
        machine.processors,
        machine.model,
        machine.kernel,
        machine.load.0,
        machine.load.1,
        report.turns,
        if report.quick { "; a quick run with short windows" } else { "" },
    );
    out.push_str(&format!("\n{}\n", wrapped(&run)));
    for part in &report.sections {
        section(&mut out, part);
    }
    out
}

fn section(out: &mut String, section: &Section) {
    let rows: Vec<[String; 11]> = section.figures.iter().map(cells).collect();
    let columns: Vec<usize> = (0..HEADS.len()).filter(|c| rows.iter().any(|row| !row[*c].is_empty())).collect();
    let line = |row: &[String; 11]| {
        let parts: Vec<&str> = columns.iter().map(|c| row[*c].as_str()).collect();
        format!("| {} |\n", parts.join(" | "))
    };
    let rules: Vec<&str> = columns.iter().map(|c| if is_number(*c) { "---:" } else { "---" }).collect();
    out.push_str(&format!("\n## {}\n\n{}\n\n", section.title, wrapped(section.how)));
    if !rows.is_empty() {
        out.push_str(&line(&HEADS.map(str::to_owned)));
        out.push_str(&format!("| {} |\n", rules.join(" | ")));
        rows.iter().for_each(|row| out.push_str(&line(row)));
    }
    section.missing.iter().for_each(|missing| out.push_str(&format!("\nNot measured: {missing}.\n")));
    out.push_str(&format!("\n{}\n", wrapped(&format!("**Bound by.** {}", section.bound))));
}

/// Lines of at most 120 characters.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last().map_or(0, |l| l.chars().count());
        if line > 0 && line + 1 + word.chars().count() > 120 {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.join("\n")
}
