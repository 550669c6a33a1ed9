//! What a handful of samples says.

/// The value below which `share` of the samples lie, interpolated; NaN of nothing.
pub fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let position = share * last as f64;
    let (below, above) = (
        sorted[position.floor() as usize],
        sorted[position.ceil() as usize],
    );
    below + (above - below) * position.fract()
}

pub fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

/// Distance between the quartiles.
pub fn spread(samples: &[f64]) -> f64 {
    quantile(samples, 0.75) - quantile(samples, 0.25)
}

/// Median and spread, for a person to read.
pub fn describe(samples: &[f64]) -> String {
    if samples.is_empty() {
        return "failed".to_owned();
    }
    format!("{} ± {}", short(median(samples)), short(spread(samples)))
}

/// Three digits or so, with thousands kept apart: what there is to compare are orders of magnitude.
pub fn short(value: f64) -> String {
    if value >= 10_000.0 {
        grouped(value)
    } else if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 1.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}

/// Digits in groups of three, apart by a space that does not break.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{a0}');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate() {
        let samples = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(median(&samples), 2.5);
        assert_eq!(quantile(&samples, 0.0), 1.0);
        assert_eq!(quantile(&samples, 1.0), 4.0);
        assert_eq!(quantile(&[7.0], 0.75), 7.0);
        assert_eq!(spread(&[1.0, 2.0, 3.0, 4.0, 5.0]), 2.0);
        assert!(median(&[]).is_nan());
        assert_eq!(describe(&[]), "failed");
    }

    #[test]
    fn numbers_are_shown_as_exactly_as_needed() {
        let shown = [0.1234, 1.234, 123.4, 12_345.6, 1_234_567.0].map(short);
        let expected = ["0.123", "1.23", "123", "12\u{a0}346", "1\u{a0}234\u{a0}567"];
        assert_eq!(shown, expected);
    }
}
