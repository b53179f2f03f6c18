use serde_json::{Value, json};

use crate::machine::Machine;
use crate::stats::median;

/// Whether more or less is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    More,
    Less,
}

/// One system's figure of one case.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    pub(crate) case: String,
    pub(crate) system: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    /// One value per turn.
    pub(crate) runs: Vec<f64>,
    /// Processor time of the servers per call or item, in microseconds.
    pub(crate) cpu: Option<f64>,
    /// Times slower than the relay, than a WebSocket, than one hub and than NATS.
    pub(crate) to_relay: Option<f64>,
    pub(crate) to_socket: Option<f64>,
    pub(crate) to_one: Option<f64>,
    pub(crate) to_nats: Option<f64>,
    /// What is aimed at.
    pub(crate) aim: Aim,
}

/// Most times slower than each, or a figure of its own; `None` where nothing is aimed at.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Aim {
    pub(crate) relay: Option<f64>,
    pub(crate) nats: Option<f64>,
    /// The least that is aimed at, in the figure's unit.
    pub(crate) least: Option<f64>,
    /// The most that is aimed at, in the figure's unit.
    pub(crate) most: Option<f64>,
}

/// Names of the systems that others are compared to.
pub(crate) const RELAY: &str = "bare relay";
pub(crate) const NATS: &str = "nats-server";
pub(crate) const SOCKET: &str = "WebSocket";
pub(crate) const ONE_HUB: &str = "one hub";
/// Where there are two nodes, hubs are compared to these.
pub(crate) const NATS_PAIR: &str = "nats-server, two nodes";

impl Figure {
    pub(crate) fn new(case: impl Into<String>, system: &'static str, unit: &'static str, better: Better) -> Self {
        let (to_relay, to_socket, to_one, to_nats, cpu) = (None, None, None, None, None);
        let (case, runs, aim) = (case.into(), Vec::new(), Aim::default());
        Self { case, system, unit, better, runs, cpu, to_relay, to_socket, to_one, to_nats, aim }
    }

    /// A figure of one value.
    pub(crate) fn once(
        case: impl Into<String>,
        system: &'static str,
        unit: &'static str,
        better: Better,
        v: f64,
    ) -> Self {
        Self { runs: vec![v], ..Self::new(case, system, unit, better) }
    }

    pub(crate) fn median(&self) -> f64 {
        median(&self.runs)
    }

    fn slower_than(&self, other: &Self) -> Option<f64> {
        let (own, base) = (self.median(), other.median());
        (own > 0.0 && base > 0.0).then(|| if self.better == Better::More { base / own } else { own / base })
    }

    /// Whether the aims are reached; `None` where there are none, or nothing to compare with.
    pub(crate) fn verdict(&self) -> Option<bool> {
        let reached = |aim: Option<f64>, ratio: Option<f64>| Some(ratio? <= aim?);
        let least = self.aim.least.map(|least| self.median() >= least);
        let most = self.aim.most.map(|most| self.median() <= most);
        let parts = [reached(self.aim.relay, self.to_relay), reached(self.aim.nats, self.to_nats), least, most];
        parts.into_iter().flatten().reduce(|a, b| a && b)
    }
}

/// All figures of a measure.
#[derive(Debug, Clone)]
pub(crate) struct Section {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// What was measured, and how.
    pub(crate) how: &'static str,
    /// What bounds the figures.
    pub(crate) bound: &'static str,
    pub(crate) figures: Vec<Figure>,
    /// What could not be measured, and why.
    pub(crate) missing: Vec<String>,
}

impl Section {
    /// Fills in the ratios.
    pub(crate) fn compared(mut self) -> Self {
        let all = self.figures.clone();
        let nats = if all.iter().any(|f| f.system == NATS_PAIR) { NATS_PAIR } else { NATS };
        for figure in &mut self.figures {
            let of = |system: &str| {
                let other =
                    all.iter().find(|f| f.case == figure.case && f.unit == figure.unit && f.system == system)?;
                (figure.system != system).then(|| figure.slower_than(other))?
            };
            (figure.to_relay, figure.to_socket, figure.to_one, figure.to_nats) =
                (of(RELAY), of(SOCKET), of(ONE_HUB), of(nats));
        }
        self
    }

    fn to_json(&self) -> Value {
        let figures: Vec<Value> = self
            .figures
            .iter()
            .map(|f| {
                json!({ "case": f.case, "system": f.system, "unit": f.unit, "median": f.median(), "runs": f.runs,
                    "serverCpuMicros": f.cpu, "timesRelay": f.to_relay, "timesSocket": f.to_socket, "timesOneHub": f.to_one,
                    "timesNats": f.to_nats, "reached": f.verdict() })
            })
            .collect();
        json!({ "name": self.name, "title": self.title, "figures": figures, "missing": self.missing })
    }
}

/// A whole run.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) quick: bool,
    pub(crate) turns: u32,
    pub(crate) seconds: f64,
    pub(crate) sections: Vec<Section>,
}

impl Report {
    pub(crate) fn to_json(&self) -> Value {
        let sections: Vec<Value> = self.sections.iter().map(Section::to_json).collect();
        json!({ "machine": self.machine.to_json(), "quick": self.quick, "turns": self.turns, "seconds": self.seconds,
            "sections": sections })
    }
}
