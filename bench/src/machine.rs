use std::fs;

use serde_json::{Value, json};

/// Where the figures were made.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) processors: usize,
    pub(crate) model: String,
    pub(crate) kernel: String,
    /// Load average over a minute, before and after.
    pub(crate) load: (f64, f64),
}

impl Machine {
    pub(crate) fn look() -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':').map(|(_, v)| v.trim()));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
        Self {
            processors: std::thread::available_parallelism().map_or(1, Into::into),
            model: model.unwrap_or("unknown").to_owned(),
            kernel,
            load: (load(), 0.0),
        }
    }

    pub(crate) fn look_again(&mut self) {
        self.load.1 = load();
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({ "processors": self.processors, "model": self.model, "kernel": self.kernel,
            "loadBefore": self.load.0, "loadAfter": self.load.1 })
    }
}

fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}

/// Processor time that a process has used, in seconds; 0 where `/proc` does not tell.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Fields after the name, which may hold blanks; utime and stime are the 14th and 15th of all, in 1/100 s.
    let fields: Vec<&str> = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// As [`cpu_seconds`], of a process and its children that live, as the ones that Postgres has for its connections.
pub(crate) fn family_seconds(pid: u32) -> f64 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    cpu_seconds(pid) + children.map(cpu_seconds).sum::<f64>()
}

/// Resident memory of a process in bytes.
pub(crate) fn resident_bytes(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0) * 1024.0
}
