use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::measure;

const ABOUT: &str = "\
Measures the released hub beside a bare WebSocket relay (the limit) and nats-server (where it is installed).

Every system is driven by the same kind of client over loopback, in turns (A B C, A B C, ...), and the table shows
medians. `x relay` and `x NATS` tell how many times slower than those the hub is: 1.0 is as fast, 2.0 takes twice as
long, 0.5 half as long. The aims are 2.0 of the relay, and 1.0 of NATS request-reply at 64 calls in flight.";

const EXAMPLES: &str = "\
Examples:
  cargo xtask bench                                  everything, some minutes
  cargo xtask bench --quick                          everything in small, about two minutes
  cargo xtask bench --only routed --only http        two measures
  cargo xtask bench --markdown docs/benchmarks.md    also writes the page for the repository
  cargo xtask bench --only routed --json out.json    also writes every run's figure, to compare two builds

  cargo xtask bench --soak 20 --hub target/...       keeps a hub busy for a profiler (build it with symbols)

Before you trust a figure: close what else uses the processors, look at the column `min-max`, and compare ratios of one
run rather than figures of two. Clients and server share the machine's processors, as all figures here say.";

/// What to run and where to write it.
#[derive(Debug, Parser)]
#[command(name = "hub-bench", version, about = "Benchmarks of the hub", long_about = ABOUT, after_help = EXAMPLES)]
pub(crate) struct Options {
    /// Small loads and short windows: about two minutes, with rougher figures
    #[arg(long)]
    pub(crate) quick: bool,
    /// Only this measure; may be given more than once (see --list)
    #[arg(long, value_name = "NAME", value_parser = known())]
    pub(crate) only: Vec<String>,
    /// Names the measures
    #[arg(long)]
    pub(crate) list: bool,
    /// Measures nothing: keeps the hub under load for so long, for a profiler
    #[arg(long, value_name = "SECONDS")]
    pub(crate) soak: Option<u64>,
    /// How often each system has its turn; at least 3
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(3..=50))]
    pub(crate) turns: u32,
    /// Writes all figures as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Writes the page docs/benchmarks.md
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,
    /// The hub to measure, instead of one built now by `cargo build --release -p hub-server`
    #[arg(long, value_name = "BINARY")]
    pub(crate) hub: Option<PathBuf>,
}

fn known() -> clap::builder::PossibleValuesParser {
    measure::ALL.iter().map(|m| m.name).collect::<Vec<_>>().into()
}

impl Options {
    pub(crate) fn read() -> Self {
        Self::parse()
    }

    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }

    /// The first of the two in a quick run, else the second.
    pub(crate) fn size<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    /// How long one turn is warmed up and measured.
    pub(crate) fn window(&self) -> (Duration, Duration) {
        self.size((ms(80), ms(250)), (ms(300), ms(1_000)))
    }
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
