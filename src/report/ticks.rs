//! Round numbers for an axis: steps of 1, 2 or 5 times a power of ten, or on a logarithmic axis these numbers themselves.

/// The ticks of one axis and how their labels are written.
#[derive(Debug, Clone, PartialEq)]
pub struct Ticks {
    /// The values, rising; the first and last enclose the data.
    pub values: Vec<f64>,
    /// The distance of two neighbours; `None` where that grows.
    step: Option<f64>,
}

impl Ticks {
    /// About `count` ticks around `low..=high`, at least `least_step` apart (0 for no limit; 1 for whole
    /// numbers).
    ///
    /// # Panics
    /// If the bounds are not finite.
    pub fn around(low: f64, high: f64, count: usize, least_step: f64) -> Ticks {
        assert!(low.is_finite() && high.is_finite(), "an axis has finite bounds, got {low} to {high}");
        let span = match high - low {
            span if span > 0.0 => span,
            // One value only: give it an axis of its own size.
            _ => high.abs().max(1e-6),
        };
        let step = nice_step(span / count.max(1) as f64).max(least_step);
        // Rounding noise must not add a tick: 0.3 / 0.1 is a little less than 3.
        let first = (low / step + 1e-9).floor() as i64;
        let last = ((high / step - 1e-9).ceil() as i64).max(first + 1);
        Ticks { values: (first..=last).map(|tick| tick as f64 * step).collect(), step: Some(step) }
    }

    /// About `count` ticks around `low..=high` for a logarithmic axis: 1, 2 and 5 times the powers of ten, or as many of the
    /// powers as there is room for.
    ///
    /// # Panics
    /// If the bounds are not finite, or not positive.
    pub fn logarithmic(low: f64, high: f64, count: usize) -> Ticks {
        assert!(low > 0.0 && high.is_finite(), "a logarithmic axis has positive bounds, got {low} to {high}");
        let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        let decades = (last - first).max(1) as usize;
        let digits: &[u32] = if 3.0 * (high / low).log10() <= (count + 1) as f64 { &[1, 2, 5] } else { &[1] };
        let every = decades.div_ceil(count.max(1));
        let exponents = (first..first + decades as i32 + every as i32).step_by(every);
        let all: Vec<f64> =
            exponents.flat_map(|exponent| digits.iter().map(move |&d| decimal(d, exponent))).collect();
        let begin = all.iter().rposition(|&value| value <= low).unwrap_or(0);
        let end = all.iter().position(|&value| value >= high).unwrap_or(all.len() - 1).max(begin + 1);
        Ticks { values: all[begin..=end].to_vec(), step: None }
    }

    /// The first value.
    pub fn low(&self) -> f64 {
        self.values[0]
    }

    /// The last value.
    pub fn high(&self) -> f64 {
        self.values[self.values.len() - 1]
    }

    /// The label of `value`: as many decimals as the step needs, `20k` for thousands, `5e-5` for very small
    /// steps.
    pub fn label(&self, value: f64) -> String {
        if value == 0.0 {
            return "0".to_string();
        }
        let Some(step) = self.step else {
            return if (1e-3..1e4).contains(&value) { value.to_string() } else { format!("{value:e}") };
        };
        if step >= 1_000.0 {
            return format!("{}k", value / 1_000.0);
        }
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        if decimals > 4 {
            let mantissa_decimals = ((value / step).abs().log10().floor() as usize).min(3);
            return format!("{value:.mantissa_decimals$e}");
        }
        format!("{value:.decimals$}")
    }
}

/// The smallest of 1, 2, 5 times a power of ten that is not below `rough`.
fn nice_step(rough: f64) -> f64 {
    let exponent = rough.log10().floor() as i32;
    let candidates = [1, 2, 5, 10].map(|digit| decimal(digit, exponent));
    candidates.into_iter().find(|candidate| *candidate >= rough * (1.0 - 1e-9)).unwrap_or(candidates[3])
}

/// `digit` times a power of ten.
fn decimal(digit: u32, exponent: i32) -> f64 {
    match exponent {
        // A quotient of exact numbers is the nearest number to the decimal fraction; a product is not.
        ..0 => f64::from(digit) / 10_f64.powi(-exponent),
        0.. => f64::from(digit) * 10_f64.powi(exponent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(low: f64, high: f64, count: usize, least_step: f64) -> Vec<String> {
        let ticks = Ticks::around(low, high, count, least_step);
        ticks.values.iter().map(|&value| ticks.label(value)).collect()
    }

    #[test]
    fn ticks_are_round_and_enclose_the_data() {
        assert_eq!(labels(0.0, 87.3, 5, 0.0), ["0", "20", "40", "60", "80", "100"]);
        assert_eq!(labels(0.13, 0.3, 5, 0.0), ["0.10", "0.15", "0.20", "0.25", "0.30"]);
        assert_eq!(labels(3.72, 4.6, 4, 0.0), ["3.5", "4.0", "4.5", "5.0"]);
        assert_eq!(labels(-1.0, 1.0, 4, 0.0), ["-1.0", "-0.5", "0", "0.5", "1.0"]);
        assert_eq!(labels(0.0, 23_000.0, 5, 0.0), ["0", "5k", "10k", "15k", "20k", "25k"]);
        assert_eq!(labels(0.0, 4.5e-5, 5, 0.0), ["0", "1e-5", "2e-5", "3e-5", "4e-5", "5e-5"]);
    }

    #[test]
    fn logarithmic_ticks_enclose_the_data_and_are_few() {
        let labels = |low, high| {
            let ticks = Ticks::logarithmic(low, high, 5);
            ticks.values.iter().map(|&value| ticks.label(value)).collect::<Vec<_>>()
        };
        assert_eq!(labels(0.03, 4.6), ["0.01", "0.1", "1", "10"]);
        assert_eq!(labels(2.5, 170.0), ["2", "5", "10", "20", "50", "100", "200"]);
        assert_eq!(labels(1.0, 1.0), ["1", "2"]);
        assert_eq!(labels(1e-5, 20.0), ["1e-5", "0.001", "0.1", "10", "1000"]);
        for (low, high) in [(3e-9, 4e30), (0.7, 5e4), (1e-300, 1e300)] {
            let ticks = Ticks::logarithmic(low, high, 5);
            assert!(ticks.low() <= low && high <= ticks.high(), "{low} to {high}: {:?}", ticks.values);
            assert!(ticks.values.len() <= 8, "{:?}", ticks.values);
        }
    }

    #[test]
    fn whole_numbers_stay_whole() {
        assert_eq!(labels(0.0, 3.0, 6, 1.0), ["0", "1", "2", "3"]);
        assert_eq!(labels(1.0, 1.0, 6, 1.0), ["1", "2"]);
    }

    #[test]
    fn one_value_has_an_axis() {
        for value in [0.0, 2.5, -3.0, 1e-30, 1e12] {
            let ticks = Ticks::around(value, value, 5, 0.0);
            assert!(ticks.low() <= value && value <= ticks.high() && ticks.low() < ticks.high(), "{value}");
            assert!(ticks.values.len() <= 7, "{value}: {:?}", ticks.values);
        }
    }
}
