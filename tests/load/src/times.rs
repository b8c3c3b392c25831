//! What is the middle of many times, and which is the last? Plain.

use serde::{Deserialize, Serialize};

/// Nanoseconds on the clock that all processes of this machine share.
pub(crate) fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let part = |number: i64| u64::try_from(number).unwrap_or(0);
    part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec)
}

/// Milliseconds between two readings of [`now`].
pub(crate) fn ms(from: u64, to: u64) -> f64 {
    to.saturating_sub(from) as f64 / 1e6
}

/// How many times lie, in ms.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    /// How many there are.
    pub(crate) count: usize,
    pub(crate) first: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) last: f64,
}

impl Spread {
    /// Of times in ms; `None` if there are none.
    pub(crate) fn of(mut times: Vec<f64>) -> Option<Spread> {
        times.sort_by(f64::total_cmp);
        let (first, last) = (*times.first()?, *times.last()?);
        Some(Spread { count: times.len(), first, p50: rank(&times, 0.50), p99: rank(&times, 0.99), last })
    }

    /// Of readings of [`now`], counted from `start`.
    pub(crate) fn since(start: u64, moments: impl IntoIterator<Item = u64>) -> Option<Spread> {
        Spread::of(moments.into_iter().map(|moment| ms(start, moment)).collect())
    }

    /// Of each figure its median over the rounds; `None` without a round.
    pub(crate) fn median(rounds: &[Spread]) -> Option<Spread> {
        let middle = |figure: fn(&Spread) -> f64| median(rounds.iter().map(figure).collect());
        let count = rounds.first()?.count;
        let (first, p50) = (middle(|round| round.first)?, middle(|round| round.p50)?);
        Some(Spread { count, first, p50, p99: middle(|round| round.p99)?, last: middle(|round| round.last)? })
    }
}

/// The middle one of them, or the lesser of two; `None` if there are none.
pub(crate) fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    (!figures.is_empty()).then(|| rank(&figures, 0.50))
}

/// The nearest rank: the least of them that so large a part is not above. There must be one.
fn rank(sorted: &[f64], part: f64) -> f64 {
    let place = (part * sorted.len() as f64).ceil() as usize;
    sorted[place.clamp(1, sorted.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_seen() {
        let spread = Spread::of((1..=200).rev().map(f64::from).collect()).expect("times");
        assert_eq!(spread, Spread { count: 200, first: 1.0, p50: 100.0, p99: 198.0, last: 200.0 });
        let one = Spread::of(vec![7.0]).expect("a time");
        assert_eq!((one.first, one.p50, one.p99, one.last), (7.0, 7.0, 7.0, 7.0));
        assert_eq!(Spread::of(Vec::new()), None);
        assert_eq!(Spread::since(1_000_000, [3_500_000]).map(|spread| spread.last), Some(2.5));
    }

    #[test]
    fn the_median_of_rounds_takes_each_figure_for_itself() {
        let round = |p50, last| Spread { count: 10, first: 0.0, p50, p99: p50, last };
        let median = Spread::median(&[round(1.0, 30.0), round(3.0, 10.0), round(2.0, 20.0)]).expect("rounds");
        assert_eq!((median.p50, median.last), (2.0, 20.0));
        assert_eq!(Spread::median(&[]), None);
    }
}
