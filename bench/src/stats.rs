use std::time::{Duration, Instant};

/// When a load is warmed up and measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    from: Instant,
    to: Instant,
}

impl Window {
    /// Starts now.
    pub(crate) fn open((warm, measured): (Duration, Duration)) -> Self {
        let from = Instant::now() + warm;
        Self { from, to: from + measured }
    }

    pub(crate) fn is_over(&self, now: Instant) -> bool {
        now >= self.to
    }

    pub(crate) fn from(&self) -> Instant {
        self.from
    }

    pub(crate) fn to(&self) -> Instant {
        self.to
    }

    pub(crate) fn seconds(&self) -> f64 {
        (self.to - self.from).as_secs_f64()
    }
}

/// What one connection has seen within the window.
#[derive(Debug)]
pub(crate) struct Tally {
    window: Window,
    /// Nanoseconds of each call.
    latencies: Vec<u32>,
    /// Calls and items.
    pub(crate) count: u64,
}

impl Tally {
    pub(crate) fn new(window: Window) -> Self {
        Self { window, latencies: Vec::new(), count: 0 }
    }

    /// Notes a call that was sent at `sent` and answered at `now`.
    pub(crate) fn note(&mut self, sent: Instant, now: Instant) {
        if self.covers(now) {
            self.count += 1;
            self.latencies.push(u32::try_from((now - sent).as_nanos()).unwrap_or(u32::MAX));
        }
    }

    /// Notes items that came at `now`.
    pub(crate) fn items(&mut self, now: Instant, items: u64) {
        if self.covers(now) {
            self.count += items;
        }
    }

    fn covers(&self, now: Instant) -> bool {
        now >= self.window.from && now < self.window.to
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.count += other.count;
        self.latencies.extend(other.latencies);
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark are far below 2^52")]
    pub(crate) fn per_second(&self) -> f64 {
        self.count as f64 / self.window.seconds()
    }

    /// Latency in microseconds within which `part` of the calls stay.
    pub(crate) fn micros(&mut self, part: f64) -> f64 {
        if self.latencies.is_empty() {
            return 0.0;
        }
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "index"
        )]
        let at = ((self.latencies.len() - 1) as f64 * part).round() as usize;
        let (_, value, _) = self.latencies.select_nth_unstable(at);
        f64::from(*value) / 1000.0
    }
}

/// The middle value; the mean of the two in the middle for an even number.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles_are_of_the_middle() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        let window = Window::open((Duration::ZERO, Duration::from_secs(60)));
        let mut tally = Tally::new(window);
        for micros in 1..=100u64 {
            let sent = window.from();
            tally.note(sent, sent + Duration::from_micros(micros));
        }
        assert_eq!((tally.micros(0.5).round(), tally.micros(0.99).round()), (51.0, 99.0));
    }
}
